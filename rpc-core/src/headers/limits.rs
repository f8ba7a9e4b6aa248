//! Limits of headers: AMQP's, RabbitMQ's and this crate's.

use super::map::Headers;
use super::value::{HeaderValue, MAX_DEPTH};
use crate::names::{BROKER_HEADERS, BROKER_PREFIXES, PROTOCOL_PREFIX};

/// The maximum length of a header name, in bytes: that of a short string in AMQP 0-9-1.
const MAX_NAME_LEN: usize = 255;

/// The maximum number of values that a user may send in the headers of a message, including those inside lists and tables.
pub(crate) const MAX_VALUES: usize = 1_000;

/// The maximum number of values beside a user's: those of the protocol, and those that the broker adds to a message each time the
/// message moves to a dead-letter queue.
pub(crate) const OTHER_VALUES: usize = 256;

/// Size of headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// The number of values, including those inside lists and tables.
    pub(crate) values: usize,
    /// The length of the AMQP field table in bytes, without its length prefix.
    pub(crate) bytes: usize,
}

impl Size {
    /// Adds a value at a depth in the headers of its message.
    fn add(&mut self, value: &HeaderValue, depth: usize) -> Result<(), Flaw> {
        self.values += 1;
        if self.values > MAX_VALUES + OTHER_VALUES {
            return Err(Flaw::TooMany);
        }
        // One byte for the type, then the value, with a length prefix if its length varies.
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

/// Reason why headers cannot be sent in AMQP, or exceed the limits of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error(
        "the header's name, or a name inside its value, has more than {MAX_NAME_LEN} bytes, AMQP's limit: use a shorter name"
    )]
    LongName,
    #[error(
        "a floating point number is infinite or not a number, which RabbitMQ refuses: send it as text"
    )]
    NotFinite,
    #[error(
        "lists and tables are nested more than {MAX_DEPTH} deep, the limit: send the value in the body"
    )]
    TooDeep,
    #[error(
        "there are more than {MAX_VALUES} values, the limit, counting those in lists and tables: send them in the body"
    )]
    TooMany,
}

impl Headers {
    /// Returns the size, or an error if the headers exceed a limit.
    pub(crate) fn size(&self) -> Result<Size, Flaw> {
        let mut size = Size::default();
        for (name, value) in self.iter() {
            size.add_named(name, value, 0)?;
        }
        Ok(size)
    }

    /// Returns the reason why a user cannot set these headers, or `None`.
    pub(crate) fn problem(&self) -> Option<String> {
        self.iter().find_map(|(name, value)| problem(name, value))
    }

    /// Returns `true` if the header exists and a user may send it.
    pub(crate) fn can_send(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| problem(name, value).is_none())
    }
}

/// Returns the size of one header, or an error if the header exceeds a limit.
pub(crate) fn size_of(name: &str, value: &HeaderValue) -> Result<Size, Flaw> {
    let mut size = Size::default();
    size.add_named(name, value, 0)?;
    Ok(size)
}

/// Returns the reason why a user cannot set a header, or `None`.
fn problem(name: &str, value: &HeaderValue) -> Option<String> {
    let reason = if name.starts_with(PROTOCOL_PREFIX) {
        "names that begin with 'rpc-' belong to the protocol; use another name".to_owned()
    } else if is_brokers(name) {
        "RabbitMQ reads or writes a header of this name; use another name".to_owned()
    } else {
        match size_of(name, value) {
            Ok(size) if size.values > MAX_VALUES => Flaw::TooMany.to_string(),
            Ok(_) => return None,
            Err(flaw) => flaw.to_string(),
        }
    };
    // The beginning identifies a long name.
    let shown: String = name.chars().take(64).collect();
    let more = if shown.len() < name.len() { "…" } else { "" };
    let shown = shown.escape_debug();
    Some(format!("header '{shown}{more}' cannot be sent: {reason}"))
}

/// Returns `true` if RabbitMQ reads or writes a header of this name.
pub(crate) fn is_brokers(name: &str) -> bool {
    BROKER_HEADERS.contains(&name)
        || BROKER_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn deep_nesting_is_refused_without_stack_overflow() {
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
    fn number_of_values_is_limited_including_nested_values() {
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
    fn names_reserved_by_protocol_or_broker_are_refused() {
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
    fn values_without_an_amqp_form_are_refused() {
        assert!(problem_of(&"x".repeat(256), 1).is_some());
        assert_eq!(problem_of(&"x".repeat(255), 1), None);
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(problem_of("number", number).is_some());
            assert!(problem_of("list", vec_of(number.into())).is_some());
        }
        let inner = [("x".repeat(256), HeaderValue::Void)].into_iter().collect();
        assert!(problem_of("table", HeaderValue::Table(inner)).is_some());
    }
}
