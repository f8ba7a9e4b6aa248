//! Values of headers, and conversions from and to Rust's types.

use bytes::Bytes;

use super::map::Headers;

/// The maximum nesting of lists and tables. A list of numbers has depth 1.
pub(crate) const MAX_DEPTH: usize = 32;

/// Value of a header: one of the types of an AMQP field table that RabbitMQ supports.
///
/// `From` is implemented for text, `bool`, bytes, floating point numbers and the integers up to `i64` and `u32`, for use as in
/// `.header("tenant", "a")` and `.header("attempt", 2)`. AMQP's largest integer is an `i64`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HeaderValue {
    /// No value.
    Void,
    /// `true` or `false`.
    Bool(bool),
    /// An integer; narrower types are widened.
    Int(i64),
    /// A floating point number.
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
    /// Returns the text, or `None` if the value has another type.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the integer, or `None` if the value has another type.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns the `bool`, or `None` if the value has another type.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            _ => None,
        }
    }
}

impl HeaderValue {
    /// Returns the value. A value that is nested deeper than [`MAX_DEPTH`] is replaced by one that exceeds the limit by 1, so that code
    /// that recurses into headers cannot overflow the stack, and the check of the limits still fails.
    pub(super) fn shallow(self) -> Self {
        if self.is_nested_within(MAX_DEPTH) {
            return self;
        }
        // A loop takes the value apart, because dropping the value would recurse into it.
        let mut rest = vec![self];
        while let Some(value) = rest.pop() {
            match value {
                Self::List(values) => rest.extend(values),
                Self::Table(headers) => rest.extend(headers.into_iter().map(|(_, value)| value)),
                _ => {}
            }
        }
        (0..=MAX_DEPTH).fold(Self::Void, |inner, _| Self::List(vec![inner]))
    }

    fn is_nested_within(&self, depth: usize) -> bool {
        let is_nested_within = |value: &Self| value.is_nested_within(depth - 1);
        match self {
            Self::List(values) => depth > 0 && values.iter().all(is_nested_within),
            Self::Table(headers) => {
                depth > 0 && headers.iter().all(|(_, value)| is_nested_within(value))
            }
            _ => true,
        }
    }
}

/// Error of reading a header whose value has another type, or is a number that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header's value is not a `{expected}`")]
pub struct WrongHeaderType {
    expected: &'static str,
}

impl WrongHeaderType {
    /// Creates an error for the `TryFrom<&HeaderValue>` of your own type; `expected` is the name of that type.
    pub const fn new(expected: &'static str) -> Self {
        Self { expected }
    }
}

/// Implements `TryFrom<&HeaderValue>` for text, `bool`, integers that fit, floating point numbers and bytes.
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
