//! Headers: the user's own key-value pairs that travel with a message, and their limits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

/// The longest header name, in bytes: a short string of AMQP 0-9-1.
const MAX_NAME_LEN: usize = 255;

/// The most values that a user may send in the headers of a message, those inside lists and tables included.
pub(crate) const MAX_VALUES: usize = 1_000;

/// The values that a message may hold beside a user's: those of the protocol, and those that the broker adds to a message each time it
/// moves it to a dead-letter queue.
pub(crate) const OTHER_VALUES: usize = 256;

/// The deepest nesting of lists and tables. A list of numbers is one deep.
pub(crate) const MAX_DEPTH: usize = 32;

/// The prefix of names that belong to the protocol.
pub(crate) const PROTOCOL_PREFIX: &str = "rpc-";

/// Headers that RabbitMQ reads from every message, or writes itself: copies (`CC`, `BCC`), dead letters, deliveries, plugins that
/// move messages, message interceptors, and what it keeps of AMQP 1.0 (`rabbit_basic.erl`, `mc_amqpl.erl`, `rabbit_fifo_client.erl`
/// in its sources; <https://www.rabbitmq.com/docs/sender-selected>, <https://www.rabbitmq.com/docs/dlx>).
const BROKER_NAMES: [&str; 21] = [
    "CC",
    "BCC",
    "timestamp_in_ms",
    "x-acquired-count",
    "x-cc",
    "x-death",
    "x-delivery-count",
    "x-exchange",
    "x-federation-upstream",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-invalid-headers",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-received-from",
    "x-routed-by",
    "x-routing-key",
    "x-shovelled",
    "x-shovelled-timestamp",
];

/// Prefixes of further ones.
const BROKER_PREFIXES: [&str; 3] = ["x-amqp-1.0-", "x-basic-", "x-opt-"];

/// Headers whose values no `Debug` output shows, in lower case.
const SECRET_NAMES: [&str; 8] = [
    "authorization",
    "cookie",
    "password",
    "proxy-authorization",
    "secret",
    "set-cookie",
    "token",
    "x-api-key",
];

/// Those that this program has added, in lower case.
static MORE_SECRET_NAMES: RwLock<Vec<String>> = RwLock::new(Vec::new());

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
    /// The value, or in place of one that is nested too deep another that is so by one: nothing that walks through headers has to
    /// fear for its stack.
    fn shallow(self) -> Self {
        if self.is_nested_within(MAX_DEPTH) {
            return self;
        }
        // Taken apart by hand, because dropping it would walk through it.
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

/// The size of headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// All of them, those inside lists and tables included.
    pub(crate) values: usize,
    /// In a field table of AMQP, its length not included.
    pub(crate) bytes: usize,
}

impl Size {
    /// Adds a value, which is that deep in its message's headers.
    fn add(&mut self, value: &HeaderValue, depth: usize) -> Result<(), Flaw> {
        self.values += 1;
        if self.values > MAX_VALUES + OTHER_VALUES {
            return Err(Flaw::TooMany);
        }
        // A type, then the value; what has a variable length says it.
        self.bytes += 1 + match value {
            HeaderValue::Void => 0,
            HeaderValue::Bool(_) => 1,
            HeaderValue::Int(_) | HeaderValue::Timestamp(_) => 8,
            HeaderValue::Float(number) if !number.is_finite() => return Err(Flaw::NotFinite),
            HeaderValue::Float(_) => 8,
            HeaderValue::String(text) => 4 + text.len(),
            HeaderValue::Bytes(bytes) => 4 + bytes.len(),
            HeaderValue::List(_) | HeaderValue::Table(_) if depth == MAX_DEPTH => {
                return Err(Flaw::TooDeep);
            }
            HeaderValue::List(values) => {
                for value in values {
                    self.add(value, depth + 1)?;
                }
                4
            }
            HeaderValue::Table(headers) => {
                for (name, value) in headers.iter() {
                    self.add_named(name, value, depth + 1)?;
                }
                4
            }
        };
        Ok(())
    }

    fn add_named(&mut self, name: &str, value: &HeaderValue, depth: usize) -> Result<(), Flaw> {
        if name.len() > MAX_NAME_LEN {
            return Err(Flaw::LongName);
        }
        self.bytes += 1 + name.len();
        self.add(value, depth)
    }
}

/// The reasons why headers do not fit into AMQP, or are more than this crate takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error(
        "its name, or one inside it, has more than {MAX_NAME_LEN} bytes, AMQP's limit: use a shorter one"
    )]
    LongName,
    #[error(
        "a floating point number is infinite or not a number, which RabbitMQ refuses: send it as text"
    )]
    NotFinite,
    #[error(
        "lists and tables are nested more than {MAX_DEPTH} deep, the limit: send such a value in the body"
    )]
    TooDeep,
    #[error(
        "there are more than {MAX_VALUES} values, the limit, counting those in lists and tables: send them in the body"
    )]
    TooMany,
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
/// Limits, all of which are checked before a message is sent:
///
/// - Names are at most 255 bytes long. Those that begin with `rpc-` belong to the protocol. Those that RabbitMQ reads or writes itself
///   are refused: `CC`, `BCC`, `x-death`, `x-delivery-count`, `x-opt-…` and similar names. Other names with `x-`, such as
///   `x-request-id`, are free.
/// - There are at most 1,000 values, those in lists and tables included, which are nested at most 32 deep.
/// - Floating point numbers are finite.
/// - All together take as many bytes as the broker's frame size allows, less 4 KiB: 124 KiB unless the broker or the URL sets another
///   `frame_max` (<https://www.rabbitmq.com/docs/configure>). Names count, and so do the headers of the client, of the trace, and those
///   that propagate.
///
/// `Debug` hides the values of `authorization`, `proxy-authorization`, `cookie`, `set-cookie`, `x-api-key`, `token`, `password` and
/// `secret`, in upper or lower case, and of what [`ConnectionBuilder::secret_header`](crate::ConnectionBuilder::secret_header) adds.
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
        headers.insert(name.into(), value.into().shallow());
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

    /// Their size, if they are within AMQP's limits and ours.
    pub(crate) fn size(&self) -> Result<Size, Flaw> {
        let mut size = Size::default();
        for (name, value) in self.iter() {
            size.add_named(name, value, 0)?;
        }
        Ok(size)
    }

    /// The reason why a user cannot set these headers, if there is one.
    pub(crate) fn problem(&self) -> Option<String> {
        self.iter().find_map(|(name, value)| problem(name, value))
    }

    /// Tells whether there is a header of that name that a user may send.
    pub(crate) fn can_send(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| problem(name, value).is_none())
    }
}

/// The size of one header.
pub(crate) fn size_of(name: &str, value: &HeaderValue) -> Result<Size, Flaw> {
    let mut size = Size::default();
    size.add_named(name, value, 0)?;
    Ok(size)
}

/// The reason why a user cannot set a header, if there is one.
fn problem(name: &str, value: &HeaderValue) -> Option<String> {
    let reason = if name.starts_with(PROTOCOL_PREFIX) {
        "names that begin with 'rpc-' belong to the protocol; use another name".to_owned()
    } else if is_brokers(name) {
        "RabbitMQ reads or writes the header of this name itself; use another name".to_owned()
    } else {
        match size_of(name, value) {
            Ok(size) if size.values > MAX_VALUES => Flaw::TooMany.to_string(),
            Ok(_) => return None,
            Err(flaw) => flaw.to_string(),
        }
    };
    // A long name is known by its beginning.
    let shown: String = name.chars().take(64).collect();
    let more = if shown.len() < name.len() { "…" } else { "" };
    let shown = shown.escape_debug();
    Some(format!("header '{shown}{more}' cannot be sent: {reason}"))
}

/// Tells whether RabbitMQ reads or writes a header of that name itself.
pub(crate) fn is_brokers(name: &str) -> bool {
    BROKER_NAMES.contains(&name)
        || BROKER_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Hides the values of a header in the `Debug` output of this program.
pub(crate) fn hide(name: &str) {
    let name = name.to_ascii_lowercase();
    let mut names = MORE_SECRET_NAMES
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    if !names.contains(&name) {
        names.push(name);
    }
}

fn is_secret(name: &str) -> bool {
    let is_name = |secret: &str| name.eq_ignore_ascii_case(secret);
    let more = || {
        MORE_SECRET_NAMES
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    };
    SECRET_NAMES.into_iter().any(is_name) || more().iter().any(|secret| is_name(secret))
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in self.iter() {
            match is_secret(name) {
                true => map.entry(&name, &format_args!("<hidden>")),
                false => map.entry(&name, value),
            };
        }
        map.finish()
    }
}

impl FromIterator<(String, HeaderValue)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, HeaderValue)>>(headers: I) -> Self {
        let headers = headers.into_iter();
        let headers: BTreeMap<_, _> = headers
            .map(|(name, value)| (name, value.shallow()))
            .collect();
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

    fn nested(depth: usize) -> HeaderValue {
        let deeper = |inner, level| match level % 2 {
            0 => HeaderValue::List(vec![inner]),
            _ => HeaderValue::Table([("inner".to_owned(), inner)].into_iter().collect()),
        };
        (0..depth).fold(HeaderValue::Void, deeper)
    }

    fn problem_of(name: &str, value: impl Into<HeaderValue>) -> Option<String> {
        let mut headers = Headers::new();
        headers.insert(name, value);
        headers.problem()
    }

    #[test]
    fn nesting_is_limited_and_hurts_no_stack() {
        assert_eq!(problem_of("deep", nested(MAX_DEPTH)), None);
        let lists = |depth| (0..depth).fold(HeaderValue::Void, |inner, _| vec_of(inner));
        for value in [nested(MAX_DEPTH + 1), lists(MAX_DEPTH + 1), lists(200_000)] {
            let mut headers = Headers::new();
            headers.insert("deep", value);
            assert_eq!(headers.size(), Err(Flaw::TooDeep));
            assert_eq!(headers.clone(), headers);
            let problem = headers.problem().unwrap();
            assert!(problem.contains("more than 32 deep"), "{problem}");
        }
    }

    fn vec_of(value: HeaderValue) -> HeaderValue {
        HeaderValue::List(vec![value])
    }

    #[test]
    fn the_number_of_values_is_limited_wherever_they_are() {
        let list = |len| HeaderValue::List(vec![1.into(); len]);
        assert_eq!(problem_of("list", list(MAX_VALUES - 1)), None);
        assert!(problem_of("list", list(MAX_VALUES)).is_some());
        let in_all = MAX_VALUES + OTHER_VALUES;
        let mut headers: Headers = (0..in_all)
            .map(|n| (n.to_string(), HeaderValue::Void))
            .collect();
        assert_eq!(headers.size().unwrap().values, in_all);
        headers.insert("more", 1);
        assert_eq!(headers.size(), Err(Flaw::TooMany));
    }

    #[test]
    fn names_of_the_protocol_and_of_the_broker_are_refused() {
        for name in [
            "CC",
            "BCC",
            "x-death",
            "x-delivery-count",
            "x-acquired-count",
            "x-first-death-queue",
            "x-last-death-reason",
            "x-opt-deaths",
            "x-basic-type",
            "rpc-deadline",
            "rpc-",
        ] {
            assert!(problem_of(name, 1).is_some(), "{name}");
        }
        for name in ["cc", "x-request-id", "x-forwarded-for", "rpc", "", "tenant"] {
            assert_eq!(problem_of(name, 1), None, "{name}");
        }
        let problem = problem_of("CC", "spy").unwrap();
        assert!(problem.contains("RabbitMQ reads or writes"), "{problem}");
    }

    #[test]
    fn what_amqp_has_no_form_for_is_refused() {
        assert!(problem_of(&"x".repeat(256), 1).is_some());
        assert_eq!(problem_of(&"x".repeat(255), 1), None);
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(problem_of("number", number).is_some());
            assert!(problem_of("list", vec_of(number.into())).is_some());
        }
        let inner = [("x".repeat(256), HeaderValue::Void)].into_iter().collect();
        assert!(problem_of("table", HeaderValue::Table(inner)).is_some());
    }

    #[test]
    fn debug_output_hides_secrets() {
        let nested = [("Password".to_owned(), "s3cret".into())].into_iter();
        let mut headers: Headers = [
            ("Authorization".to_owned(), "Bearer s3cret".into()),
            ("X-API-Key".to_owned(), "s3cret".into()),
            ("nested".to_owned(), HeaderValue::Table(nested.collect())),
            ("tenant".to_owned(), "a".into()),
        ]
        .into_iter()
        .collect();
        hide("X-Session-Of-Headers-Test");
        headers.insert("x-session-of-headers-test", "s3cret");
        let printed = format!("{headers:?}");
        assert!(!printed.contains("s3cret"), "{printed}");
        assert!(printed.contains("\"Authorization\": <hidden>"), "{printed}");
        assert!(printed.contains("\"tenant\": String(\"a\")"), "{printed}");
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
