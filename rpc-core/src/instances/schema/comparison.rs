//! The comparison itself, on parsed schemas.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde_json::{Map, Number, Value};

use super::finding::Finding;

/// Longest schema that is compared, in bytes.
const MAX_SCHEMA: usize = 256 * 1024;

/// Limit of the work: the number of schemas that are looked at, each alternative and each pair counted.
const MAX_STEPS: u32 = 50_000;

/// Limit of the depth, in schemas inside one another.
const MAX_DEPTH: usize = 32;

/// Keywords that do not restrict values.
const ANNOTATIONS: [&str; 12] = [
    "$schema",
    "$id",
    "$defs",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    // A set reads a list with duplicates.
    "uniqueItems",
];

/// Compares the schema of the values that are written with the schema of the values that can be read. `is_renamed` tells that the Rust
/// types have different names.
pub(in crate::instances) fn compare(written: &str, read: &str, is_renamed: bool) -> Vec<Finding> {
    if written == read {
        return Vec::new();
    }
    if written.len().max(read.len()) > MAX_SCHEMA {
        return vec![Finding::undecided("a schema is too long")];
    }
    let (Ok(written), Ok(read)) = (serde_json::from_str(written), serde_json::from_str(read))
    else {
        return vec![Finding::undecided("a schema is not JSON")];
    };
    let mut comparison = Comparison {
        written_root: &written,
        read_root: &read,
        is_renamed,
        steps: MAX_STEPS,
        open: Vec::new(),
        place: Vec::new(),
    };
    match comparison.schemas(&written, &read) {
        Ok(findings) => findings,
        Err(Undecided(reason)) => vec![Finding::undecided(reason)],
    }
}

/// The reason why two schemas cannot be compared.
struct Undecided(&'static str);

/// A schema without references and alternatives.
#[derive(Clone, Default)]
struct Node<'a> {
    /// JSON type; `None` for any type.
    kind: Option<&'a str>,
    /// The only value.
    constant: Option<&'a Value>,
    properties: BTreeMap<&'a str, &'a Value>,
    required: BTreeSet<&'a str>,
    /// All other keywords that restrict values.
    rest: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Node<'a> {
    /// Takes the keywords of a schema, except for those of its alternatives.
    fn of(schema: &'a Map<String, Value>, alternatives: &str) -> Result<Self, Undecided> {
        let mut node = Self::default();
        for (keyword, value) in schema {
            match (&**keyword, value) {
                (keyword, _) if keyword == alternatives || ANNOTATIONS.contains(&keyword) => {}
                ("type", Value::String(kind)) => node.kind = Some(kind),
                ("const", value) => node.constant = Some(value),
                ("properties", Value::Object(properties)) => {
                    let properties = properties.iter();
                    node.properties = properties.map(|(name, value)| (&**name, value)).collect();
                }
                ("required", Value::Array(names)) => {
                    node.required = names.iter().filter_map(Value::as_str).collect();
                }
                ("type" | "properties" | "required", _) => {
                    return Err(Undecided("a schema is malformed"));
                }
                (keyword, value) => {
                    node.rest.insert(keyword, value);
                }
            }
        }
        Ok(node)
    }

    /// Adds the keywords that stand beside the alternatives to one of them.
    fn with(mut self, other: &Self) -> Result<Self, Undecided> {
        fn merge<'a, T: PartialEq>(
            own: &mut BTreeMap<&'a str, T>,
            name: &'a str,
            value: T,
        ) -> Result<(), Undecided> {
            let contradicts = own.get(name).is_some_and(|own| *own != value);
            own.insert(name, value);
            match contradicts {
                true => Err(Undecided(
                    "an alternative contradicts the keywords beside it",
                )),
                false => Ok(()),
            }
        }
        let mut kinds = BTreeMap::from_iter(self.kind.map(|kind| ("type", kind)));
        if let Some(kind) = other.kind {
            merge(&mut kinds, "type", kind)?;
        }
        self.kind = kinds.into_values().next();
        let mut constants = BTreeMap::from_iter(self.constant.map(|value| ("const", value)));
        if let Some(value) = other.constant {
            merge(&mut constants, "const", value)?;
        }
        self.constant = constants.into_values().next();
        for (name, value) in &other.properties {
            merge(&mut self.properties, name, *value)?;
        }
        for (name, value) in &other.rest {
            merge(&mut self.rest, name, *value)?;
        }
        self.required.extend(&other.required);
        Ok(self)
    }

    /// The schema of fields without a schema of their own: `None` if the schema does not mention them.
    fn other_fields(&self) -> Option<&'a Value> {
        let mut keywords = ["additionalProperties", "unevaluatedProperties"].iter();
        keywords.find_map(|keyword| self.rest.get(keyword).copied())
    }

    /// The schema of the item at a position of a list.
    fn item(&self, position: usize) -> Option<&'a Value> {
        let prefix = self.rest.get("prefixItems").and_then(|it| it.as_array());
        let fixed = prefix.and_then(|items| items.get(position));
        fixed.or_else(|| self.rest.get("items").copied())
    }

    /// Number of items with a schema of their own.
    fn fixed_items(&self) -> usize {
        let prefix = self.rest.get("prefixItems").and_then(|it| it.as_array());
        prefix.map_or(0, Vec::len)
    }

    fn length(&self, keyword: &str) -> Option<u64> {
        self.rest.get(keyword).and_then(|value| value.as_u64())
    }

    /// Name of the alternative for people.
    fn label(&self) -> String {
        let tag = || self.properties.values().find_map(|it| it.get("const"));
        if let Some(value) = self.constant.or_else(tag) {
            return value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
        }
        match (self.required.first(), self.kind) {
            (Some(field), _) if self.required.len() == 1 => (*field).to_owned(),
            (_, Some(kind)) => kind.to_owned(),
            (_, None) => "any".to_owned(),
        }
    }
}

struct Comparison<'a> {
    written_root: &'a Value,
    read_root: &'a Value,
    is_renamed: bool,
    steps: u32,
    /// References whose comparison has begun: types that contain themselves.
    open: Vec<(&'a str, &'a str)>,
    /// Fields and items on the way to the place.
    place: Vec<String>,
}

impl<'a> Comparison<'a> {
    fn step(&mut self) -> Result<(), Undecided> {
        self.steps = self
            .steps
            .checked_sub(1)
            .ok_or(Undecided("the schemas are too large"))?;
        Ok(())
    }

    fn finding(&self, compatible: bool, text: impl Display) -> Vec<Finding> {
        let place = self.place.concat();
        let text = match place.is_empty() {
            true => text.to_string(),
            false => format!("'{place}': {text}"),
        };
        vec![Finding { text, compatible }]
    }

    fn incompatible(&self, text: impl Display) -> Vec<Finding> {
        self.finding(false, text)
    }

    fn undecided(&self, reason: &str) -> Vec<Finding> {
        self.incompatible(Finding::undecided(reason).text)
    }

    /// Returns `true` if the Rust types at this place may differ: the name of a type does not show the types of its fields.
    fn is_other_type(&self) -> bool {
        self.is_renamed && !self.place.iter().any(|place| place.starts_with('.'))
    }

    /// Compares two schemas at a place inside the current one.
    fn at(
        &mut self,
        place: impl Display,
        written: &'a Value,
        read: &'a Value,
    ) -> Result<Vec<Finding>, Undecided> {
        if self.place.len() >= MAX_DEPTH {
            return Err(Undecided("the schemas are nested too deep"));
        }
        self.place.push(place.to_string());
        let findings = self.schemas(written, read);
        self.place.pop();
        findings
    }

    fn schemas(&mut self, written: &'a Value, read: &'a Value) -> Result<Vec<Finding>, Undecided> {
        let references = reference(written).zip(reference(read));
        if let Some(pair) = references {
            if self.open.contains(&pair) {
                return Ok(Vec::new());
            }
            self.open.push(pair);
        }
        let findings = self.alternatives(written, read);
        if references.is_some() {
            self.open.pop();
        }
        findings
    }

    fn alternatives(
        &mut self,
        written: &'a Value,
        read: &'a Value,
    ) -> Result<Vec<Finding>, Undecided> {
        let written = self.expanded(self.written_root, written, 0)?;
        let read = self.expanded(self.read_root, read, 0)?;
        let findings = self.nodes_of(&written, &read)?;
        let is_unit = matches!(&*written, [node] if node.kind == Some("null"));
        let is_compatible = findings.iter().all(|finding| finding.compatible);
        Ok(match is_unit && is_compatible && self.is_other_type() {
            true => self.undecided("`()` and structs without fields differ in MessagePack"),
            false => findings,
        })
    }

    /// Compares alternatives: each one that is written has to be readable as one that can be read.
    fn nodes_of(
        &mut self,
        written: &[Node<'a>],
        read: &[Node<'a>],
    ) -> Result<Vec<Finding>, Undecided> {
        if let ([written], [read]) = (written, read) {
            return self.nodes(written, read);
        }
        let mut all = Vec::new();
        let mut is_used = vec![false; read.len()];
        for written in written {
            let label = written.label();
            // The alternative that reads the values, else the one of the same name.
            let mut best = None;
            for (position, read) in read.iter().enumerate() {
                let findings = self.nodes(written, read)?;
                if findings.iter().all(|finding| finding.compatible) {
                    best = Some((position, findings));
                    break;
                }
                if read.label() == label {
                    best = Some((position, findings));
                }
            }
            match best {
                Some((position, findings)) => {
                    is_used[position] = true;
                    all.extend(findings);
                }
                None => all.extend(self.incompatible(format!(
                    "'{label}' may be sent, and the receiver does not know it"
                ))),
            }
        }
        for (read, _) in read.iter().zip(is_used).filter(|(_, is_used)| !is_used) {
            let label = read.label();
            all.extend(self.finding(true, format!("only the receiver knows '{label}'")));
        }
        Ok(all)
    }

    /// Follows references and lists the alternatives. A schema without values has none.
    fn expanded(
        &mut self,
        root: &'a Value,
        schema: &'a Value,
        depth: usize,
    ) -> Result<Vec<Node<'a>>, Undecided> {
        self.step()?;
        if depth >= MAX_DEPTH {
            return Err(Undecided("the schemas are nested too deep"));
        }
        let schema = match schema {
            Value::Bool(true) => return Ok(vec![Node::default()]),
            Value::Bool(false) => return Ok(Vec::new()),
            Value::Object(schema) => schema,
            _ => return Err(Undecided("a schema is malformed")),
        };
        let mut found = ["$ref", "anyOf", "oneOf", "enum"]
            .into_iter()
            .filter(|keyword| schema.contains_key(*keyword))
            .chain(
                schema
                    .get("type")
                    .filter(|it| it.is_array())
                    .map(|_| "type"),
            );
        let keyword = found.next().unwrap_or("");
        if keyword != "enum" && found.next().is_some() {
            return Err(Undecided("a schema combines alternatives"));
        }
        let base = Node::of(schema, keyword);
        match (keyword, schema.get(keyword)) {
            ("$ref", Some(target)) => {
                let target = target.as_str().and_then(|it| it.strip_prefix('#'));
                let target = target.and_then(|pointer| root.pointer(pointer));
                let target = target.ok_or(Undecided("a reference has no target"))?;
                let nodes = self.expanded(root, target, depth + 1)?;
                merged(nodes, &base?)
            }
            ("anyOf" | "oneOf", Some(Value::Array(schemas))) => {
                let base = base?;
                let mut nodes = Vec::new();
                for schema in schemas {
                    nodes.extend(merged(self.expanded(root, schema, depth + 1)?, &base)?);
                }
                Ok(nodes)
            }
            // Each value determines its type, which may stand beside the values as one or several.
            ("enum", Some(Value::Array(values))) => {
                let constant = |value| Node {
                    constant: Some(value),
                    ..Node::default()
                };
                values.iter().try_for_each(|_| self.step())?;
                Ok(values.iter().map(constant).collect())
            }
            ("type", Some(Value::Array(kinds))) => {
                let base = base?;
                let mut nodes = Vec::new();
                for kind in kinds.iter().filter_map(Value::as_str) {
                    self.step()?;
                    nodes.push(Node {
                        kind: Some(kind),
                        ..base.clone()
                    });
                }
                Ok(nodes)
            }
            ("", _) => Ok(vec![base?]),
            _ => Err(Undecided("a schema is malformed")),
        }
    }

    fn nodes(&mut self, written: &Node<'a>, read: &Node<'a>) -> Result<Vec<Finding>, Undecided> {
        self.step()?;
        if let Some(keyword) = read.rest.keys().find(|keyword| !is_known(keyword)) {
            // A restriction that this comparison does not know, such as the format of a text.
            let same = written.rest.get(keyword) == read.rest.get(keyword);
            let refers = read.rest[keyword].is_object() || read.rest[keyword].is_array();
            if !same || refers {
                let reason = format!("the receiver restricts values by '{keyword}'");
                return Ok(self.undecided(&reason));
            }
        }
        if let Some(expected) = read.constant {
            return Ok(match written.constant {
                Some(value) if value == expected => Vec::new(),
                _ => self.incompatible(format!(
                    "{} is sent, and {expected} is expected",
                    written.label()
                )),
            });
        }
        let Some(expected) = read.kind else {
            let is_any =
                read.properties.is_empty() && read.required.is_empty() && read.rest.is_empty();
            return Ok(match is_any {
                true => Vec::new(),
                false => self.undecided("the receiver restricts values of an unknown type"),
            });
        };
        let sent = match written.constant {
            Some(value) => Some(kind_of(value)),
            None => written.kind,
        };
        match (sent, expected) {
            (Some("null"), "null") | (Some("boolean"), "boolean") => Ok(Vec::new()),
            (Some("string"), "string") => Ok(self.texts(written, read)),
            (Some("integer"), "integer") => Ok(self.integers(written, read)),
            (Some("integer"), "number") => Ok(self.integer_as_float(written)),
            (Some("number"), "number") => Ok(self.floats(written, read)),
            (Some("array"), "array") if written.constant.is_none() => self.lists(written, read),
            (Some("object"), "object") if written.constant.is_none() => self.objects(written, read),
            (Some(sent), _) => {
                Ok(self.incompatible(format!("'{sent}' is sent, and '{expected}' is expected")))
            }
            (None, _) => Ok(self.incompatible(format!(
                "any value may be sent, and '{expected}' is expected"
            ))),
        }
    }

    fn texts(&self, written: &Node<'a>, read: &Node<'a>) -> Vec<Finding> {
        let mut restrictions = ["format", "pattern", "minLength", "maxLength"].iter();
        let differs = |keyword: &&&str| {
            let expected = read.rest.get(**keyword);
            expected.is_some() && expected != written.rest.get(**keyword)
        };
        match restrictions.find(differs) {
            Some(keyword) => self.incompatible(format!(
                "any text may be sent, and the receiver restricts texts by '{keyword}'"
            )),
            None => Vec::new(),
        }
    }

    fn integers(&self, written: &Node<'a>, read: &Node<'a>) -> Vec<Finding> {
        let (Some(sent), Some(expected)) = (Range::of(written), Range::of(read)) else {
            return self.undecided("the range of an integer is malformed");
        };
        if sent.min < expected.min || sent.max > expected.max {
            self.incompatible(format!(
                "integers from {sent} may be sent, and integers from {expected} can be read"
            ))
        } else if sent != expected && written.constant.is_none() {
            self.finding(
                true,
                format!("integers from {sent} are sent, and integers from {expected} can be read"),
            )
        } else {
            Vec::new()
        }
    }

    fn integer_as_float(&self, written: &Node<'a>) -> Vec<Finding> {
        // MessagePack writes larger numbers as bytes.
        let (min, max) = (i128::from(i64::MIN), u128::from(u64::MAX));
        match Range::of(written) {
            Some(sent) if sent.min >= min && sent.max <= max => {
                self.finding(true, "an integer is read as a float")
            }
            _ => self.incompatible("an integer may be sent that is too large for a float"),
        }
    }

    fn floats(&self, written: &Node<'a>, read: &Node<'a>) -> Vec<Finding> {
        let bounds = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
        if bounds
            .iter()
            .any(|it| read.rest.contains_key(it) && written.rest.get(it) != read.rest.get(it))
        {
            return self.undecided("the receiver restricts a float");
        }
        let format = |node: &Node<'a>| node.rest.get("format").and_then(|it| it.as_str());
        match (format(written), format(read)) {
            (sent, expected) if sent == expected => Vec::new(),
            (_, Some("float")) => {
                self.incompatible("a number may be sent that is too large for a float of 32 bits")
            }
            _ => self.finding(true, "a float has another size"),
        }
    }

    fn lists(&mut self, written: &Node<'a>, read: &Node<'a>) -> Result<Vec<Finding>, Undecided> {
        let is_byte = |item: Option<&Value>| {
            item.is_some_and(|it| it.get("format").is_some_and(|it| it == "uint8"))
        };
        // `Vec<u8>` and types such as `bytes::Bytes` have the same schema.
        if self.is_other_type() && is_byte(written.item(0)) && is_byte(read.item(0)) {
            return Ok(self.undecided("lists of numbers and bytes differ in MessagePack"));
        }
        let (min, max) = (
            written.length("minItems").unwrap_or(0),
            written.length("maxItems").unwrap_or(u64::MAX),
        );
        let (expected_min, expected_max) = (
            read.length("minItems").unwrap_or(0),
            read.length("maxItems").unwrap_or(u64::MAX),
        );
        if min < expected_min || max > expected_max {
            let count = |min: u64, max: u64| match max {
                u64::MAX => format!("{min} or more"),
                max if max == min => format!("{min}"),
                max => format!("{min} to {max}"),
            };
            let (sent, expected) = (count(min, max), count(expected_min, expected_max));
            return Ok(self.incompatible(format!(
                "{sent} items are sent, and {expected} are expected"
            )));
        }
        let fixed = written.fixed_items().max(read.fixed_items());
        let mut all = Vec::new();
        for position in 0..fixed {
            if (position as u64) < max {
                let (sent, expected) = (written.item(position), read.item(position));
                all.extend(self.items(format!("[{position}]"), sent, expected)?);
            }
        }
        if max > fixed as u64 {
            all.extend(self.items("[]".to_owned(), written.item(fixed), read.item(fixed))?);
        }
        Ok(all)
    }

    fn items(
        &mut self,
        place: String,
        written: Option<&'a Value>,
        read: Option<&'a Value>,
    ) -> Result<Vec<Finding>, Undecided> {
        static ANY: Value = Value::Bool(true);
        self.at(place, written.unwrap_or(&ANY), read.unwrap_or(&ANY))
    }

    fn objects(&mut self, written: &Node<'a>, read: &Node<'a>) -> Result<Vec<Finding>, Undecided> {
        let keys = "patternProperties";
        if written.rest.contains_key(keys) || read.rest.contains_key(keys) {
            // Keys that are numbers, of unknown sizes.
            let same = written.rest.get(keys) == read.rest.get(keys) && !self.is_renamed;
            if !same {
                return Ok(self.undecided("keys of maps differ or have unknown types"));
            }
            return self.pattern_values(written, read);
        }
        let mut all = Vec::new();
        for (name, schema) in &written.properties {
            let expected = read.properties.get(name).copied();
            all.extend(match (expected, read.other_fields()) {
                (Some(expected), _) | (None, Some(expected @ Value::Object(_))) => {
                    self.at(format!(".{name}"), schema, expected)?
                }
                (None, Some(Value::Bool(false))) => self.incompatible(format!(
                    "the field '{name}' is sent, and the receiver denies it"
                )),
                (None, _) => self.finding(true, format!("only the sender has the field '{name}'")),
            });
            if expected.is_some()
                && read.required.contains(name)
                && !written.required.contains(name)
            {
                all.extend(self.incompatible(format!(
                    "the field '{name}' may be left out, and the receiver requires it"
                )));
            }
        }
        for (name, schema) in &read.properties {
            if written.properties.contains_key(name) {
                continue;
            }
            if read.required.contains(name) {
                all.extend(self.incompatible(format!(
                    "only the receiver has the field '{name}', which it requires"
                )));
            } else if let Some(sent @ (Value::Object(_) | Value::Bool(true))) =
                written.other_fields()
            {
                all.extend(self.at(format!(".{name}"), sent, schema)?);
            } else {
                all.extend(self.finding(
                    true,
                    format!("only the receiver has the field '{name}', which is optional"),
                ));
            }
        }
        if let Some(sent @ (Value::Object(_) | Value::Bool(true))) = written.other_fields() {
            all.extend(match read.other_fields() {
                Some(Value::Bool(false)) => self
                    .incompatible("any field may be sent, and the receiver denies unknown fields"),
                Some(expected) => self.at("[]", sent, expected)?,
                None => self.finding(
                    true,
                    "any field may be sent, and the receiver ignores unknown fields",
                ),
            });
        }
        Ok(all)
    }

    /// Compares the values of maps whose keys are numbers.
    fn pattern_values(
        &mut self,
        written: &Node<'a>,
        read: &Node<'a>,
    ) -> Result<Vec<Finding>, Undecided> {
        let maps = (
            written.rest.get("patternProperties"),
            read.rest.get("patternProperties"),
        );
        let (Some(Value::Object(sent)), Some(Value::Object(expected))) = maps else {
            return Err(Undecided("a schema is malformed"));
        };
        let mut all = Vec::new();
        for ((_, sent), (_, expected)) in sent.iter().zip(expected) {
            all.extend(self.at("[]", sent, expected)?);
        }
        Ok(all)
    }
}

fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref").and_then(Value::as_str)
}

fn merged<'a>(nodes: Vec<Node<'a>>, base: &Node<'a>) -> Result<Vec<Node<'a>>, Undecided> {
    nodes.into_iter().map(|node| node.with(base)).collect()
}

/// Returns `true` for the keywords that the comparison takes into account.
fn is_known(keyword: &str) -> bool {
    [
        "format",
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
    ]
    .contains(&keyword)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The integers that a schema allows.
#[derive(PartialEq)]
struct Range {
    min: i128,
    max: u128,
}

impl Range {
    /// Returns `None` for limits that are not integers.
    fn of(node: &Node<'_>) -> Option<Self> {
        if node.rest.contains_key("exclusiveMinimum") || node.rest.contains_key("exclusiveMaximum")
        {
            return None;
        }
        let minimum = |number: &Number| {
            number
                .as_i64()
                .map(i128::from)
                .or(number.as_u64().map(i128::from))
        };
        let maximum = |number: &Number| number.as_u64().map(u128::from);
        if let Some(Value::Number(number)) = node.constant {
            let min = minimum(number)?;
            return Some(Self {
                min,
                max: u128::try_from(min).unwrap_or(0),
            });
        }
        let format = node.rest.get("format").and_then(|it| it.as_str());
        let mut range = match format {
            Some("int8") => Self::signed(8),
            Some("int16") => Self::signed(16),
            Some("int32") => Self::signed(32),
            Some("int64" | "int") => Self::signed(64),
            Some("uint8") => Self::unsigned(8),
            Some("uint16") => Self::unsigned(16),
            Some("uint32") => Self::unsigned(32),
            Some("uint64" | "uint") => Self::unsigned(64),
            Some("uint128") => Self::unsigned(128),
            Some("int128") => Self::signed(128),
            _ => Self {
                min: i128::MIN,
                max: u128::MAX,
            },
        };
        if let Some(limit) = node.rest.get("minimum") {
            range.min = range.min.max(limit.as_number().and_then(minimum)?);
        }
        if let Some(limit) = node.rest.get("maximum") {
            range.max = range.max.min(limit.as_number().and_then(maximum)?);
        }
        Some(range)
    }

    fn signed(bits: u32) -> Self {
        let max = i128::MAX >> (128 - bits);
        Self {
            min: -max - 1,
            max: max.unsigned_abs(),
        }
    }

    fn unsigned(bits: u32) -> Self {
        Self {
            min: 0,
            max: u128::MAX >> (128 - bits),
        }
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

#[cfg(all(test, feature = "json"))]
mod tests;
