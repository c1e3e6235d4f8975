//! Writes about those who decide: operators, their links, their tokens.

use serde_json::{Value, json};

use super::{World, Write, items};
use crate::rig::http::Http;

/// The operator's role; `None` when there is nobody of that name.
fn role_of(name: &str) -> impl Fn(&Http) -> Option<Value> + use<> {
    let name = name.to_owned();
    move |http| {
        let all = items(http, "/v1/operators");
        let of = all.iter().find(|row| row["name"] == *name && row["removed_at"].is_null());
        of.map(|row| row["role"].clone())
    }
}

/// The token of which this is so.
fn token_of(column: &'static str, of: &str) -> impl Fn(&Http) -> Option<Value> + use<> {
    let of = of.to_owned();
    move |http| items(http, "/v1/tokens").into_iter().find(|row| row[column] == *of)
}

impl World {
    fn operator(&mut self, http: &Http) -> String {
        let name = format!("op-{}-", self.next(("operator", "")));
        http.post("/v1/operators", &json!({ "name": name, "role": "viewer" })).is(200);
        name
    }

    pub(super) fn about_access(&mut self, http: &Http, route: &'static str, n: usize) -> Write {
        match route {
            "POST /v1/operators" => {
                let name = format!("new-{n}-");
                let role = role_of(&name);
                Write::new(route, "/v1/operators", &json!({ "name": name, "role": "viewer" }))
                    .on_record("operator.add", name)
                    .seen(move |http| role(http).is_some())
            }
            "POST /v1/operators/{name}/role" => {
                let name = self.operator(http);
                let role = role_of(&name);
                Write::new(route, format!("/v1/operators/{name}/role"), &json!({ "role": "operator" }))
                    .on_record("operator.role", name)
                    .seen(move |http| role(http) == Some(json!("operator")))
            }
            "POST /v1/operators/{name}/remove" => {
                let name = self.operator(http);
                let role = role_of(&name);
                Write::new(route, format!("/v1/operators/{name}/remove"), &json!({}))
                    .on_record("operator.remove", name)
                    .seen(move |http| role(http).is_none())
            }
            "POST /v1/operators/{name}/invite" => {
                let name = self.operator(http);
                Write::new(route, format!("/v1/operators/{name}/invite"), &json!({}))
                    .on_record("operator.invite", name)
            }
            "POST /v1/login" => {
                let name = self.operator(http);
                let link = http.post(&format!("/v1/operators/{name}/invite"), &json!({})).is(200);
                let token = token_of("operator", &name);
                Write::new(route, "/v1/login", &json!({ "link": link["path"] }))
                    .on_record("operator.login", name)
                    .seen(move |http| token(http).is_some())
            }
            "POST /v1/tokens" => {
                let owner = self.operator(http);
                let name = format!("token-{n}-");
                let token = token_of("name", &name);
                let body = json!({ "operator": owner, "name": name, "role": "viewer", "days": 1 });
                Write::new(route, "/v1/tokens", &body)
                    .on_record("token.create", name)
                    .seen(move |http| token(http).is_some())
            }
            "POST /v1/tokens/{id}/revoke" => {
                let ask = json!({ "operator": self.operator(http), "role": "viewer", "days": 1 });
                let id = http.post("/v1/tokens", &ask).is(200)["id"].as_str().unwrap().to_owned();
                let token = token_of("id", &id);
                Write::new(route, format!("/v1/tokens/{id}/revoke"), &json!({}))
                    .on_record("token.revoke", id)
                    .seen(move |http| token(http).is_some_and(|row| row["ended"] == true))
            }
            route => panic!("say here how {route} is asked"),
        }
    }
}
