//! What one tenant's operator is answered, made comparable: with other tenants there and without.

use serde_json::{Value, json};

use super::http::{Answer, Http};

/// A token of these, from the admin.
pub fn token(admin: &Http, operator: &str, role: &str, tenant: Option<&str>) -> (String, String) {
    let body = json!({ "operator": operator, "name": "t", "role": role, "tenant": tenant, "days": 1 });
    let made = admin.post("/v1/tokens", &body).is(200);
    (made["token"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
}

/// An answer without what counts all tenants' decisions, what the asking itself changes, and chance.
pub fn settled(mut document: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for key in [
                    "generation",
                    "request_id",
                    "checked_at",
                    "last_used_at",
                    "last_used_ms",
                    "last_seen_at",
                    "where",
                    "from",
                    "to",
                    "online_24h",
                    "now",
                ] {
                    fields.remove(key);
                }
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => {
                // The disk is everybody's, and fills while this runs.
                items.retain(|item| item["check"] != "disk");
                items.iter_mut().for_each(strip);
            }
            _ => {}
        }
    }
    strip(&mut document);
    document
}

/// An answer of any kind without what the time and the asking change: status, and what it says.
pub fn comparable(answer: &Answer) -> (u16, Value) {
    let octets = answer.unchunked();
    let text = String::from_utf8_lossy(&octets);
    let said = match answer.header("content-type").unwrap_or_default() {
        kind if kind.contains("ndjson") => {
            let line = |line: &str| serde_json::from_str(line).map_or(json!(line), settled);
            text.lines().map(line).collect()
        }
        kind if kind.contains("html") => {
            // Figures of the server itself stand on a line of their own, and so does a request's own id.
            // Whether an operator was seen yet, and a token used, is changed by the asking.
            let lines = timeless(&text).replace(">never seen<", "><").replace(">never<", "><");
            let lines = lines
                .lines()
                .filter(|line| !["generation", "MiB free", "· request "].iter().any(|of| line.contains(of)));
            json!(lines.collect::<Vec<_>>())
        }
        _ => serde_json::from_slice(&octets).map_or_else(|_| json!(text), settled),
    };
    (answer.status, said)
}

/// A page without its times.
fn timeless(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once("<time") {
        out.push_str(before);
        rest = after.split_once("</time>").map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    let clock = "data-clock>";
    match out.find(clock) {
        Some(at) => {
            let end = out[at..].find("</span>").map_or(out.len(), |end| at + end);
            format!("{}{}", &out[..at], &out[end..])
        }
        None => out,
    }
}
