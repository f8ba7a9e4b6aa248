//! The comparison beside the facts: every value of a type, written in both formats and read as another type.

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZero;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::node::MAX_SHOWN;
use super::*;
use crate::codec::{self, ContentType};

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Item {
    name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct PricedItem {
    name: String,
    price: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct MaybePricedItem {
    name: String,
    price: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct SparseItem {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    price: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StrictItem {
    name: String,
}

/// An item with further fields.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct OpenItem {
    name: String,
    #[serde(flatten)]
    more: BTreeMap<String, u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct TaggedItem {
    id: u8,
    #[serde(flatten)]
    shape: Shape,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Tree {
    value: u8,
    children: Vec<Tree>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct WideTree {
    value: u16,
    children: Vec<WideTree>,
    #[serde(default)]
    name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
enum Colour {
    Red,
    /// With docs.
    Green,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
enum MoreColours {
    Red,
    Green,
    Mixed { parts: u8 },
    Named(String),
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind")]
enum Shape {
    Point,
    Circle { radius: u8 },
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind")]
enum MoreShapes {
    Point,
    Circle {
        radius: u32,
        #[serde(default)]
        filled: bool,
    },
    Square {
        side: u8,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum NumberOrText {
    Number(u8),
    Text(String),
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Wrapped(u64);

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Nothing;

/// A type with all its parts.
struct Sample {
    name: &'static str,
    /// Schemas of the values that are written and read.
    written: String,
    read: String,
    /// Values in both formats.
    values: Vec<(ContentType, Vec<u8>)>,
    reads: fn(ContentType, &[u8]) -> bool,
}

fn schema<T: JsonSchema>(settings: SchemaSettings) -> String {
    let schema = SchemaGenerator::new(settings).into_root_schema_for::<T>();
    schema.as_value().to_string()
}

fn sample<T: JsonSchema + Serialize + DeserializeOwned>(
    values: impl IntoIterator<Item = T>,
) -> Sample {
    let mut encoded = Vec::new();
    for value in values {
        for format in [ContentType::MessagePack, ContentType::Json] {
            encoded.push((
                format,
                codec::encode(&value, format)
                    .expect("samples can be sent")
                    .to_vec(),
            ));
        }
    }
    Sample {
        name: type_name::<T>(),
        written: schema::<T>(SchemaSettings::draft2020_12().for_serialize()),
        read: schema::<T>(SchemaSettings::draft2020_12().for_deserialize()),
        values: encoded,
        reads: |format, bytes| codec::decode::<T>(bytes, format).is_ok(),
    }
}

fn samples() -> Vec<Sample> {
    let text = || "text".to_owned();
    let item = |price| PricedItem {
        name: text(),
        price,
    };
    let tree = || Tree {
        value: 1,
        children: vec![Tree {
            value: u8::MAX,
            children: vec![],
        }],
    };
    vec![
        sample([()]),
        sample([Nothing]),
        sample([true, false]),
        sample([0_u8, u8::MAX]),
        sample([0_u32, u32::MAX]),
        sample([0_u64, u64::MAX]),
        sample([0_usize, usize::MAX]),
        sample([0_u128, u128::MAX]),
        sample([i8::MIN, i8::MAX]),
        sample([i64::MIN, 0, i64::MAX]),
        sample([i128::MIN, 0, i128::MAX]),
        sample([NonZero::<u8>::MIN, NonZero::<u8>::MAX]),
        sample([0.5_f32, f32::MAX]),
        sample([0.5_f64, 1.0, f64::MAX]),
        sample(['x', 'é']),
        sample([text(), String::new()]),
        sample([Some(0_u8), None]),
        sample([Some(u64::MAX), None]),
        sample([Some(text()), None]),
        sample([Vec::<u8>::new(), vec![1, 255]]),
        sample([[1_u8, 2]]),
        sample([vec![u64::MAX]]),
        sample([vec![text()], vec![]]),
        sample([BTreeSet::from([1_u64, 2, u64::MAX])]),
        sample([(1_u8, 2_u8)]),
        sample([(1_u64, text())]),
        sample([(1_u64, text(), 3_u8)]),
        sample([[1_u64, u64::MAX]]),
        sample([BTreeMap::from([(text(), 1_u8)])]),
        sample([HashMap::from([(text(), u64::MAX), ("name".to_owned(), 1)])]),
        sample([BTreeMap::from([(300_u32, 1_u8)])]),
        sample([BTreeMap::from([(1_u8, 1_u8)])]),
        sample([Item { name: text() }]),
        sample([item(7), item(u64::MAX)]),
        sample([None, Some(u64::MAX)].map(|price| MaybePricedItem {
            name: text(),
            price,
        })),
        sample([None, Some(300)].map(|price| SparseItem {
            name: text(),
            price,
        })),
        sample([StrictItem { name: text() }]),
        sample([OpenItem {
            name: text(),
            more: BTreeMap::from([("more".to_owned(), 1)]),
        }]),
        sample([TaggedItem {
            id: 1,
            shape: Shape::Circle { radius: 1 },
        }]),
        sample([vec![item(1)], vec![]]),
        sample([vec![Item { name: text() }]]),
        sample([tree()]),
        sample([Some(tree()), None]),
        sample([WideTree {
            value: u16::MAX,
            children: vec![],
            name: text(),
        }]),
        sample([Colour::Red, Colour::Green]),
        sample([
            MoreColours::Red,
            MoreColours::Green,
            MoreColours::Mixed { parts: 2 },
            MoreColours::Named(text()),
        ]),
        sample([Shape::Point, Shape::Circle { radius: 255 }]),
        sample([
            MoreShapes::Point,
            MoreShapes::Circle {
                radius: 256,
                filled: true,
            },
            MoreShapes::Square { side: 1 },
        ]),
        sample([NumberOrText::Number(1), NumberOrText::Text(text())]),
        sample([Wrapped(u64::MAX)]),
        sample([Ok(1_u8), Err(text())]),
        sample([uuid::Uuid::nil().to_string()]),
    ]
}

fn is_compatible(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.compatible)
}

#[test]
fn values_of_a_compatible_type_are_read() {
    let samples = samples();
    let mut compatible = 0;
    for written in &samples {
        for read in &samples {
            let findings = compare(
                &written.written,
                &read.read,
                written.name != read.name,
                &mut { MAX_STEPS },
            );
            if !is_compatible(&findings) {
                continue;
            }
            compatible += 1;
            for (format, bytes) in &written.values {
                assert!(
                    (read.reads)(*format, bytes),
                    "{} is judged readable as {}: {findings:?}\n{}\n{}",
                    written.name,
                    read.name,
                    written.written,
                    read.read
                );
            }
        }
    }
    // Each type is readable as itself, and many are as others.
    assert!(compatible > 2 * samples.len(), "{compatible}");
}

#[test]
fn types_that_are_judged_incompatible_are_unreadable_or_undecided() {
    let samples = samples();
    let mut strict = Vec::new();
    for written in &samples {
        for read in &samples {
            let findings = compare(
                &written.written,
                &read.read,
                written.name != read.name,
                &mut { MAX_STEPS },
            );
            let reads = |(format, bytes): &(_, Vec<u8>)| (read.reads)(*format, bytes);
            if !is_compatible(&findings) && written.values.iter().all(reads) {
                let is_undecided = |it: &Finding| it.text.contains("cannot be decided");
                assert!(
                    findings.iter().any(is_undecided),
                    "{} is readable as {}: {findings:?}",
                    written.name,
                    read.name
                );
                strict.push((written.name, read.name));
            }
        }
    }
    let bytes = [
        type_name::<Vec<u8>>(),
        type_name::<[u8; 2]>(),
        type_name::<(u8, u8)>(),
    ];
    strict.retain(|(written, read)| !bytes.contains(written) || !bytes.contains(read));
    let maps = (
        type_name::<BTreeMap<u8, u8>>(),
        type_name::<BTreeMap<u32, u8>>(),
    );
    strict.retain(|(written, _)| *written != type_name::<()>());
    assert_eq!(strict, [maps]);
}

fn texts(written: &str, read: &str) -> Vec<String> {
    let findings = compare(written, read, true, &mut { MAX_STEPS });
    findings.into_iter().map(|finding| finding.text).collect()
}

#[test]
fn differences_name_their_places() {
    let find = |name: &str| {
        let name = name.to_owned();
        samples()
            .into_iter()
            .find(|it| it.name.ends_with(&name))
            .unwrap()
    };
    let (shape, more) = (find("::Shape"), find("::MoreShapes"));
    assert_eq!(
        texts(&more.written, &shape.read),
        [
            "only the sender has the field 'filled'",
            "'.radius': integers from 0 to 4294967295 may be sent, and integers from 0 to 255 can be read",
            "'Square' may be sent, and the receiver does not know it"
        ]
    );
    assert_eq!(
        texts(&shape.written, &more.read),
        [
            "'.radius': integers from 0 to 255 are sent, and integers from 0 to 4294967295 can be read",
            "only the receiver has the field 'filled', which is optional",
            "only the receiver knows 'Square'"
        ]
    );
    let (tree, wide) = (find("tests::Tree"), find("tests::WideTree"));
    assert!(is_compatible(&compare(
        &tree.written,
        &wide.read,
        true,
        &mut { MAX_STEPS }
    )));
    assert!(!is_compatible(&compare(
        &wide.written,
        &tree.read,
        true,
        &mut { MAX_STEPS }
    )));
}

#[test]
fn docs_are_not_compared() {
    let written = r#"{"type": "string", "description": "a", "title": "A"}"#;
    assert_eq!(
        texts(written, r#"{"type": "string"}"#),
        Vec::<String>::new()
    );
}

#[test]
fn hostile_schemas_end_the_comparison() {
    let text = r#"{"type": "string"}"#;
    let doubling: String = (0..12)
        .map(|n| {
            let next = format!("{{\"$ref\": \"#/$defs/{}\"}}", n + 1);
            format!("\"{n}\": {{\"anyOf\": [{next}, {next}, {next}, {next}]}},")
        })
        .collect();
    let doubling = format!(
        "{{\"$ref\": \"#/$defs/0\", \"$defs\": {{{doubling} \"12\": {{\"type\": \"null\"}}}}}}"
    );
    let deep = format!("{}{{}}{}", "{\"items\":".repeat(100), "}".repeat(100))
        .replace("{\"items\"", "{\"type\": \"array\", \"items\"");
    for (hostile, reason) in [
        ("", "a schema is not JSON"),
        ("5", "a schema is malformed"),
        (r#"{"$ref": 5}"#, "a reference has no target"),
        (r##"{"$ref": "#/$defs/A"}"##, "a reference has no target"),
        (r##"{"$ref": "#"}"##, "the schemas are nested too deep"),
        (r#"{"anyOf": {}}"#, "a schema is malformed"),
        (r#"{"type": 5}"#, "a schema is malformed"),
        (
            r#"{"type": "string", "required": 5}"#,
            "a schema is malformed",
        ),
        (
            r#"{"anyOf": [], "oneOf": []}"#,
            "a schema combines alternatives",
        ),
        (&doubling, "the schemas are too large"),
        (&" ".repeat(MAX_SCHEMA + 1), "a schema is too long"),
    ] {
        let expected = [format!("cannot be decided: {reason}")];
        assert_eq!(texts(hostile, text), expected, "{hostile:.80}");
        assert_eq!(texts(text, hostile), expected, "{hostile:.80}");
    }
    let other = deep.replace("{}", r#"{"type": "null"}"#);
    assert_eq!(
        texts(&deep, &other),
        ["cannot be decided: the schemas are nested too deep"]
    );
}

/// A schema of 10,000 alternatives, all of which are another schema.
fn repeated(schema: &str) -> String {
    let several = |name: &str| {
        let reference = format!("{{\"$ref\": \"#/$defs/{name}\"}}");
        format!("{{\"anyOf\": [{}]}}", vec![reference; 100].join(","))
    };
    let (outer, inner) = (several("b"), several("a"));
    format!("{{\"anyOf\": [{outer}], \"$defs\": {{\"a\": {schema}, \"b\": {inner}}}}}")
}

#[test]
fn the_work_for_a_hostile_schema_is_limited() {
    let own =
        r#"{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}"#;
    let properties: Vec<_> = (0..3_000).map(|n| format!("\"{n}\": true")).collect();
    let properties = properties.join(",");
    // Each alternative would get a copy of all properties.
    let wide = format!(
        "{{\"properties\": {{{properties}}}, \"anyOf\": [{}true]}}",
        "true,".repeat(3_000)
    );
    let kinds = format!(
        "{{\"properties\": {{{properties}}}, \"type\": [{}\"null\"]}}",
        "\"object\",".repeat(3_000)
    );
    for schema in [&wide, &kinds] {
        for (written, read) in [(schema.as_str(), own), (own, schema)] {
            let texts = texts(written, read);
            assert_eq!(texts, ["cannot be decided: the schemas are too large"]);
        }
    }
}

#[test]
fn the_differences_of_a_hostile_schema_are_few_and_short() {
    let own =
        r#"{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}"#;
    let long = "ü".repeat(15_000);
    let constant = format!("{{\"const\": \"{long}\"}}");
    let field = format!(
        "{{\"type\": \"object\", \"properties\": {{\"{long}\": true}}, \"required\": [\"{long}\"]}}"
    );
    for schema in [repeated(&constant), repeated(&field)] {
        for (written, read) in [(schema.as_str(), own), (own, &schema)] {
            let findings = compare(written, read, true, &mut { MAX_STEPS });
            assert!((1..=MAX_FINDINGS).contains(&findings.len()));
            assert!(!findings[0].compatible);
            assert!(findings.iter().all(|it| it.text.len() < 3 * MAX_SHOWN));
        }
    }
}

#[test]
fn all_types_of_a_contract_share_a_limit_of_the_work() {
    let (written, read) = (
        r#"{"type": "string"}"#,
        r#"{"type": "string", "format": "x"}"#,
    );
    let mut steps = 10;
    let mut compared = std::iter::repeat_with(|| {
        let findings = compare(written, read, true, &mut steps);
        findings[0].text.clone()
    });
    let exhausted = compared
        .by_ref()
        .take(10)
        .position(|it| it.contains("too large"));
    assert!(
        exhausted.is_some_and(|position| position > 0),
        "{exhausted:?}"
    );
    assert!(compared.next().unwrap().contains("too large"));
}
