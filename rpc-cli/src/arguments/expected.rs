//! Types of a description as the values that they accept.

use std::fmt::Write;

use jsonschema::Validator;
use rpc_core::instances::{MethodInfo, TypeInfo};
use serde_json::Value;

use super::shown::shown;
use crate::output::visible;
use crate::rust_type;

/// Number of differences that are named for one value.
const MAX_DIFFERENCES: usize = 3;

/// The values that a type accepts.
#[derive(Debug)]
pub(super) struct Expected {
    /// Name of the Rust type.
    rust: String,
    /// Meaning of the name, if the name alone may not tell.
    meaning: Option<String>,
    /// `None` if the form of the type is not known: every value fits.
    validator: Option<Validator>,
    /// Only texts fit.
    is_text: bool,
    /// Only integers fit.
    is_integer: bool,
}

impl Expected {
    /// Returns the values of a type in a method.
    pub(super) fn of(ty: &TypeInfo, method: &MethodInfo) -> Self {
        let schema = schema(ty, method);
        let type_name = schema.as_ref().and_then(|schema| schema["type"].as_str());
        Self {
            rust: ty.rust.clone(),
            meaning: schema.as_ref().and_then(meaning),
            is_text: type_name == Some("string"),
            is_integer: type_name == Some("integer"),
            // A schema with an error does not forbid the call.
            validator: schema.and_then(|schema| {
                let draft = jsonschema::Draft::Draft202012;
                let options = jsonschema::options().with_draft(draft);
                options.offline().build(&schema).ok()
            }),
        }
    }

    /// Returns the value that a word stands for: itself as a text, or as JSON.
    pub(super) fn read(&self, word: &str) -> Value {
        let text = Value::from(word);
        if self.is_text {
            return text;
        }
        match serde_json::from_str(word) {
            Ok(value) if self.fits(&value) || !self.fits(&text) => value,
            _ => text,
        }
    }

    pub(super) fn fits(&self, value: &Value) -> bool {
        let is_fraction = self.is_integer && value.is_f64();
        let valid = |validator: &Validator| validator.is_valid(value);
        !is_fraction && self.validator.as_ref().is_none_or(valid)
    }

    /// Returns the reason why a value does not fit, with the value and the type.
    pub(super) fn problem(&self, value: &Value) -> Option<String> {
        if self.fits(value) {
            return None;
        }
        let mut text = format!("{} given, expected {self}", shown(value));
        let errors = self.validator.iter().flat_map(|it| it.iter_errors(value));
        for error in errors.take(MAX_DIFFERENCES) {
            let place = error.instance_path().as_str();
            if place.is_empty() && self.meaning.is_some() {
                continue;
            }
            let value = shown(error.instance());
            let reason = error.masked_with(value.as_str()).to_string();
            // Writing to a text does not fail.
            let _ = match place {
                "" => write!(text, "; {}", visible(&reason)),
                place => write!(text, "; at {}: {}", visible(place), visible(&reason)),
            };
        }
        Some(text)
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&visible(&self.rust))?;
        match &self.meaning {
            Some(meaning) => write!(f, ", {meaning}"),
            None => Ok(()),
        }
    }
}

/// Returns the schema of a type, or `None` if its form is not known.
///
/// The schema of a standard type is derived from the name, because it has the range of each type of integers. A standard type without a
/// schema, beside types with schemas, is an argument with `#[serde(with = "…")]`: the type does not tell its form.
fn schema(ty: &TypeInfo, method: &MethodInfo) -> Option<Value> {
    let arguments = method.arguments.iter().map(|argument| &argument.ty);
    let errors = method.error.iter().chain(&method.item_error);
    let mut types = arguments.chain([&method.result]).chain(errors);
    let has_schemas = types.any(|ty| ty.schema.is_some());
    if has_schemas && ty.schema.is_none() {
        return None;
    }
    let derived = rust_type::derive(&ty.rust);
    let given = ty.schema.as_ref();
    match given.and_then(|text| serde_json::from_str(text).ok()) {
        Some(schema) if !derived.is_complete => Some(schema),
        _ => Some(derived.schema),
    }
}

/// Returns the meaning of a simple schema in words.
fn meaning(schema: &Value) -> Option<String> {
    Some(match schema["type"].as_str()? {
        "integer" => match (&schema["minimum"], &schema["maximum"]) {
            (Value::Number(min), Value::Number(max)) => format!("an integer from {min} to {max}"),
            (Value::Number(min), _) => format!("an integer from {min}"),
            _ => "an integer".to_owned(),
        },
        "number" => "a number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "null" => "null".to_owned(),
        "string" if schema["maxLength"] == 1 => "one character".to_owned(),
        _ => return None,
    })
}
