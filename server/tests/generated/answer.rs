//! An answer, against what the description says of it.

use std::fmt;

use muster_shared::Code;
use serde_json::Value;

use crate::{
    ask::{Ask, Operation},
    shape,
};

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answered {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body as a document; null when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn media(&self) -> &str {
        self.header("content-type").and_then(|of| of.split(';').next()).unwrap_or_default()
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = String::from_utf8_lossy(&self.body).chars().take(600).collect();
        write!(f, "{} {body}", self.status)
    }
}

/// What is wrong with an answer.
pub(crate) fn faults(operation: &Operation, ask: &Ask, answered: &Answered) -> Vec<String> {
    let mut faults = Vec::new();
    if answered.status >= 500 {
        return vec!["the server failed".to_owned()];
    }
    if ask.unread && answered.body.is_empty() && matches!(answered.status, 400 | 414 | 431) {
        // Refused before there is a request: no octet of it is ours to explain.
        return faults;
    }
    let Some(described) = operation.responses.get(&answered.status.to_string()) else {
        return vec![format!("the status {} is not described", answered.status)];
    };
    if ask.ruled_out && answered.status < 400 {
        faults.push("it was done, and the description rules it out".to_owned());
    }
    match described["content"].as_object().and_then(|content| content.iter().next()) {
        None if answered.body.is_empty() => {}
        None => faults.push("there is a body, and none is described".to_owned()),
        Some((media, _)) if answered.media() != media => {
            faults.push(format!("it is {:?} and described as {media:?}", answered.media()));
        }
        Some((media, content)) if media == "application/json" || media == "application/problem+json" => {
            match serde_json::from_slice(&answered.body) {
                Ok(value) => {
                    faults.extend(shape::disagreements(&operation.document, &content["schema"], &value))
                }
                Err(error) => faults.push(format!("its body is no document: {error}")),
            }
        }
        Some(_) => {}
    }
    if answered.status >= 400 {
        faults.extend(refusal(described, answered));
    }
    faults
}

/// What is wrong with a refusal beside its shape.
fn refusal(described: &Value, answered: &Answered) -> Option<String> {
    let problem = answered.json();
    let id = problem["code"].as_str().unwrap_or_default();
    let Ok(code) = id.parse::<Code>() else { return Some(format!("there is no code {id:?}")) };
    let listed = described["description"].as_str().unwrap_or_default();
    if code.entry().http != answered.status || problem["status"] != answered.status {
        Some(format!("{code} has another status"))
    } else if !listed.split("; ").any(|of| of.split(':').next() == Some(id)) {
        Some(format!("{code} is not described: {listed}"))
    } else if answered.status == 401 && answered.header("www-authenticate").is_none() {
        Some("a 401 names what would be taken".to_owned())
    } else {
        None
    }
}

/// What is wrong with a repeat under the same key.
pub(crate) fn repeated(
    operation: &Operation,
    first: Option<&Answered>,
    again: Option<&Answered>,
) -> Option<String> {
    let (first, again) = (first?, again?);
    // What was not done for want of a role is tried again, and comes to the same.
    let kept = first.status != 403 && first.status != 401;
    let code = again.json()["code"].clone();
    if kept && operation.secret && first.status < 300 {
        return (code != "M531").then(|| "what is shown once was shown again, or made again".to_owned());
    }
    let replayed = again.header("idempotency-replayed") == Some("true");
    let stripped = |of: &Answered| {
        let mut document = of.json();
        if let Some(fields) = document.as_object_mut() {
            fields.remove("request_id");
        }
        document
    };
    if first.status != again.status || stripped(first) != stripped(again) || kept != replayed {
        return Some(format!("the repeat of {first} is another answer, replayed: {replayed}"));
    }
    None
}
