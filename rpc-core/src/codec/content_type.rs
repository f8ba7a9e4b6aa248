//! Content type of a body.

use std::fmt;

use crate::names::{JSON, MESSAGE_PACK};

/// Format of a body.
///
/// All formats share one data model, serde's human-readable form: addresses, UUIDs and times are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContentType {
    /// `application/msgpack`: the default between clients and servers of this crate.
    MessagePack,
    /// `application/json`: arguments as an object.
    Json,
    /// No content type, or `text/plain`, as in RabbitMQ's RPC tutorial: JSON, with the bare argument if the method has exactly one.
    Plain,
}

impl ContentType {
    /// Parses a message's content type. Parameters such as `; charset=utf-8` are ignored.
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        let Some(text) = text else {
            return Some(Self::Plain);
        };
        if text == MESSAGE_PACK {
            return Some(Self::MessagePack); // The common case.
        }
        let essence = text.split(';').next().unwrap_or_default().trim();
        [
            (MESSAGE_PACK, Self::MessagePack),
            (JSON, Self::Json),
            ("text/plain", Self::Plain),
            ("", Self::Plain),
        ]
        .into_iter()
        .find(|(name, _)| essence.eq_ignore_ascii_case(name))
        .map(|(_, content_type)| content_type)
    }

    /// Returns the AMQP property to send. Plain messages have none.
    pub(crate) fn as_property(self) -> Option<&'static str> {
        match self {
            Self::MessagePack => Some(MESSAGE_PACK),
            Self::Json => Some(JSON),
            Self::Plain => None,
        }
    }

    /// Returns `true` if this build can read and write the format.
    pub(crate) fn is_supported(self) -> bool {
        self == Self::MessagePack || cfg!(feature = "json")
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_property().unwrap_or("text/plain"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_parsed_with_parameters_and_in_any_case() {
        assert_eq!(ContentType::parse(None), Some(ContentType::Plain));
        assert_eq!(
            ContentType::parse(Some("Application/JSON; charset=utf-8")),
            Some(ContentType::Json)
        );
        assert_eq!(
            ContentType::parse(Some("application/msgpack")),
            Some(ContentType::MessagePack)
        );
        assert_eq!(ContentType::parse(Some("text/html")), None);
    }
}
