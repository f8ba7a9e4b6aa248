//! Headers of a message.

use std::collections::BTreeMap;
use std::fmt;

use super::secrets::{HIDDEN, is_secret};
use super::value::HeaderValue;

/// Headers of a request or a response, sorted by name.
///
/// These limits are checked before a message is sent:
///
/// - Names have at most 255 bytes. Names that begin with `rpc-` belong to the protocol. Names of headers that RabbitMQ reads or writes
///   are refused: `CC`, `BCC`, `x-death`, `x-delivery-count`, `x-opt-…` and similar names. Other names that begin with `x-`, such as
///   `x-request-id`, are allowed.
/// - A message has at most 1,000 values, including those in lists and tables. Lists and tables are nested at most 32 deep.
/// - Floating point numbers are finite.
/// - All headers together fit into the broker's frame size, less 4 KiB: 124 KiB unless the broker or the URL sets another `frame_max`
///   (<https://www.rabbitmq.com/docs/configure>). The size includes the names, and the headers that the client, the trace and
///   propagation add.
///
/// `Debug` hides the values of `authorization`, `proxy-authorization`, `cookie`, `set-cookie`, `x-api-key`, `token`, `password` and
/// `secret`, in upper or lower case, and of the headers added with
/// [`ConnectionBuilder::secret_header`](crate::ConnectionBuilder::secret_header).
#[derive(Clone, Default, PartialEq)]
pub struct Headers(
    /// `None` when empty, as most headers are: an empty map takes longer to drop.
    Option<BTreeMap<String, HeaderValue>>,
);

impl Headers {
    /// Creates empty headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a header. Replaces an existing header of the same name.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<HeaderValue>) {
        let headers = self.0.get_or_insert_default();
        headers.insert(name.into(), value.into().shallow());
    }

    /// Returns the value of a header, or `None` if the header does not exist.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.as_ref()?.get(name)
    }

    /// Returns the value of a header as a `T`: `&str`, `String`, `bool`, an integer, `f64`, `Bytes`, or a type of your own that
    /// implements `TryFrom<&HeaderValue>`.
    ///
    /// Returns `None` if the header does not exist or has another type. [`get`](Self::get) distinguishes the two cases.
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

    /// Removes a header and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<HeaderValue> {
        let headers = self.0.as_mut()?;
        let value = headers.remove(name);
        if headers.is_empty() {
            self.0 = None;
        }
        value
    }

    /// Returns `true` if there are no headers.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Iterates over the headers, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        let headers = self.0.iter().flat_map(|headers| headers.iter());
        headers.map(|(name, value)| (name.as_str(), value))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in self.iter() {
            match is_secret(name) {
                true => map.entry(&name, &format_args!("{HIDDEN}")),
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
    use bytes::Bytes;

    use super::super::secrets::hide;
    use super::*;

    #[test]
    fn headers_are_empty_after_all_are_removed() {
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
    fn get_as_reads_the_exact_type_or_an_integer_that_fits() {
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
