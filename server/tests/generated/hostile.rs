//! Sound requests in which one thing is not as it should be: every parameter, every field of a document, the
//! document itself and what surrounds it, each in turn.

use serde_json::{Map, Value, json};

use crate::{
    ask::{Ask, Body, Dice, In, Operation, Parameter, encoded},
    fleet::Fleet,
    shape,
};

/// Longer than anything that is a name here.
const LONG: usize = 5000;
/// Largest document a request may be, octets.
const JSON_MAX: usize = 64 * 1024;

/// Texts nobody means, as they are.
fn texts() -> Vec<String> {
    let odd = [
        "",
        " ",
        "-",
        ".",
        "..",
        "../../etc/passwd",
        "\0",
        "a\0b",
        "\u{7}",
        "\r\nx: y",
        "%",
        "%00",
        "\"",
        "'",
        "' OR 1=1 --",
        "<script>alert(1)</script>",
        "{}",
        "[]",
        "null",
        "é",
        "\u{202e}evil",
        "\u{fffd}",
        "👾",
        "MU-000001\n",
        "acme/",
        "/",
        "acme/other/x",
        "*",
        "#",
        "+/#",
        "$SYS/x",
        "0",
        "-1",
        "1e9",
        "0x10",
        "9223372036854775808",
        "18446744073709551616",
        "2026-13-40T99:99:99Z",
        "-9999-01-01T00:00:00Z",
        "state:",
        "state:none",
        "seen:>99999999999999999999d",
        "firmware:<",
        "-",
        ":",
        "a:b:c",
        "\\",
        "{serial}",
    ];
    let mut all: Vec<String> = odd.map(str::to_owned).to_vec();
    all.extend(["x".repeat(LONG), "é".repeat(LONG / 8), "-a ".repeat(400), "%".repeat(300)]);
    all
}

/// Octets in an address that are no text, or not well formed.
const RAW: [&str; 6] = ["%ff", "%c3%28", "%ed%a0%80", "%zz", "%", "%2e%2e%2f%2e%2e"];

/// Everything odd that is asked of an operation.
pub(crate) fn asks(fleet: &mut Fleet, operation: &Operation, dice: &mut Dice) -> Vec<Ask> {
    let mut all = Vec::new();
    for parameter in &operation.parameters {
        in_parameter(fleet, operation, parameter, dice, &mut all);
    }
    in_body(fleet, operation, dice, &mut all);
    around(fleet, operation, dice, &mut all);
    all
}

/// A sound request, and what is to become of it.
fn from(fleet: &mut Fleet, operation: &Operation, dice: &mut Dice, said: String) -> Ask {
    Ask { said, ..fleet.sound(operation, None, dice) }
}

fn in_parameter(
    fleet: &mut Fleet,
    operation: &Operation,
    parameter: &Parameter,
    dice: &mut Dice,
    all: &mut Vec<Ask>,
) {
    let name = &parameter.name;
    let texts = texts();
    let as_sent = texts
        .iter()
        .map(|text| (encoded(text), text.clone()))
        .chain(RAW.map(|raw| (raw.to_owned(), raw.to_owned())));
    match parameter.within {
        In::Path => {
            for (sent, said) in as_sent {
                let mut ask = from(fleet, operation, dice, format!("{name} is {said:?}"));
                ask.in_path.iter_mut().filter(|(of, _)| of == name).for_each(|of| of.1.clone_from(&sent));
                all.push(ask);
            }
        }
        In::Query => {
            for (sent, said) in as_sent {
                let mut ask = from(fleet, operation, dice, format!("{name} is {said:?}"));
                ask.set_query(name, &sent);
                // What stands in an address is text: read as what it is to be.
                let value = serde_json::from_str(&said).ok().filter(|value: &Value| !value.is_string());
                let value = value.unwrap_or_else(|| json!(said));
                ask.ruled_out = parameter.schema["type"] != "string"
                    && !shape::disagreements(&operation.document, &parameter.schema, &value).is_empty();
                all.push(ask);
            }
            let mut ask = from(fleet, operation, dice, format!("{name} is there twice"));
            ask.query.extend([format!("{name}=1"), format!("{name}=2")]);
            ask.ruled_out = true;
            all.push(ask);
            if parameter.required {
                let mut ask = from(fleet, operation, dice, format!("{name} is not there"));
                ask.query.retain(|of| !of.starts_with(&format!("{name}=")));
                ask.ruled_out = true;
                all.push(ask);
            }
        }
        In::Header => {
            let texts = texts.iter().filter(|text| !text.contains(['\r', '\n', '\0', '\u{7}']));
            for text in texts.map(String::as_bytes).chain([
                &b"\"\xff\xfe\""[..],
                b"W/\"1\"",
                b"\"1\", \"2\"",
                b"\"\"",
            ]) {
                let said = format!("{name} is {:?}", String::from_utf8_lossy(text));
                let mut ask = from(fleet, operation, dice, said);
                ask.set_header(name, text);
                all.push(ask);
            }
        }
    }
}

/// Values for a field of a document that wants something else.
fn values() -> Vec<Value> {
    let mut all: Vec<Value> = texts().into_iter().map(Value::String).collect();
    all.extend([
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!([]),
        json!([[[[]]]]),
        json!([null, 1, ""]),
        json!({}),
        json!({ "a": { "b": [] } }),
    ]);
    all
}

fn in_body(fleet: &mut Fleet, operation: &Operation, dice: &mut Dice, all: &mut Vec<Ask>) {
    let Body::Json(schema) = &operation.body else { return };
    let fields: Vec<&String> = schema["properties"].as_object().into_iter().flat_map(Map::keys).collect();
    let mut with =
        |fleet: &mut Fleet, dice: &mut Dice, said: String, change: &dyn Fn(&mut Map<String, Value>)| {
            let mut ask = from(fleet, operation, dice, said);
            let mut document = ask.document();
            change(document.as_object_mut().unwrap());
            ask.ruled_out = !shape::disagreements(&operation.document, schema, &document).is_empty();
            ask.body = document.to_string().into_bytes();
            all.push(ask);
        };
    for name in fields {
        for value in values() {
            let said: String = format!("{name} is {value}").chars().take(100).collect();
            with(fleet, dice, said, &|fields| drop(fields.insert(name.clone(), value.clone())));
        }
        with(fleet, dice, format!("{name} is not there"), &|fields| drop(fields.remove(name)));
    }
    with(fleet, dice, "a field of another document".to_owned(), &|fields| {
        fields.insert("force".to_owned(), json!(true));
    });
}

/// The body as a whole, and what surrounds it.
fn around(fleet: &mut Fleet, operation: &Operation, dice: &mut Dice, all: &mut Vec<Ask>) {
    let wants_a_document = matches!(operation.body, Body::Json(_));
    let sound = from(fleet, operation, dice, String::new()).body;
    let deep = [b"[".repeat(20_000), b"]".repeat(20_000)].concat();
    let padded = [&sound[..], &b" ".repeat(JSON_MAX)].concat();
    let cut = sound[..sound.len() / 2].to_vec();
    let mut bodies: Vec<(&str, Vec<u8>)> = vec![
        ("no body", vec![]),
        ("a body that is no text", vec![0xff, 0xfe, 0, 1]),
        ("a body of noughts", vec![0; 4096]),
        ("null", b"null".to_vec()),
        ("a list", b"[]".to_vec()),
        ("a number", b"1e999".to_vec()),
        ("half a surrogate", br#"{"reason":"\ud800"}"#.to_vec()),
        ("a field twice", br#"{"reason":"a","reason":"b","link":"a","link":"b"}"#.to_vec()),
        ("nested without end", deep),
        ("half of it", cut),
        ("more behind it", [&sound[..], b"{}"].concat()),
    ];
    if wants_a_document {
        bodies.push(("more than it may be", padded));
    }
    for (said, octets) in bodies {
        let mut ask = from(fleet, operation, dice, said.to_owned());
        ask.ruled_out = wants_a_document && !(octets.is_empty() && operation.may_be_empty);
        ask.body = octets;
        all.push(ask);
    }
    if !sound.is_empty() {
        for n in 0..6 {
            let mut ask = from(fleet, operation, dice, format!("an octet of it is another one, {n}"));
            let at = dice.below(ask.body.len());
            ask.body[at] ^= 1 << dice.below(8);
            all.push(ask);
        }
        let mut ask = from(fleet, operation, dice, "it is cut short with its connection".to_owned());
        (ask.torn, ask.ruled_out) = (true, true);
        all.push(ask);
        for media in [
            "",
            "text/plain",
            "multipart/form-data; boundary=x",
            "application/json; charset=utf-16",
            "\u{e9}",
        ] {
            let mut ask = from(fleet, operation, dice, format!("its content type is {media:?}"));
            ask.set_header("content-type", media.as_bytes());
            all.push(ask);
        }
    }
    let mut ask = from(fleet, operation, dice, "a parameter nobody knows".to_owned());
    ask.query.push("colour=red".to_owned());
    ask.ruled_out = operation.parameters.iter().any(|of| of.within == In::Query);
    all.push(ask);
    for (said, name, value) in [
        ("a long header", "x-long", &[b'x'; 20_000][..]),
        ("a header that is no text", "x-odd", b"\xff\xfe"),
        ("another host", "x-forwarded-host", b"evil.example"),
        ("a cookie of nobody's", "cookie", b"__Host-muster=nobody"),
    ] {
        let mut ask = from(fleet, operation, dice, said.to_owned());
        ask.set_header(name, value);
        ask.unread = name == "x-long";
        all.push(ask);
    }
}
