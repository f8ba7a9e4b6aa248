//! JSON Schemas of the Rust types whose form in JSON is known from their names.
//!
//! A description names the type of every value, and has a schema only if the server was built with one. The types of the standard library
//! that most methods use need no schema: `Vec<(String, Option<u64>)>` has one form. Any other name may be a type of the service.

use serde_json::{Value, json};

/// Depth of nested types that is looked at. Names come from other programs.
const MAX_DEPTH: usize = 32;

/// Schema of a type, as far as its name tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Derived {
    /// JSON Schema (draft 2020-12). The schema of a type that is not known accepts every value, and has the name as its title.
    pub(crate) schema: Value,
    /// `true` if all parts of the type are known.
    pub(crate) is_complete: bool,
}

/// Returns the schema of a type by its name without paths, as descriptions have it.
pub(crate) fn derive(name: &str) -> Derived {
    let mut is_complete = true;
    let schema = schema(name, 0, &mut is_complete);
    Derived {
        schema,
        is_complete,
    }
}

fn schema(name: &str, depth: usize, is_complete: &mut bool) -> Value {
    let known = match depth < MAX_DEPTH {
        true => known(name.trim(), depth, is_complete),
        false => None,
    };
    known.unwrap_or_else(|| {
        *is_complete = false;
        json!({ "title": name.trim() })
    })
}

/// Returns the schema of a type whose outermost part is known.
fn known(name: &str, depth: usize, is_complete: &mut bool) -> Option<Value> {
    let mut inner = |name: &str| schema(name, depth + 1, is_complete);
    if let Some(target) = name.strip_prefix('&') {
        return Some(inner(target.strip_prefix("mut ").unwrap_or(target)));
    }
    if let Some(parts) = between(name, '(', ')') {
        let parts = split(parts, ',');
        return Some(match parts.len() {
            0 => json!({ "type": "null" }),
            len => {
                let parts: Vec<_> = parts.into_iter().map(inner).collect();
                json!({ "type": "array", "prefixItems": parts, "items": false, "minItems": len })
            }
        });
    }
    if let Some(content) = between(name, '[', ']') {
        return match *split(content, ';') {
            [item] => Some(json!({ "type": "array", "items": inner(item) })),
            [item, len] => {
                let len: u64 = len.trim().parse().ok()?;
                Some(
                    json!({ "type": "array", "items": inner(item), "minItems": len, "maxItems": len }),
                )
            }
            _ => None,
        };
    }
    let Some((outer, parameters)) = name.split_once('<') else {
        return plain(name);
    };
    let parameters = split(parameters.strip_suffix('>')?, ',');
    match (outer, &*parameters) {
        ("Box" | "Arc" | "Rc" | "Cow", [target]) => Some(inner(target)),
        ("Option", [some]) => Some(json!({ "anyOf": [inner(some), { "type": "null" }] })),
        ("Vec" | "VecDeque" | "LinkedList" | "HashSet" | "BTreeSet", [item]) => {
            Some(json!({ "type": "array", "items": inner(item) }))
        }
        ("HashMap" | "BTreeMap", [key, value]) => {
            let key = key.trim();
            let mut map = json!({ "type": "object", "additionalProperties": inner(value) });
            // JSON has texts as keys: numbers and booleans are written as texts.
            match integer(key) {
                Some((Some(0), _)) => map["propertyNames"] = json!({ "pattern": "^[0-9]+$" }),
                Some(_) => map["propertyNames"] = json!({ "pattern": "^-?[0-9]+$" }),
                None if matches!(key, "String" | "&str") => {}
                None => *is_complete = false,
            }
            Some(map)
        }
        ("Result", [ok, error]) => Some(json!({ "oneOf": [
            { "type": "object", "properties": { "Ok": inner(ok) }, "required": ["Ok"], "additionalProperties": false },
            { "type": "object", "properties": { "Err": inner(error) }, "required": ["Err"], "additionalProperties": false },
        ] })),
        _ => None,
    }
}

/// Returns the schema of a type without parameters.
fn plain(name: &str) -> Option<Value> {
    Some(match name {
        "bool" => json!({ "type": "boolean" }),
        "String" | "str" => json!({ "type": "string" }),
        "char" => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
        "f32" => json!({ "type": "number", "format": "float" }),
        "f64" => json!({ "type": "number", "format": "double" }),
        name => {
            let (min, max) = integer(name)?;
            let mut schema = json!({ "type": "integer", "format": format_of(name) });
            if let Some(min) = min {
                schema["minimum"] = min.into();
            }
            if let Some(max) = max {
                schema["maximum"] = max.into();
            }
            schema
        }
    })
}

/// Returns the range of a type of integers, as far as a JSON Schema can have it.
fn integer(name: &str) -> Option<(Option<i64>, Option<u64>)> {
    Some(match name {
        "u8" => (Some(0), Some(u8::MAX.into())),
        "u16" => (Some(0), Some(u16::MAX.into())),
        "u32" => (Some(0), Some(u32::MAX.into())),
        "u64" | "usize" => (Some(0), Some(u64::MAX)),
        "u128" => (Some(0), None),
        "i8" => (Some(i8::MIN.into()), Some(i8::MAX as u64)),
        "i16" => (Some(i16::MIN.into()), Some(i16::MAX as u64)),
        "i32" => (Some(i32::MIN.into()), Some(i32::MAX as u64)),
        "i64" | "isize" => (Some(i64::MIN), Some(i64::MAX as u64)),
        "i128" => (None, None),
        _ => return None,
    })
}

/// Returns the format that schemars writes for a type of integers.
fn format_of(integer: &str) -> String {
    match integer.strip_prefix('u') {
        Some("size") => "uint".to_owned(),
        Some(bits) => format!("uint{bits}"),
        None if integer == "isize" => "int".to_owned(),
        None => format!("int{}", &integer[1..]),
    }
}

/// Returns the text between a bracket at the start and the bracket at the end that closes it.
fn between(name: &str, open: char, close: char) -> Option<&str> {
    name.strip_prefix(open)?.strip_suffix(close)
}

/// Splits a list at a separator that is not in brackets. The last separator may have nothing after it, as in `(u8,)`.
fn split(list: &str, separator: char) -> Vec<&str> {
    let mut depth = 0i32;
    let mut parts: Vec<_> = list
        .split(|c| {
            match c {
                '<' | '(' | '[' => depth += 1,
                '>' | ')' | ']' => depth -= 1,
                _ => {}
            }
            c == separator && depth == 0
        })
        .collect();
    if parts.last().is_some_and(|part| part.trim().is_empty()) {
        parts.pop();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(name: &str) -> Value {
        let derived = derive(name);
        assert!(derived.is_complete, "{name}");
        derived.schema
    }

    #[test]
    fn types_of_the_standard_library_have_schemas() {
        assert_eq!(
            complete("u8"),
            json!({ "type": "integer", "format": "uint8", "minimum": 0, "maximum": 255 })
        );
        assert_eq!(
            complete("isize"),
            json!({ "type": "integer", "format": "int", "minimum": i64::MIN, "maximum": i64::MAX })
        );
        assert_eq!(complete("&str"), json!({ "type": "string" }));
        assert_eq!(complete("Cow<str>"), complete("String"));
        assert_eq!(complete("()"), json!({ "type": "null" }));
        assert_eq!(
            complete("Vec<(String, Option<bool>)>"),
            json!({ "type": "array", "items": {
                "type": "array",
                "prefixItems": [
                    { "type": "string" },
                    { "anyOf": [{ "type": "boolean" }, { "type": "null" }] },
                ],
                "items": false,
                "minItems": 2,
            } })
        );
        assert_eq!(
            complete("[(u8,); 3]"),
            json!({
                "type": "array",
                "items": { "type": "array", "prefixItems": [complete("u8")], "items": false, "minItems": 1 },
                "minItems": 3,
                "maxItems": 3,
            })
        );
        assert_eq!(
            complete("HashMap<u32, BTreeMap<String, f32>>"),
            json!({
                "type": "object",
                "propertyNames": { "pattern": "^[0-9]+$" },
                "additionalProperties": {
                    "type": "object",
                    "additionalProperties": { "type": "number", "format": "float" },
                },
            })
        );
    }

    #[test]
    fn unknown_types_accept_every_value_under_their_name() {
        for name in [
            "Item",
            "Page<Item>",
            "<T as Shop>::Goods",
            "fn(u8) -> u8",
            "dyn Fn(u8)",
            "[u8; N]",
            "Vec<",
            "",
            "é<",
        ] {
            let derived = derive(name);
            assert!(!derived.is_complete, "{name}");
            assert_eq!(derived.schema, json!({ "title": name }), "{name}");
        }
        let derived = derive("Vec<Item>");
        assert!(!derived.is_complete);
        assert_eq!(
            derived.schema,
            json!({ "type": "array", "items": { "title": "Item" } })
        );
        assert!(!derive("BTreeMap<Key, u8>").is_complete);
    }

    #[test]
    fn deeply_nested_types_are_unknown() {
        let name = format!("{}u8{}", "Vec<".repeat(10_000), ">".repeat(10_000));
        assert!(!derive(&name).is_complete);
    }
}
