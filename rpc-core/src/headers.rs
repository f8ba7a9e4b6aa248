//! Headers: the user's own key-value pairs that travel with a message.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

/// The longest header name, in bytes: a short string of AMQP 0-9-1.
const MAX_NAME_LEN: usize = 255;

/// The value of a header: the types of an AMQP field table that RabbitMQ knows.
///
/// `From` is implemented for text, `bool`, bytes, floating point numbers and the integers up to `i64` and `u32`, so
/// `.header("tenant", "a")` and `.header("attempt", 2)` just work. AMQP's largest integer is an `i64`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HeaderValue {
    /// No value.
    Void,
    /// `true` or `false`.
    Bool(bool),
    /// Any integer; narrower ones are widened.
    Int(i64),
    /// Any floating point number.
    Float(f64),
    /// Text.
    String(String),
    /// Bytes that are not text.
    Bytes(Bytes),
    /// Seconds since the Unix epoch.
    Timestamp(u64),
    /// A list of values.
    List(Vec<HeaderValue>),
    /// A nested table.
    Table(Headers),
}

impl HeaderValue {
    /// The text, if the value is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if the value is an integer.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The flag, if the value is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            _ => None,
        }
    }
}

impl HeaderValue {
    /// Whether all numbers in it are.
    fn is_finite(&self) -> bool {
        match self {
            Self::Float(number) => number.is_finite(),
            Self::List(values) => values.iter().all(Self::is_finite),
            Self::Table(headers) => headers.iter().all(|(_, value)| value.is_finite()),
            _ => true,
        }
    }
}

/// A header has another type than the one it was asked for, or a number that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header's value is not a `{expected}`")]
pub struct WrongHeaderType {
    expected: &'static str,
}

impl WrongHeaderType {
    /// What a value of a type of one's own says when it does not understand a header; `expected` names the type.
    pub const fn new(expected: &'static str) -> Self {
        Self { expected }
    }
}

/// Reads values: text, flags, integers that fit, floating point numbers and bytes.
macro_rules! header_value_into {
    ($($to:ty: $value:pat => $converted:expr),* $(,)?) => {$(
        impl<'a> TryFrom<&'a HeaderValue> for $to {
            type Error = WrongHeaderType;

            fn try_from(value: &'a HeaderValue) -> Result<Self, WrongHeaderType> {
                let converted = match value {
                    $value => $converted,
                    _ => None,
                };
                converted.ok_or(WrongHeaderType::new(stringify!($to)))
            }
        }
    )*};
}

header_value_into! {
    &'a str: HeaderValue::String(text) => Some(text.as_str()),
    String: HeaderValue::String(text) => Some(text.clone()),
    bool: HeaderValue::Bool(flag) => Some(*flag),
    i8: HeaderValue::Int(number) => (*number).try_into().ok(),
    i16: HeaderValue::Int(number) => (*number).try_into().ok(),
    i32: HeaderValue::Int(number) => (*number).try_into().ok(),
    i64: HeaderValue::Int(number) => Some(*number),
    u8: HeaderValue::Int(number) => (*number).try_into().ok(),
    u16: HeaderValue::Int(number) => (*number).try_into().ok(),
    u32: HeaderValue::Int(number) => (*number).try_into().ok(),
    u64: HeaderValue::Int(number) => (*number).try_into().ok(),
    f64: HeaderValue::Float(number) => Some(*number),
    Bytes: HeaderValue::Bytes(bytes) => Some(bytes.clone()),
}

macro_rules! header_value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for HeaderValue {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

header_value_from! {
    bool => Bool,
    i8 => Int, i16 => Int, i32 => Int, i64 => Int, u8 => Int, u16 => Int, u32 => Int,
    f32 => Float, f64 => Float,
    &str => String, String => String,
    Bytes => Bytes, Vec<u8> => Bytes,
}

/// The headers of a request or a response, sorted by name.
///
/// Names are at most 255 bytes long; those that begin with `rpc-` belong to the protocol and are not sent for a user.
#[derive(Clone, Default, PartialEq)]
pub struct Headers(
    /// Nothing when empty, as nearly all are: an empty map takes more time to drop than that.
    Option<BTreeMap<String, HeaderValue>>,
);

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a header, in place of an earlier one of that name.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<HeaderValue>) {
        let headers = self.0.get_or_insert_default();
        headers.insert(name.into(), value.into());
    }

    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.as_ref()?.get(name)
    }

    /// The value of a header as a `T`: `&str`, `String`, `bool`, an integer, `f64`, `Bytes`, or a type of your own that
    /// implements `TryFrom<&HeaderValue>`. `None` if there is no such header, or it is none of that type:
    /// [`get`](Self::get) tells the two apart.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut headers = rpc_core::Headers::new();
    /// headers.insert("tenant", "a");
    /// headers.insert("attempt", 2);
    /// assert_eq!(headers.get_as("tenant"), Some("a"));
    /// assert_eq!(headers.get_as::<u8>("attempt"), Some(2));
    /// assert_eq!(headers.get_as::<bool>("attempt"), None);
    /// ```
    pub fn get_as<'a, T: TryFrom<&'a HeaderValue>>(&'a self, name: &str) -> Option<T> {
        self.get(name)?.try_into().ok()
    }

    /// Takes a header out.
    pub fn remove(&mut self, name: &str) -> Option<HeaderValue> {
        let headers = self.0.as_mut()?;
        let value = headers.remove(name);
        if headers.is_empty() {
            self.0 = None;
        }
        value
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The headers in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        let headers = self.0.iter().flat_map(|headers| headers.iter());
        headers.map(|(name, value)| (name.as_str(), value))
    }

    /// Why these headers cannot be sent, if they cannot.
    pub(crate) fn problem(&self) -> Option<String> {
        self.iter().find_map(|(name, value)| problem(name, value))
    }

    /// The same, for the numbers alone.
    pub(crate) fn number_problem(&self) -> Option<String> {
        let (name, _) = self.iter().find(|(_, value)| !value.is_finite())?;
        Some(format!("header {name:?} is an infinite number"))
    }

    /// Whether there is a header of that name, and it can be sent.
    pub(crate) fn can_send(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| problem(name, value).is_none())
    }
}

/// Why a header cannot be sent, if it cannot: its name is too long for AMQP or reserved for the protocol, or a number is one that
/// RabbitMQ closes the connection for.
fn problem(name: &str, value: &HeaderValue) -> Option<String> {
    if name.len() > MAX_NAME_LEN || name.starts_with("rpc-") {
        Some(format!(
            "header '{name}' cannot be sent: names are at most 255 bytes long and 'rpc-' is reserved"
        ))
    } else if !value.is_finite() {
        Some(format!(
            "header '{name}' cannot be sent: AMQP has no infinite numbers"
        ))
    } else {
        None
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl FromIterator<(String, HeaderValue)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, HeaderValue)>>(headers: I) -> Self {
        let headers: BTreeMap<_, _> = headers.into_iter().collect();
        Self((!headers.is_empty()).then_some(headers))
    }
}

impl IntoIterator for Headers {
    type Item = (String, HeaderValue);
    type IntoIter = std::collections::btree_map::IntoIter<String, HeaderValue>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.unwrap_or_default().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_were_all_taken_out_are_none() {
        let mut headers = Headers::new();
        headers.insert("a", 1);
        assert_eq!(headers.remove("b"), None);
        assert!(!headers.is_empty());
        assert_eq!(headers.remove("a"), Some(1.into()));
        assert!(headers.is_empty());
        assert_eq!(headers, Headers::new());
        assert_eq!(Headers::from_iter([]), Headers::new());
        assert_eq!(headers.into_iter().count(), 0);
    }

    #[test]
    fn a_header_is_read_as_its_own_type_or_a_number_that_it_fits() {
        let headers: Headers = [
            ("text".to_owned(), "a".into()),
            ("number".to_owned(), 300.into()),
            ("negative".to_owned(), (-1).into()),
            ("flag".to_owned(), true.into()),
            ("bytes".to_owned(), vec![0xff].into()),
        ]
        .into_iter()
        .collect();
        assert_eq!(headers.get_as::<String>("text").as_deref(), Some("a"));
        assert_eq!(headers.get_as::<i16>("number"), Some(300));
        assert_eq!(headers.get_as::<u8>("number"), None);
        assert_eq!(headers.get_as::<u64>("negative"), None);
        assert_eq!(headers.get_as("flag"), Some(true));
        assert_eq!(headers.get_as::<&str>("bytes"), None);
        assert_eq!(headers.get_as::<Bytes>("bytes"), Some(vec![0xff].into()));
        assert_eq!(headers.get_as::<&str>("missing"), None);
        let error = u8::try_from(&HeaderValue::Int(300)).unwrap_err();
        assert_eq!(error.to_string(), "the header's value is not a `u8`");
    }
}
