//! A schema in parts, and its texts for people.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

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

/// Longest text of a schema in a difference, in bytes: the name of a field, a value, or the place of a difference.
pub(super) const MAX_SHOWN: usize = 200;

/// The reason why two schemas cannot be compared.
pub(super) struct Undecided(pub(super) &'static str);

/// A schema without references and alternatives.
#[derive(Clone, Default)]
pub(super) struct Node<'a> {
    /// JSON type; `None` for any type.
    pub(super) kind: Option<&'a str>,
    /// The only value.
    pub(super) constant: Option<&'a Value>,
    pub(super) properties: BTreeMap<&'a str, &'a Value>,
    pub(super) required: BTreeSet<&'a str>,
    /// All other keywords that restrict values.
    pub(super) rest: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Node<'a> {
    /// Takes the keywords of a schema, except for those of its alternatives.
    pub(super) fn of(
        schema: &'a Map<String, Value>,
        alternatives: &str,
    ) -> Result<Self, Undecided> {
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

    /// Number of keywords, each property and each required name counted.
    pub(super) fn size(&self) -> usize {
        self.properties.len() + self.required.len() + self.rest.len()
    }

    /// Adds the keywords that stand beside the alternatives to one of them.
    pub(super) fn with(mut self, other: &Self) -> Result<Self, Undecided> {
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
    pub(super) fn other_fields(&self) -> Option<&'a Value> {
        let mut keywords = ["additionalProperties", "unevaluatedProperties"].iter();
        keywords.find_map(|keyword| self.rest.get(keyword).copied())
    }

    /// The schema of the item at a position of a list.
    pub(super) fn item(&self, position: usize) -> Option<&'a Value> {
        let prefix = self.rest.get("prefixItems").and_then(|it| it.as_array());
        let fixed = prefix.and_then(|items| items.get(position));
        fixed.or_else(|| self.rest.get("items").copied())
    }

    /// Number of items with a schema of their own.
    pub(super) fn fixed_items(&self) -> usize {
        let prefix = self.rest.get("prefixItems").and_then(|it| it.as_array());
        prefix.map_or(0, Vec::len)
    }

    pub(super) fn length(&self, keyword: &str) -> Option<u64> {
        self.rest.get(keyword).and_then(|value| value.as_u64())
    }

    /// Name of the alternative for people.
    pub(super) fn label(&self) -> String {
        let tag = || self.properties.values().find_map(|it| it.get("const"));
        if let Some(value) = self.constant.or_else(tag) {
            return shown_value(value);
        }
        match (self.required.first(), self.kind) {
            (Some(field), _) if self.required.len() == 1 => shown(field).into_owned(),
            (_, Some(kind)) => shown(kind).into_owned(),
            (_, None) => "any".to_owned(),
        }
    }
}

/// Returns a text of a schema as differences show it: long ones are cut.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_SHOWN {
        return text.into();
    }
    let mut end = MAX_SHOWN;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end]).into()
}

/// Returns a value as differences show it. Lists and maps, which may be long, are not shown.
pub(super) fn shown_value(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text).into_owned(),
        Value::Array(_) | Value::Object(_) => kind_of(value).to_owned(),
        _ => value.to_string(),
    }
}

pub(super) fn kind_of(value: &Value) -> &'static str {
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
