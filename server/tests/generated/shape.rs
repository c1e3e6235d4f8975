//! A document against its schema: the part of JSON Schema 2020-12 the description is written in. A keyword that
//! is not known here ends the test: nothing passes because it was not looked at.
//!
//! Stricter than a schema is in one thing: an answer's field must be described.

use serde_json::{Map, Value};

/// What disagrees, each with where.
pub(crate) fn disagreements(whole: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { whole, found: &mut found }.value(schema, value, "");
    found
}

struct Check<'a> {
    whole: &'a Value,
    found: &'a mut Vec<String>,
}

impl Check<'_> {
    fn value(&mut self, schema: &Value, value: &Value, at: &str) {
        let schema = match schema {
            Value::Bool(true) => return,
            Value::Object(schema) => schema,
            other => panic!("{other} is no schema"),
        };
        for (keyword, of) in schema {
            self.keyword(schema, keyword, of, value, at);
        }
        if let (Some(described), Value::Object(fields)) = (self.described(schema), value) {
            for name in fields.keys().filter(|name| !described.contains(name)) {
                self.found.push(format!("{at}/{name} is not described"));
            }
        }
    }

    fn keyword(&mut self, schema: &Map<String, Value>, keyword: &str, of: &Value, value: &Value, at: &str) {
        let mut wrong = |why: String| self.found.push(format!("{at} is {}: {why}", short(value)));
        match keyword {
            "title" | "description" | "default" | "additionalProperties" => {}
            "$ref" => {
                let to = self.whole.pointer(of.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
                // What stands beside a reference says more of the same fields.
                self.value(to, value, at);
            }
            "const" if value == of => {}
            "const" => wrong(format!("it is always {of}")),
            "enum" if of.as_array().unwrap().contains(value) => {}
            "enum" => wrong(format!("it is one of {of}")),
            "type" => {
                let kinds = of.as_array().map_or(std::slice::from_ref(of), Vec::as_slice);
                if !kinds.iter().any(|kind| is(value, kind.as_str().unwrap())) {
                    wrong(format!("its type is {of}"));
                }
            }
            "minimum" if value.as_f64().is_some_and(|n| n < of.as_f64().unwrap()) => {
                wrong(format!("at least {of}"))
            }
            "maximum" if value.as_f64().is_some_and(|n| n > of.as_f64().unwrap()) => {
                wrong(format!("at most {of}"))
            }
            "minimum" | "maximum" => {}
            "minLength"
                if value
                    .as_str()
                    .is_some_and(|text| (text.chars().count() as u64) < of.as_u64().unwrap()) =>
            {
                wrong(format!("at least {of} characters"));
            }
            "minLength" => {}
            "format" => {
                let fits = match of.as_str().unwrap() {
                    "uint8" => value.as_u64().is_none_or(|n| n <= u64::from(u8::MAX)),
                    "uint16" => value.as_u64().is_none_or(|n| n <= u64::from(u16::MAX)),
                    "uint32" => value.as_u64().is_none_or(|n| n <= u64::from(u32::MAX)),
                    "uint" | "uint64" | "int64" | "double" => true,
                    other => panic!("the format {other} is not known here"),
                };
                if !fits {
                    wrong(format!("it is a {of}"));
                }
            }
            "anyOf" => {
                let ways = of.as_array().unwrap();
                if !ways.iter().any(|way| disagreements(self.whole, way, value).is_empty()) {
                    wrong("it is none of what it may be".to_owned());
                }
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.value(of, item, &format!("{at}/{n}"));
                }
            }
            "required" => {
                let named = of.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                for name in
                    named.filter(|name| value.as_object().is_some_and(|fields| !fields.contains_key(*name)))
                {
                    self.found.push(format!("{at}/{name} is missing"));
                }
            }
            "properties" => {
                for (name, of) in of.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        self.value(of, value, &format!("{at}/{name}"));
                    }
                }
            }
            other => panic!("the keyword {other} is not known here: {schema:?}"),
        }
    }

    /// Fields an object may have; `None` when any: it is a map, or a reference says it.
    fn described(&self, schema: &Map<String, Value>) -> Option<Vec<String>> {
        if schema.contains_key("$ref")
            || schema.get("additionalProperties").is_some_and(|of| *of != Value::Bool(false))
        {
            return None;
        }
        Some(schema.get("properties")?.as_object().unwrap().keys().cloned().collect())
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} is not known here"),
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[test]
fn what_disagrees_is_found() {
    use serde_json::json;
    let whole = json!({ "n": { "type": "integer", "format": "uint8", "minimum": 0 } });
    let schema = json!({
        "type": "object", "required": ["a"],
        "properties": {
            "a": { "$ref": "#/n" }, "b": { "type": ["string", "null"] }, "c": { "const": 1 },
            "d": { "type": "array", "items": { "anyOf": [{ "$ref": "#/n" }, { "type": "null" }] } },
        },
    });
    let found = |value: Value| disagreements(&whole, &schema, &value);
    for good in [json!({ "a": 255 }), json!({ "a": 0, "b": null, "c": 1, "d": [1, null] })] {
        assert_eq!(found(good), Vec::<String>::new());
    }
    for (bad, at) in [
        (json!([]), " is []"),
        (json!({}), "/a is missing"),
        (json!({ "a": 256 }), "/a is 256"),
        (json!({ "a": -1 }), "/a is -1"),
        (json!({ "a": 1, "b": 1 }), "/b is 1"),
        (json!({ "a": 1, "c": 2 }), "/c is 2"),
        (json!({ "a": 1, "d": [1, "x"] }), "/d/1 is"),
        (json!({ "a": 1, "e": 1 }), "/e is not described"),
    ] {
        let found = found(bad.clone());
        assert!(found.iter().any(|of| of.starts_with(at)), "{bad}: {found:?}");
    }
}
