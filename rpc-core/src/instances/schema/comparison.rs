//! The comparison itself, on parsed schemas.

mod node;
mod range;

use std::fmt::Display;

use serde_json::{Map, Value};

use self::node::{Node, Undecided, kind_of, shown, shown_value};
use self::range::Range;
use super::finding::Finding;

/// Longest schema that is compared, in bytes.
const MAX_SCHEMA: usize = 256 * 1024;

/// Limit of the work for one type: the number of schemas that are looked at, each alternative and each pair counted. Large schemas count
/// several times.
const MAX_STEPS: u32 = 50_000;

/// Number of keywords, names of fields included, that one step covers.
const KEYWORDS_PER_STEP: usize = 8;

/// Number of differences that are kept for one type, the incompatible ones first.
const MAX_FINDINGS: usize = 100;

/// Limit of the depth, in schemas inside one another.
const MAX_DEPTH: usize = 32;

/// Compares the schema of the values that are written with the schema of the values that can be read. `is_renamed` tells that the Rust
/// types have different names. `steps` is the work that is left for the whole contract.
pub(in crate::instances) fn compare(
    written: &str,
    read: &str,
    is_renamed: bool,
    steps: &mut u32,
) -> Vec<Finding> {
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
        steps: MAX_STEPS.min(*steps),
        open: Vec::new(),
        place: Vec::new(),
    };
    let before = comparison.steps;
    let compared = comparison.schemas(&written, &read);
    *steps -= before - comparison.steps;
    let mut findings =
        compared.unwrap_or_else(|Undecided(reason)| vec![Finding::undecided(reason)]);
    if findings.len() > MAX_FINDINGS {
        findings.sort_by_key(|finding| finding.compatible);
        findings.truncate(MAX_FINDINGS);
    }
    findings
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
    /// Counts steps.
    fn take_steps(&mut self, steps: usize) -> Result<(), Undecided> {
        let steps = u32::try_from(steps).ok();
        let left = steps.and_then(|steps| self.steps.checked_sub(steps));
        self.steps = left.unwrap_or(0);
        left.map(drop).ok_or(Undecided("the schemas are too large"))
    }

    /// Counts one step, or several if it looks at many keywords.
    fn step(&mut self, keywords: usize) -> Result<(), Undecided> {
        self.take_steps(1 + keywords / KEYWORDS_PER_STEP)
    }

    /// Adds the keywords beside the alternatives to each of them.
    fn merged(
        &mut self,
        nodes: Vec<Node<'a>>,
        base: &Node<'a>,
    ) -> Result<Vec<Node<'a>>, Undecided> {
        self.take_steps(nodes.len() * base.size() / KEYWORDS_PER_STEP)?;
        nodes.into_iter().map(|node| node.with(base)).collect()
    }

    fn finding(&self, compatible: bool, text: impl Display) -> Vec<Finding> {
        let (place, text) = (self.place.concat(), text.to_string());
        let text = match place.is_empty() {
            true => shown(&text).into_owned(),
            false => format!("'{}': {}", shown(&place), shown(&text)),
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
        self.place.push(shown(&place.to_string()).into_owned());
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
        self.step(keywords(schema))?;
        if depth >= MAX_DEPTH {
            return Err(Undecided("the schemas are nested too deep"));
        }
        let schema = match schema {
            Value::Bool(true) => return Ok(vec![Node::default()]),
            Value::Bool(false) => return Ok(Vec::new()),
            Value::Object(schema) => schema,
            _ => return Err(Undecided("a schema is malformed")),
        };
        let keyword = keyword_of_alternatives(schema)?;
        let base = Node::of(schema, keyword);
        match (keyword, schema.get(keyword)) {
            ("$ref", Some(target)) => {
                let target = target.as_str().and_then(|it| it.strip_prefix('#'));
                let target = target.and_then(|pointer| root.pointer(pointer));
                let target = target.ok_or(Undecided("a reference has no target"))?;
                let nodes = self.expanded(root, target, depth + 1)?;
                self.merged(nodes, &base?)
            }
            ("anyOf" | "oneOf", Some(Value::Array(schemas))) => {
                let base = base?;
                let mut nodes = Vec::new();
                for schema in schemas {
                    let alternatives = self.expanded(root, schema, depth + 1)?;
                    nodes.extend(self.merged(alternatives, &base)?);
                }
                Ok(nodes)
            }
            // Each value determines its type, which may stand beside the values as one or several.
            ("enum", Some(Value::Array(values))) => {
                let constant = |value| Node {
                    constant: Some(value),
                    ..Node::default()
                };
                self.take_steps(values.len())?;
                Ok(values.iter().map(constant).collect())
            }
            ("type", Some(Value::Array(kinds))) => {
                let base = base?;
                let mut nodes = Vec::new();
                for kind in kinds.iter().filter_map(Value::as_str) {
                    self.step(base.size())?;
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
        self.step(written.size() + read.size())?;
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
                _ => {
                    let expected = match expected {
                        Value::String(text) => format!("\"{}\"", shown(text)),
                        other => shown_value(other),
                    };
                    let sent = written.label();
                    self.incompatible(format!("{sent} is sent, and {expected} is expected"))
                }
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
        all.extend(self.other_fields(written, read)?);
        Ok(all)
    }

    /// Compares the fields without a schema of their own, such as the entries of a map.
    fn other_fields(
        &mut self,
        written: &Node<'a>,
        read: &Node<'a>,
    ) -> Result<Vec<Finding>, Undecided> {
        let Some(sent @ (Value::Object(_) | Value::Bool(true))) = written.other_fields() else {
            return Ok(Vec::new());
        };
        match read.other_fields() {
            Some(Value::Bool(false)) => {
                Ok(self
                    .incompatible("any field may be sent, and the receiver denies unknown fields"))
            }
            Some(expected) => self.at("[]", sent, expected),
            None => {
                let text = "any field may be sent, and the receiver ignores unknown fields";
                Ok(self.finding(true, text))
            }
        }
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

/// Returns the keyword of the alternatives in a schema; empty if there are none.
fn keyword_of_alternatives(schema: &Map<String, Value>) -> Result<&'static str, Undecided> {
    let keywords = ["$ref", "anyOf", "oneOf", "enum"].into_iter();
    let types = schema.get("type").filter(|it| it.is_array());
    let mut found = keywords
        .filter(|keyword| schema.contains_key(*keyword))
        .chain(types.map(|_| "type"));
    let keyword = found.next().unwrap_or("");
    match keyword != "enum" && found.next().is_some() {
        true => Err(Undecided("a schema combines alternatives")),
        false => Ok(keyword),
    }
}

/// Number of keywords of a schema, names of fields included. A reference counts by its length, because its target is found by the text.
fn keywords(schema: &Value) -> usize {
    let Value::Object(schema) = schema else {
        return 0;
    };
    let within = |value: &Value| match value {
        Value::Object(fields) => fields.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    let parts = ["properties", "required"].map(|keyword| schema.get(keyword).map_or(0, within));
    let reference = schema.get("$ref").and_then(Value::as_str);
    schema.len() + parts[0] + parts[1] + reference.map_or(0, str::len) / 100
}

fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref").and_then(Value::as_str)
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

#[cfg(all(test, feature = "json"))]
mod tests;
