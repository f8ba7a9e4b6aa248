//! Dialects of JSON Schema, and the places of schemas in schemas.

use serde_json::{Map, Value, json};

/// Dialect of the schemas in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Dialect {
    /// The Schema Object of AsyncAPI 3.0.0, a superset of draft 07.
    AsyncApi,
    /// JSON Schema of draft 2020-12, as descriptions have it.
    Draft202012,
}

/// Keywords with one schema.
const ONE: [&str; 12] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Keywords with an array of schemas.
const ARRAY: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];

/// Keywords with schemas by name.
const MAP: [&str; 5] = [
    "$defs",
    "definitions",
    "dependentSchemas",
    "patternProperties",
    "properties",
];

/// Keywords that draft 07 does not know, and has no counterpart for. Without them a schema accepts more.
const NOT_IN_DRAFT_07: [&str; 8] = [
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$vocabulary",
    "maxContains",
    "minContains",
    "unevaluatedItems",
    "unevaluatedProperties",
];

impl Dialect {
    /// Returns a reference to a named schema of the document.
    pub(super) fn reference(self, name: &str) -> String {
        match self {
            Self::AsyncApi => format!("#/components/schemas/{name}"),
            Self::Draft202012 => format!("#/$defs/{name}"),
        }
    }

    /// Translates a schema of draft 2020-12 with all schemas in it.
    pub(super) fn translate(self, schema: &mut Value) {
        children(schema, &mut |child| self.translate(child));
        self.translate_node(schema);
    }

    /// Translates a schema whose inner schemas are translated.
    pub(super) fn translate_node(self, schema: &mut Value) {
        let Some(schema) = schema.as_object_mut() else {
            return;
        };
        // The schema moves to another document.
        schema.remove("$id");
        if self == Self::Draft202012 {
            return;
        }
        if let Some(items) = schema.remove("prefixItems")
            && let Some(others) = schema.insert("items".to_owned(), items)
        {
            schema.insert("additionalItems".to_owned(), others);
        }
        let mut dependencies = Map::new();
        for keyword in ["dependentRequired", "dependentSchemas"] {
            if let Some(Value::Object(map)) = schema.remove(keyword) {
                dependencies.extend(map);
            }
        }
        if !dependencies.is_empty() {
            schema.insert("dependencies".to_owned(), dependencies.into());
        }
        for keyword in NOT_IN_DRAFT_07 {
            schema.remove(keyword);
        }
        // The official parser takes every member `$ref` for a reference, that of a field's name as well.
        let properties = schema.get_mut("properties");
        let field = properties.and_then(|it| it.as_object_mut()?.remove("$ref"));
        if let Some(field) = field {
            let patterns = schema
                .entry("patternProperties")
                .or_insert_with(|| json!({}));
            patterns[r"^\$ref$"] = field;
        }
        // Draft 07 ignores the keywords beside a reference.
        if schema.len() > 1
            && let Some(reference) = schema.remove("$ref")
        {
            let all = schema.entry("allOf").or_insert_with(|| json!([]));
            if let Some(all) = all.as_array_mut() {
                all.push(json!({ "$ref": reference }));
            }
        }
    }
}

/// Calls a function for each schema directly inside a schema.
pub(super) fn children(schema: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    for (keyword, value) in schema.iter_mut() {
        let keyword = keyword.as_str();
        match value {
            Value::Object(map) if MAP.contains(&keyword) => map.values_mut().for_each(&mut *visit),
            Value::Array(array) if ARRAY.contains(&keyword) => {
                array.iter_mut().for_each(&mut *visit);
            }
            value if ONE.contains(&keyword) => visit(value),
            _ => {}
        }
    }
}

/// Returns the references in a schema.
pub(super) fn references(schema: &Value) -> Vec<String> {
    fn collect(schema: &mut Value, found: &mut Vec<String>) {
        let reference = schema.get("$ref").and_then(Value::as_str);
        found.extend(reference.map(str::to_owned));
        children(schema, &mut |child| collect(child, found));
    }
    let mut found = Vec::new();
    collect(&mut schema.clone(), &mut found);
    found
}
