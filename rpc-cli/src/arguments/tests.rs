use std::io;

use rpc_core::instances::MethodInfo;
use serde_json::{Value, json};

use super::*;
use crate::failure::Exit;
use crate::samples::{method, ty};

/// Returns a method by the names and Rust types of its arguments. A name that ends in `?` is optional, one that begins with `*` a stream.
fn taking(arguments: &[(&str, &str)]) -> MethodInfo {
    with_schemas(arguments.iter().map(|(name, rust)| (*name, *rust, None)))
}

fn with_schemas<'a>(
    arguments: impl IntoIterator<Item = (&'a str, &'a str, Option<Value>)>,
) -> MethodInfo {
    let arguments = arguments.into_iter().map(|(name, rust, schema)| {
        let (name, optional) = (name.trim_end_matches('?'), name.ends_with('?'));
        let (name, stream) = (name.trim_start_matches('*'), name.starts_with('*'));
        let schema = schema.map(|schema| schema.to_string());
        let ty = json!({ "rust": rust, "schema": schema });
        json!({ "name": name, "ty": ty, "optional": optional, "stream": stream })
    });
    let arguments: Vec<_> = arguments.collect();
    let changes = json!({ "arguments": arguments, "result": ty("u64") });
    serde_json::from_value(method("put", changes)).expect("a description")
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn read(file: &str) -> io::Result<String> {
    match file {
        "30.txt" => Ok("30".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn parsed(words: &[&str], method: Option<&MethodInfo>) -> Value {
    match parse_with(&owned(words), method, &mut read) {
        Ok(value) => value,
        Err(failure) => panic!("{words:?}: {failure:?}"),
    }
}

fn refused(words: &[&str], method: Option<&MethodInfo>) -> String {
    let failure = parse_with(&owned(words), method, &mut read).expect_err("a failure");
    assert_eq!(failure.exit(), Exit::Usage);
    failure.to_string()
}

#[test]
fn the_type_of_an_argument_tells_texts_from_json() {
    let method = taking(&[("n", "u64"), ("name", "String")]);
    let expected = json!({ "n": 30, "name": "30" });
    for words in [
        &["30", "30"][..],
        &["n=30", "name=30"],
        &["name=30", "n=30"],
        &["30", "name=30"],
        &[r#"{"n":30,"name":"30"}"#],
        &[r#"[30,"30"]"#],
        &["n:=30", r#"name:="30""#],
        &["n=@30.txt", "name=@30.txt"],
    ] {
        assert_eq!(parsed(words, Some(&method)), expected, "{words:?}");
    }
    assert_eq!(
        parsed(&["1", "Zoë = \"x\""], Some(&method)),
        json!({ "n": 1, "name": "Zoë = \"x\"" })
    );
    assert_eq!(
        parsed(&["n=1", "name=a=b"], Some(&method)),
        json!({ "n": 1, "name": "a=b" })
    );
    assert_eq!(
        parsed(&["1", "https://host/?a=b"], Some(&method)),
        json!({ "n": 1, "name": "https://host/?a=b" })
    );
}

#[test]
fn an_option_of_a_text_takes_null_and_texts_without_quotes() {
    let method = taking(&[("name", "Option<String>")]);
    assert_eq!(
        parsed(&["name=null"], Some(&method)),
        json!({ "name": null })
    );
    assert_eq!(parsed(&["name=30"], Some(&method)), json!({ "name": "30" }));
    assert_eq!(parsed(&["Zoë"], Some(&method)), json!({ "name": "Zoë" }));
    assert_eq!(
        parsed(&[r#"name:="null""#], Some(&method)),
        json!({ "name": "null" })
    );
}

#[test]
fn values_of_unknown_types_are_json_if_they_can_be() {
    let method = taking(&[("item", "Item")]);
    assert_eq!(parsed(&["item=30"], Some(&method)), json!({ "item": 30 }));
    assert_eq!(
        parsed(&["item=red"], Some(&method)),
        json!({ "item": "red" })
    );
    assert_eq!(
        parsed(&[r#"item={"id":1}"#], Some(&method)),
        json!({ "item": { "id": 1 } })
    );
}

#[test]
fn without_a_description_arguments_are_an_object_or_an_array() {
    assert_eq!(parsed(&[], None), json!({}));
    assert_eq!(parsed(&["30", "Zoë"], None), json!([30, "Zoë"]));
    assert_eq!(
        parsed(&["n=30", "name=Zoë"], None),
        json!({ "n": 30, "name": "Zoë" })
    );
    assert_eq!(parsed(&[r#"{"n":30}"#], None), json!({ "n": 30 }));
    assert_eq!(parsed(&["[1,2]"], None), json!([1, 2]));
    assert!(refused(&["30", "name=Zoë"], None).contains("name all of them"));
    assert!(refused(&["n=1", "n=2"], None).contains("argument 'n' is given twice"));
    assert!(refused(&["n:=x"], None).contains("is not JSON"));
    assert_eq!(check(json!(30), None).expect("arguments"), json!([30]));
}

#[test]
fn arguments_with_a_default_may_be_left_out() {
    let method = taking(&[("n", "u64"), ("limit?", "u32")]);
    assert_eq!(parsed(&["1"], Some(&method)), json!({ "n": 1 }));
    assert_eq!(
        parsed(&["1", "2"], Some(&method)),
        json!({ "n": 1, "limit": 2 })
    );
}

#[test]
fn all_problems_are_in_one_message() {
    let method = taking(&[("n", "u64"), ("name", "String"), ("limit?", "u8")]);
    assert_eq!(
        refused(&["nmae=Zoë", "n=-1", "limit=300", "n=2"], Some(&method)),
        "the arguments do not fit put(n: u64, name: String, limit?: u8):\n  \
         unknown argument 'nmae': did you mean 'name'?\n  \
         argument 'n': -1 given, expected u64, an integer from 0 to 18446744073709551615\n  \
         argument 'limit': 300 given, expected u8, an integer from 0 to 255\n  \
         argument 'n' is given twice\n  \
         argument 'name' is missing: expected String"
    );
    assert_eq!(
        refused(&["x", "y", "7", "8"], Some(&method)),
        "the arguments do not fit put(n: u64, name: String, limit?: u8):\n  \
         argument 'n': \"x\" given, expected u64, an integer from 0 to 18446744073709551615\n  \
         4 values by position, but the method has 3 arguments"
    );
    let message = refused(&["n=1", "Zoë"], Some(&method));
    assert!(
        message.contains("\"Zoë\" follows values by name: give its name too"),
        "{message}"
    );
    let message = refused(&["1", "n=2", "name=x"], Some(&method));
    assert!(message.contains("argument 'n' is given twice"), "{message}");
    let message = refused(&["n=1", "name=@gone"], Some(&method));
    assert!(
        message.contains("the file 'gone' cannot be read"),
        "{message}"
    );
}

#[test]
fn nested_standard_types_are_checked() {
    let map = taking(&[("pairs", "Vec<(String, Option<i8>)>")]);
    let pairs = r#"pairs=[["a",1],["b",null]]"#;
    assert_eq!(
        parsed(&[pairs], Some(&map)),
        json!({ "pairs": [["a", 1], ["b", null]] })
    );
    let message = refused(&[r#"pairs=[["a",1],[2,1]]"#], Some(&map));
    assert!(
        message.contains(
            "[[\"a\",1],[2,1]] given, expected Vec<(String, Option<i8>)>; at /1/0: 2 is not of type \"string\""
        ),
        "{message}"
    );
    let nothing = taking(&[
        ("nothing", "()"),
        ("c", "char"),
        ("flag", "bool"),
        ("x", "f64"),
    ]);
    assert_eq!(
        parsed(&["null", "é", "true", "1e3"], Some(&nothing)),
        json!({ "nothing": null, "c": "é", "flag": true, "x": 1000.0 })
    );
    let message = refused(&["0", "ab", "yes", "much"], Some(&nothing));
    for text in [
        "expected (), null",
        "one character",
        "true or false",
        "expected f64, a number",
    ] {
        assert!(message.contains(text), "{message}");
    }
}

/// A fraction is no integer for serde, and an integer of more than 64 bits would lose digits on its way through JSON.
#[test]
fn integers_are_exact() {
    let method = taking(&[("n", "u128")]);
    assert!(refused(&["1.0"], Some(&method)).contains("expected u128, an integer from 0"));
    assert!(refused(&["340282366920938463463374607431768211455"], Some(&method)).contains("u128"));
    assert_eq!(
        parsed(&["18446744073709551615"], Some(&method)),
        json!({ "n": u64::MAX })
    );
}

#[test]
fn a_schema_decides_about_types_of_the_service() {
    let item = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": { "id": { "type": "integer" }, "parent": { "$ref": "#" }, "color": { "$ref": "#/$defs/Color" } },
        "required": ["id"],
        "$defs": { "Color": { "type": "string", "enum": ["Red", "Green"] } },
    });
    let color = json!({ "oneOf": [{ "const": "Red" }, { "const": "30" }] });
    let method = with_schemas([
        ("item", "Item", Some(item)),
        ("color?", "Color", Some(color)),
    ]);
    assert_eq!(
        parsed(&[r#"item={"id":1}"#, "color=Red"], Some(&method)),
        json!({ "item": { "id": 1 }, "color": "Red" })
    );
    assert_eq!(
        parsed(&[r#"item={"id":1}"#, "color=30"], Some(&method)),
        json!({ "item": { "id": 1 }, "color": "30" })
    );
    let message = refused(
        &[r#"item={"id":1,"parent":{"color":"Blue"}}"#, "color=Blue"],
        Some(&method),
    );
    for text in [
        "at /parent: \"id\" is a required property",
        "at /parent/color: \"Blue\" is not one of",
        "argument 'color': \"Blue\" given, expected Color",
    ] {
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn an_unusable_schema_checks_nothing() {
    let method = with_schemas([
        (
            "a",
            "Item",
            Some(json!({ "$ref": "https://example.com/item" })),
        ),
        ("b", "Item", Some(json!({ "type": 5 }))),
        ("c", "Item", Some(json!("x"))),
    ]);
    assert_eq!(
        parsed(&["1", "x", "{}"], Some(&method)),
        json!({ "a": 1, "b": "x", "c": {} })
    );
}

/// Such an argument has `#[serde(with = "…")]`.
#[test]
fn a_standard_type_without_a_schema_beside_types_with_schemas_is_not_checked() {
    let method = with_schemas([
        ("key", "Vec<u8>", None),
        ("n", "u64", Some(json!({ "type": "integer" }))),
    ]);
    assert_eq!(
        parsed(&["AAEC", "0"], Some(&method)).get("key"),
        Some(&json!("AAEC"))
    );
}

#[test]
fn one_object_or_array_may_be_the_only_argument() {
    let numbers = taking(&[("numbers", "Vec<u64>")]);
    for words in [
        &["[1,2]"][..],
        &["[[1,2]]"],
        &["numbers=[1,2]"],
        &[r#"{"numbers":[1,2]}"#],
    ] {
        assert_eq!(
            parsed(words, Some(&numbers)),
            json!({ "numbers": [1, 2] }),
            "{words:?}"
        );
    }
    let item = taking(&[("item", "Item"), ("limit?", "u8")]);
    assert_eq!(
        parsed(&[r#"{"id":1}"#], Some(&item)),
        json!({ "item": { "id": 1 } })
    );
    let message = refused(&[r#"{"itme":1}"#], Some(&item));
    assert!(
        message.contains("unknown argument 'itme': did you mean 'item'?"),
        "{message}"
    );
    let two = taking(&[("a", "Item"), ("b", "Item")]);
    assert!(refused(&[r#"{"id":1}"#], Some(&two)).contains("unknown argument 'id'"));
}

#[test]
fn a_stream_is_not_among_the_arguments() {
    let method = taking(&[("start", "u64"), ("*numbers", "u8")]);
    assert_eq!(parsed(&["1"], Some(&method)), json!({ "start": 1 }));
    let message = refused(&["1", "numbers=2"], Some(&method));
    assert!(message.contains("'numbers' is a stream"), "{message}");
    let items = Items::of(&method);
    items.check(1, &json!(255)).expect("an item");
    let failure = items.check(2, &json!(256)).expect_err("a failure");
    assert_eq!(
        failure.to_string(),
        "item 2: 256 given, expected u8, an integer from 0 to 255"
    );
}

#[test]
fn values_in_messages_are_short_and_do_not_control_the_terminal() {
    let method = taking(&[("n", "u8\u{1b}[2J")]);
    let long = format!("{{\"n\":\"\u{1b}{}\",\"m\":1}}", "x".repeat(1000));
    let message = refused(&["m=1"], Some(&method));
    assert!(!message.contains('\u{1b}'), "{message}");
    let numbers = taking(&[("n", "u8")]);
    let message = refused(&[&long.replace('\u{1b}', "\\u001b")], Some(&numbers));
    assert!(message.len() < 400, "{message}");
    assert!(!message.contains('\u{1b}'), "{message}");
}

#[test]
fn standard_input_is_a_single_dash() {
    assert!(is_stdin(&owned(&["-"])));
    assert!(!is_stdin(&owned(&["-", "1"])));
    assert!(!is_stdin(&owned(&[])));
}
