//! The schema of one type in a description, with its definitions.

use std::collections::{BTreeMap, BTreeSet};

use rpc_core::instances::TypeInfo;
use serde_json::{Value, json};

use super::dialect;
use crate::rust_type;

/// Key of the type itself among its definitions, for a type whose name is that of the standard library, such as `Vec<Item>`.
const ROOT: &str = "Root";

/// The schema of a type, with its definitions by their names.
#[derive(Debug)]
pub(super) struct Source {
    root: Value,
    /// Key of the definition that a reference to the whole document means.
    root_key: String,
    definitions: BTreeMap<String, Value>,
}

impl Source {
    /// Parses the schema of a type; `None` if the type has none, or if the schema is malformed.
    pub(super) fn parse(ty: &TypeInfo) -> Option<Self> {
        let mut root: Value = serde_json::from_str(ty.schema.as_ref()?).ok()?;
        if !jsonschema::draft202012::meta::is_valid(&root) {
            return None;
        }
        let mut definitions = BTreeMap::new();
        if let Some(root) = root.as_object_mut() {
            root.remove("$schema");
            for keyword in ["$defs", "definitions"] {
                if let Some(Value::Object(map)) = root.remove(keyword) {
                    definitions.extend(map);
                }
            }
        }
        let is_standard = rust_type::derive(&ty.rust).schema != json!({ "title": ty.rust });
        let name = if is_standard { ROOT } else { &ty.rust };
        let mut source = Self {
            root_key: name.to_owned(),
            root,
            definitions,
        };
        source.name_root(is_standard);
        Some(source)
    }

    /// Makes a definition of the type itself, if the type is one of the service or refers to itself.
    fn name_root(&mut self, is_standard: bool) {
        let mut definition = self.root.clone();
        if let Some(definition) = definition.as_object_mut()
            && let Some(title) = definition.get("title")
            && (*title == *self.root_key
                || self
                    .definitions
                    .contains_key(title.as_str().unwrap_or_default()))
        {
            // schemars adds the title to the outermost type only.
            definition.remove("title");
        }
        // A recursive type may be its own definition. Two different types may have the same name.
        while let Some(other) = self.definitions.get(&self.root_key)
            && *other != definition
        {
            self.root_key.push('_');
        }
        let refers_to_itself = || {
            let all = self.definitions.values().chain([&self.root]);
            let mut references = all.flat_map(dialect::references);
            references.any(|reference| reference == "#")
        };
        if is_standard && !refers_to_itself() {
            return;
        }
        self.definitions.insert(self.root_key.clone(), definition);
        self.root = json!({ "$ref": "#" });
    }

    /// Returns the schema of the type. The schema of a type of the service is a reference.
    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    pub(super) fn definition(&self, key: &str) -> &Value {
        self.definitions.get(key).unwrap_or(&Value::Bool(true))
    }

    /// Returns the key of the definition that a reference means; `None` for a reference to another document or into a definition.
    pub(super) fn target(&self, reference: &str) -> Option<&str> {
        let key = match reference {
            "#" => self.root_key.clone(),
            reference => {
                let prefixes = ["#/$defs/", "#/definitions/"];
                let mut names = prefixes.iter().map(|it| reference.strip_prefix(it));
                decode(names.find_map(|name| name)?)
            }
        };
        let (key, _) = self.definitions.get_key_value(&key)?;
        Some(key)
    }

    /// Returns the content of a definition with everything that the definition refers to. Equal contents mean equal types.
    pub(super) fn content(&self, key: &str) -> String {
        let (mut seen, mut pending) = (BTreeSet::from([key]), vec![key]);
        while let Some(key) = pending.pop() {
            for reference in dialect::references(self.definition(key)) {
                pending.extend(self.target(&reference).filter(|key| seen.insert(*key)));
            }
        }
        let parts: Vec<_> = seen.iter().map(|key| (key, self.definition(key))).collect();
        json!([key, parts]).to_string()
    }
}

/// Decodes a part of a URL, and the `~` of a JSON Pointer in it.
pub(in super::super) fn decode(part: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend(before.as_bytes());
        let code = after
            .get(..2)
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        rest = match code {
            Some(code) => {
                bytes.push(code);
                &after[2..]
            }
            None => {
                bytes.push(b'%');
                after
            }
        };
    }
    bytes.extend(rest.as_bytes());
    let text = String::from_utf8_lossy(&bytes);
    text.replace("~1", "/").replace("~0", "~")
}
