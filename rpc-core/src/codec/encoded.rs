//! Values that are encoded already, for programs without their types.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{ContentType, decode, encode, transcode};
use crate::error::{BoxError, ErrorKind, RpcError};

/// An encoded value: arguments, a result, an error or an item of a stream, for an [`UntypedClient`](crate::UntypedClient).
///
/// The value has any type that the format can express. JSON is kept as text, so numbers arrive as they were written.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    content_type: ContentType,
    body: Bytes,
}

impl Encoded {
    /// Takes a value that is encoded already. The bytes are not checked: a server refuses arguments that it cannot decode with
    /// [`ErrorKind::BadRequest`].
    pub fn new(content_type: ContentType, body: impl Into<Bytes>) -> Self {
        Self {
            content_type,
            body: body.into(),
        }
    }

    /// Returns the arguments of a method that has none: an empty map.
    #[must_use]
    pub fn no_arguments() -> Self {
        Self::new(ContentType::MessagePack, &b"\x80"[..])
    }

    /// Encodes a value. Arguments are a struct or a map with the names of the arguments, or a tuple with all of them in order.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`] if the format cannot express the value, or the value is nested more than 128 levels deep.
    pub fn encode<T: Serialize>(content_type: ContentType, value: &T) -> Result<Self, RpcError> {
        match encode(value, content_type) {
            Ok(body) => Ok(Self::new(content_type, body)),
            Err(cause) => Err(unencodable(&cause)),
        }
    }

    /// Takes a value as JSON text.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`] if the text is not one JSON value, is nested more than 128 levels deep, or this build lacks the feature `json`.
    pub fn from_json(text: impl Into<String>) -> Result<Self, RpcError> {
        let text = text.into();
        decode::<IgnoredAny>(text.as_bytes(), ContentType::Json)
            .map_err(|cause| unencodable(&cause))?;
        Ok(Self::new(ContentType::Json, text))
    }

    /// Returns the format.
    pub fn content_type(&self) -> ContentType {
        self.content_type
    }

    /// Returns the encoded value.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Decodes the value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BadReply`] if the value has another type, or is malformed.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, RpcError> {
        decode(&self.body, self.content_type).map_err(|cause| undecodable(&cause))
    }

    /// Returns the value as JSON text. Values in MessagePack are converted: bytes become arrays of numbers, and numbers that are keys of maps become
    /// texts, as in the JSON of other programs. (MessagePack has no numbers of 128 bits: those are 16 bytes.)
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BadReply`] if the value is malformed, JSON cannot express it, such as NaN, or this build lacks the feature `json`.
    pub fn to_json(&self) -> Result<String, RpcError> {
        let json = self.body_as(ContentType::Json);
        let text = json.and_then(|json| {
            // Checked, because a program may print the text between other JSON.
            decode::<IgnoredAny>(&json, ContentType::Json)?;
            Ok(String::from_utf8(json.into())?)
        });
        text.map_err(|cause| undecodable(&cause))
    }

    /// Returns the encoded value in another format.
    pub(crate) fn body_as(&self, content_type: ContentType) -> Result<Bytes, BoxError> {
        transcode(&self.body, self.content_type, content_type)
    }
}

fn unencodable(cause: &BoxError) -> RpcError {
    let reason = format!("the value could not be encoded: {cause}");
    RpcError::new(ErrorKind::Encode, reason)
}

fn undecodable(cause: &BoxError) -> RpcError {
    let reason = format!("the value could not be decoded: {cause}");
    RpcError::new(ErrorKind::BadReply, reason)
}

impl fmt::Display for Encoded {
    /// Writes the value as JSON, as the text of a service's own error. A value that JSON cannot express is written as its length and format.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_json() {
            Ok(json) => f.write_str(&json),
            Err(_) => write!(f, "({} bytes of {})", self.body.len(), self.content_type),
        }
    }
}

/// An encoded value may be the service's own error in a [`CallError`](crate::CallError).
impl std::error::Error for Encoded {}

impl fmt::Debug for Encoded {
    /// Leaves out the value, which may be large or secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded")
            .field("content_type", &self.content_type)
            .field("body_len", &self.body.len())
            .finish()
    }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn json_of<T: Serialize>(value: &T) -> String {
        let value = Encoded::encode(ContentType::MessagePack, value);
        value
            .and_then(|value| value.to_json())
            .expect("a value that JSON has")
    }

    #[test]
    fn values_of_any_type_become_json() {
        assert_eq!(
            json_of(&(1, "a", [true], None::<u8>)),
            r#"[1,"a",[true],null]"#
        );
        assert_eq!(json_of(&BTreeMap::from([(7, 0.1)])), r#"{"7":0.1}"#);
        assert_eq!(json_of(&serde_bytes::Bytes::new(b"\x01\xff")), "[1,255]");
        assert_eq!(json_of(&i64::MIN), i64::MIN.to_string());
        let nan = Encoded::encode(ContentType::MessagePack, &f64::NAN).expect("a number");
        assert_eq!(nan.to_string(), "(9 bytes of application/msgpack)");
    }

    #[test]
    fn json_is_kept_as_it_was_written() {
        let text = r#"{"n": 340282366920938463463374607431768211455, "x":1.50}"#;
        let value = Encoded::from_json(text).unwrap();
        assert_eq!(value.to_json().unwrap(), text);
        assert_eq!(&value.body()[..], text.as_bytes());
    }

    #[test]
    fn json_becomes_message_pack() {
        let value = Encoded::from_json(r#"{"n":30,"x":[1.5,"a",null]}"#).unwrap();
        let body = value.body_as(ContentType::MessagePack).unwrap();
        assert_eq!(
            &body[..],
            b"\x82\xa1n\x1e\xa1x\x93\xcb\x3f\xf8\0\0\0\0\0\0\xa1a\xc0"
        );
        let back = Encoded::new(ContentType::MessagePack, body);
        assert_eq!(back.to_json().unwrap(), r#"{"n":30,"x":[1.5,"a",null]}"#);
    }

    #[test]
    fn malformed_values_are_refused() {
        for text in ["", "{", "1 2", "nope", &"[".repeat(1000)] {
            let error = Encoded::from_json(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Encode, "{text}");
            let value = Encoded::new(ContentType::Json, text.to_owned());
            assert_eq!(value.to_json().unwrap_err().kind(), ErrorKind::BadReply);
        }
        for body in [&b""[..], b"\xc1", b"\x01\x02", b"\x92\x01", &[0x91; 1000]] {
            let value = Encoded::new(ContentType::MessagePack, body);
            let error = value.to_json().expect_err("malformed");
            assert_eq!(error.kind(), ErrorKind::BadReply);
        }
        assert!(
            Encoded::new(ContentType::Json, &b"\"\xff\""[..])
                .to_json()
                .is_err()
        );
        assert!(Encoded::encode(ContentType::Json, &f64::NAN).is_err());
    }
}
