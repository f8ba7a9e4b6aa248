//! Headers of messages: as arguments of the command line, and as JSON.

use std::str::FromStr;

use rpc_core::{HeaderValue, Headers};
use serde_json::{Map, Value};

/// A header in an argument: `NAME=VALUE` with text, or `NAME:=JSON`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeaderArgument {
    pub(crate) name: String,
    pub(crate) value: HeaderValue,
}

impl FromStr for HeaderArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or("write NAME=VALUE, or NAME:=JSON for a number, true or false")?;
        let (name, value) = match name.strip_suffix(':') {
            None => (name, value.into()),
            Some(name) => (name, scalar(value)?),
        };
        match name.is_empty() {
            true => Err("the header has no name: write NAME=VALUE".to_owned()),
            false => Ok(Self {
                name: name.to_owned(),
                value,
            }),
        }
    }
}

fn scalar(json: &str) -> Result<HeaderValue, String> {
    let advice = || format!("{json} is not a number, true, false or a text in quotes");
    match serde_json::from_str(json).map_err(|_| advice())? {
        Value::Bool(flag) => Ok(flag.into()),
        Value::String(text) => Ok(text.into()),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Ok(integer.into()),
            (None, Some(float)) => Ok(float.into()),
            (None, None) => Err(advice()),
        },
        _ => Err(advice()),
    }
}

/// Returns headers as a JSON object.
fn to_json(headers: &Headers) -> Value {
    let fields = headers
        .iter()
        .map(|(name, value)| (name.to_owned(), value_to_json(value)));
    Value::Object(Map::from_iter(fields))
}

/// Returns the value of a header as JSON. Bytes are a list of numbers.
pub(crate) fn value_to_json(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Bool(flag) => (*flag).into(),
        HeaderValue::Int(number) => (*number).into(),
        HeaderValue::Float(number) => (*number).into(),
        HeaderValue::String(text) => text.as_str().into(),
        HeaderValue::Bytes(bytes) => bytes.to_vec().into(),
        HeaderValue::Timestamp(seconds) => (*seconds).into(),
        HeaderValue::List(values) => values.iter().map(value_to_json).collect(),
        HeaderValue::Table(table) => to_json(table),
        // Values that this program does not know have no form in JSON.
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_text_or_json() {
        let parse = |text: &str| text.parse::<HeaderArgument>().map(|header| header.value);
        assert_eq!(parse("tenant=a=b"), Ok("a=b".into()));
        assert_eq!(parse("tenant="), Ok("".into()));
        assert_eq!(parse("n:=5"), Ok(5.into()));
        assert_eq!(parse("n:=1.5"), Ok(1.5.into()));
        assert_eq!(parse("n:=true"), Ok(true.into()));
        assert_eq!(parse("n:=\"5\""), Ok("5".into()));
        for wrong in ["tenant", "=a", ":=5", "n:=x", "n:=[1]", "n:="] {
            parse(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn headers_become_json() {
        let mut headers = Headers::new();
        headers.insert("n", 5);
        headers.insert(
            "list",
            HeaderValue::List(vec!["a".into(), HeaderValue::Void]),
        );
        assert_eq!(
            to_json(&headers).to_string(),
            r#"{"list":["a",null],"n":5}"#
        );
    }
}
