//! Schemas of one document: those of the types, each under a name of its own, and references between them that all resolve.

mod dialect;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rpc_core::instances::TypeInfo;
use serde_json::{Map, Value, json};

pub(super) use self::dialect::Dialect;
use self::source::Source;
pub(super) use self::source::decode;
use crate::rust_type;

/// Schemas with names, which a document has in one place.
#[derive(Debug)]
pub(super) struct Schemas {
    dialect: Dialect,
    named: Map<String, Value>,
    /// Names by the content of types. Methods that use the same type share its schema.
    names: HashMap<String, String>,
}

impl Schemas {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            named: Map::new(),
            names: HashMap::new(),
        }
    }

    /// Returns the schema of a type: the one in the description, else the one that the name of the type tells. Types of the service are named,
    /// so that their schema is a reference.
    pub(super) fn of(&mut self, ty: &TypeInfo) -> Value {
        let Some(source) = Source::parse(ty) else {
            let mut schema = rust_type::derive(&ty.rust).schema;
            self.dialect.translate(&mut schema);
            return schema;
        };
        let mut pending = Vec::new();
        let mut root = source.root().clone();
        self.resolve(&mut root, &source, &mut pending);
        while let Some((key, name)) = pending.pop() {
            let mut schema = source.definition(&key).clone();
            self.resolve(&mut schema, &source, &mut pending);
            self.named.insert(name, schema);
        }
        root
    }

    /// Adds a schema under a name that is free, because names of types have no dot. Returns a reference to the schema.
    pub(super) fn insert(&mut self, name: &str, mut schema: Value) -> Value {
        self.dialect.translate_node(&mut schema);
        self.named.insert(name.to_owned(), schema);
        json!({ "$ref": self.dialect.reference(name) })
    }

    /// Returns all schemas by their names.
    pub(super) fn into_named(self) -> Map<String, Value> {
        self.named
    }

    /// Writes the references of a schema as those of the document. `pending` gets the definitions that are referred to for the first time.
    fn resolve(
        &mut self,
        schema: &mut Value,
        source: &Source,
        pending: &mut Vec<(String, String)>,
    ) {
        dialect::children(schema, &mut |child| self.resolve(child, source, pending));
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let name = source
                .target(reference)
                .map(|key| self.name(key, source, pending));
            match (name, schema.as_object_mut()) {
                (Some(name), _) => schema["$ref"] = self.dialect.reference(&name).into(),
                // A reference to another document accepts every value.
                (None, Some(schema)) => drop(schema.remove("$ref")),
                (None, None) => {}
            }
        }
        self.dialect.translate_node(schema);
    }

    /// Returns the name of a definition in the document.
    fn name(&mut self, key: &str, source: &Source, pending: &mut Vec<(String, String)>) -> String {
        let content = source.content(key);
        if let Some(name) = self.names.get(&content) {
            return name.clone();
        }
        let name = self.free_name(key);
        self.named.insert(name.clone(), Value::Bool(true));
        self.names.insert(content, name.clone());
        pending.push((key.to_owned(), name.clone()));
        name
    }

    fn free_name(&self, wanted: &str) -> String {
        unique(&plain_name(wanted), |name| self.named.contains_key(name))
    }
}

/// Returns a text as a name in documents and files: ASCII letters, digits, `-` and `_`.
pub(super) fn plain_name(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let parts: Vec<_> = text
        .split(|c| !is_plain(c))
        .filter(|part| !part.is_empty())
        .collect();
    match parts.is_empty() {
        true => "_".to_owned(),
        false => parts.join("_"),
    }
}

/// Returns a name, or the name and a number, that is not taken.
pub(super) fn unique(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    if !is_taken(name) {
        return name.to_owned();
    }
    let mut numbered = (2u64..).map(|number| format!("{name}_{number}"));
    let free = numbered.find(|name| !is_taken(name));
    free.unwrap_or_else(|| name.to_owned())
}
