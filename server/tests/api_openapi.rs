//! The API's own description, against the API.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::collections::BTreeSet;

use rig::{Server, http::Http};

/// What stands for a path's parameters: nothing that exists.
fn filled(path: &str) -> String {
    let fill = |word: &str| match word {
        "{act}" => "suspend".to_owned(),
        word if word.starts_with('{') => "ZZ-0".to_owned(),
        word => word.to_owned(),
    };
    path.split('/').map(fill).collect::<Vec<_>>().join("/")
}

#[test]
fn what_is_described_is_what_is_served() {
    let server = Server::start();
    let http = Http::new(&server);
    let document = http.get("/v1/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        let described: BTreeSet<String> =
            operations.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        for method in &described {
            if path == "/v1/stream" {
                // It lasts; tested on its own.
                assert_eq!(http.events(path, "").status(), 200);
                continue;
            }
            let answer = http.ask(method, &filled(path), "", b"");
            let unknown = answer.json()["code"] == "M510" && answer.json()["what"] == "no such resource";
            assert!(answer.status != 405 && !unknown, "{method} {path}: {answer:?}");
            let described = &document["paths"][path][method.to_lowercase()]["responses"];
            assert!(described.get(answer.status.to_string()).is_some(), "{method} {path}: {answer:?}");
        }
        // The other way: what the router takes there is described, and nothing else is taken.
        let refused = http.ask("PATCH", &filled(path), "", b"");
        assert_eq!(refused.status, 405, "{path}");
        let allowed: BTreeSet<String> =
            refused.header("allow").unwrap().split(',').map(str::to_owned).collect();
        let mut with_head = described.clone();
        if described.contains("GET") {
            with_head.insert("HEAD".to_owned());
        }
        assert_eq!(allowed, with_head, "{path}");
    }
    let listed = http.get("/v1").json();
    let listed: BTreeSet<_> =
        listed["items"].as_array().unwrap().iter().map(|of| of["path"].as_str().unwrap()).collect();
    assert_eq!(listed, paths.keys().map(String::as_str).collect());
}

/// Routes are added in one place, where they are described too.
#[test]
fn no_route_is_added_beside_the_list() {
    fn look(dir: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if name != "routes.rs" && text.contains(".route(") {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    let mut found = Vec::new();
    look(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert_eq!(found, Vec::<String>::new());
}
