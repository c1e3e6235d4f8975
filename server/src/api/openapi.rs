//! What the API is, as an OpenAPI 3.1 document, made from the same list the router is made from.
//!
//! Answers are described as they are written, request documents as they are read: the two differ in which
//! fields must be there. Schemas are JSON Schema 2020-12, which is what OpenAPI 3.1 takes.

use std::collections::{BTreeMap, BTreeSet};

use muster_shared::Code;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    error::{self, MEDIA_TYPE},
    routes::{About, Content, Route, Routes},
};

/// Where the document is served.
pub(super) const PATH: &str = "/v1/openapi.json";

/// What any route may refuse a request with.
const ALWAYS: &[Code] =
    &[Code::UsageWrong, Code::RequestTimeout, Code::RateLimited, Code::Fault, Code::NotStored];
/// And any route that needs a token.
const SIGNED: &[Code] = &[Code::NotSignedIn, Code::RoleMissing];
/// And any that takes a body, which may be repeated under an idempotency key.
const WITH_BODY: &[Code] = &[Code::RequestTooLarge, Code::KeyReused, Code::KeyInUse];

/// Longest id of a serial, a tenant or a batch.
const ID: &str = "^[A-Za-z0-9][A-Za-z0-9_-]{0,47}$";
const SERIAL: &str = "^[A-Za-z0-9][A-Za-z0-9_-]{0,47}(/[A-Za-z0-9][A-Za-z0-9_-]{0,47})?$";

/// The document.
pub(super) fn document(routes: &[Route]) -> Value {
    let mut answers = answers();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes {
        let operation = operation(route, &mut answers);
        paths.entry(route.path).or_default().insert(route.method.to_lowercase(), operation);
    }
    let problem = answers.subschema_for::<error::Document>();
    let mut schemas = answers.take_definitions(true);
    schemas.entry("Problem").or_insert(problem.to_value());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Muster",
            "summary": "Registry and MQTT edge of a device fleet",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "muster token create" },
            },
        },
    })
}

/// The JSON Schema of each document by its name, `device.list` for one. Complete in itself.
#[must_use]
pub fn schemas() -> BTreeMap<&'static str, Value> {
    let named = super::described(Routes::new()).finish().1;
    let mut schemas = BTreeMap::new();
    for Route { about, .. } in named.iter().filter(|route| !route.about.document.is_empty()) {
        if let Content::Json(shape) = about.answer {
            let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
            let mut schema = with_name(shape(&mut generator).to_value(), about.document);
            schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
            schema["$defs"] = Value::Object(generator.take_definitions(true));
            schemas.insert(about.document, schema);
        }
    }
    let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    schemas.insert("error", generator.root_schema_for::<error::CliDocument>().to_value());
    schemas
}

fn answers() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.with(|settings| settings.definitions_path = "/components/schemas".into()).into_generator()
}

/// Request documents stand where they are used: several are called the same.
fn requests() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    settings.with(|settings| settings.inline_subschemas = true).into_generator()
}

fn operation(route: &Route, answers: &mut SchemaGenerator) -> Value {
    let about = &route.about;
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": about.summary,
        "tags": [tag(route.path)],
        "parameters": parameters(route),
        "responses": responses(route, answers),
    });
    match about.body {
        Content::Nothing => {}
        Content::Json(shape) => {
            let schema = shape(&mut requests()).to_value();
            operation["requestBody"] = json!({ "required": !about.may_be_empty, "content": { "application/json": { "schema": schema } } });
        }
        Content::Raw(media, what) => {
            operation["requestBody"] =
                json!({ "required": true, "description": what, "content": { media: {} } });
        }
    }
    if about.open {
        operation["security"] = json!([]);
    }
    operation
}

/// `get_v1_devices_serial`: stable as long as the route is.
fn operation_id(route: &Route) -> String {
    let words =
        route.path.split(['/', '.']).map(|word| word.trim_matches(['{', '}']).trim_start_matches('*'));
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    format!("{}_{}", route.method.to_lowercase(), words.join("_"))
}

fn tag(path: &str) -> &str {
    let path = path.trim_start_matches("/v1").trim_start_matches('/');
    path.split(['/', '.']).next().filter(|word| !word.is_empty()).unwrap_or("server")
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters: Vec<Value> = path_parameters(route.path)
        .map(|name| {
            let schema = match route.about.words.iter().find(|(of, _)| *of == name) {
                Some((_, words)) => json!({ "type": "string", "enum": words }),
                None => match name {
                    "serial" | "device" => json!({ "type": "string", "pattern": SERIAL }),
                    "tenant" | "batch" | "station" => json!({ "type": "string", "pattern": ID }),
                    _ => json!({ "type": "string", "minLength": 1 }),
                },
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    if let Some(shape) = route.about.query {
        let schema = shape(&mut requests()).to_value();
        let required: BTreeSet<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, of) in schema["properties"].as_object().into_iter().flatten() {
            let mut of = of.clone();
            let description = of.as_object_mut().and_then(|of| of.remove("description"));
            not_null(&mut of);
            if name == "limit" {
                // Said once for all: `super::page_limit` reads each of them.
                of["minimum"] = json!(1);
            }
            parameters.push(json!({
                "name": name, "in": "query", "required": required.contains(name.as_str()),
                "description": description.unwrap_or_default(), "schema": of,
            }));
        }
    }
    if writes(route) {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Repeats of a request under one key are answered as the first was, for a day",
            "schema": { "type": "string", "pattern": "^\"?[!#-\\[\\]-~]{1,128}\"?$" },
        }));
    }
    if route.about.versioned {
        parameters.push(json!({
            "name": "If-Match", "in": "header", "required": false,
            "description": "The ETag of the version seen: nothing is done when it has changed since",
            "schema": { "type": "string", "pattern": "^(\\*|\"[0-9]{1,19}\")$" },
        }));
    }
    parameters
}

/// A parameter is there or not; it is never the word null.
fn not_null(schema: &mut Value) {
    if let Some(kinds) = schema["type"].as_array_mut() {
        kinds.retain(|kind| kind != "null");
        if let [one] = &kinds[..] {
            schema["type"] = one.clone();
        }
    }
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'))
}

/// Whether a repeat of it would do something again.
pub(super) fn writes(route: &Route) -> bool {
    !route.about.open && route.method != "GET"
}

fn responses(route: &Route, answers: &mut SchemaGenerator) -> Value {
    let about = &route.about;
    let mut good = json!({ "description": about.summary });
    match about.answer {
        Content::Nothing => {}
        Content::Json(shape) => {
            let schema = with_name(shape(answers).to_value(), about.document);
            good["content"] = json!({ "application/json": { "schema": schema } });
        }
        Content::Raw(media, what) => {
            good["description"] = json!(what);
            good["content"] = json!({ media: { "schema": { "type": "string" } } });
        }
    }
    let mut responses = Map::new();
    responses.insert(about.status.to_string(), good);
    for (status, codes) in refusals(route) {
        let codes: Vec<_> = codes.iter().map(|code| format!("{}: {}", code.id(), code.words())).collect();
        let described = json!({
            "description": codes.join("; "),
            "content": { MEDIA_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } },
        });
        responses.entry(status.to_string()).or_insert(described);
    }
    Value::Object(responses)
}

/// Its refusals by their status.
fn refusals(route: &Route) -> BTreeMap<u16, BTreeSet<Code>> {
    let about: &About = &route.about;
    let mut codes: BTreeSet<Code> = ALWAYS.iter().chain(&about.refuses).copied().collect();
    if !about.open {
        codes.extend(SIGNED);
    }
    if writes(route) {
        codes.extend(WITH_BODY);
    }
    if path_parameters(route.path).next().is_some() {
        codes.insert(Code::RouteUnknown);
    }
    let mut by_status: BTreeMap<u16, BTreeSet<Code>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.entry().http).or_default().insert(code);
    }
    by_status
}

/// The document's own name stands in it.
fn with_name(schema: Value, name: &str) -> Value {
    let mut schema = schema;
    if !name.is_empty() {
        schema["properties"]["schema"]["const"] = json!(format!("muster.{name}/1"));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Value {
        document(super::super::described(Routes::new()).list())
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn look(at: &Value, whole: &Value, seen: &mut usize) {
            match at {
                Value::Object(fields) => {
                    if let Some(to) = fields.get("$ref").and_then(Value::as_str) {
                        let pointer = to.strip_prefix('#').unwrap();
                        assert!(whole.pointer(pointer).is_some(), "{to}");
                        *seen += 1;
                    }
                    fields.values().for_each(|value| look(value, whole, seen));
                }
                Value::Array(items) => items.iter().for_each(|value| look(value, whole, seen)),
                _ => {}
            }
        }
        let document = made();
        let mut seen = 0;
        look(&document, &document, &mut seen);
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn every_operation_is_named_once_and_its_parameters_are_all_there() {
        let document = made();
        let mut names = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for operation in operations.as_object().unwrap().values() {
                assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
                let given = operation["parameters"].as_array().unwrap().iter();
                let in_path: BTreeSet<_> =
                    given.filter(|of| of["in"] == "path").map(|of| of["name"].as_str().unwrap()).collect();
                assert_eq!(in_path, path_parameters(path).collect(), "{path}");
                assert!(operation["responses"]["500"].is_object(), "{path}");
            }
        }
        assert!(names.len() > 15, "{}", names.len());
    }

    #[test]
    fn each_named_document_has_a_schema_of_its_own() {
        let schemas = schemas();
        for name in ["device.list", "device", "decision", "audit.list", "error"] {
            assert!(schemas.contains_key(name), "{name}");
        }
        assert_eq!(
            schemas["device.list"]["properties"]["schema"]["const"], "muster.device.list/1",
            "{}",
            schemas["device.list"]
        );
    }
}
