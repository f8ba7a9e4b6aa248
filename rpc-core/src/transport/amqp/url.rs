//! `amqp://` and `amqps://` URLs (<https://www.rabbitmq.com/docs/uri-spec>).

use std::fmt;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};

use super::options::Options;
use super::sasl::MECHANISMS;
use crate::error::OpenError;
use crate::transport::limits::MIN_FRAME_MAX;

/// Time limit for connecting and the AMQP handshake together, unless the URL sets another.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Heartbeat interval in seconds, unless the URL or the program sets another. lapin gives up a connection on which nothing has
/// arrived for two intervals, and checks every half interval.
const HEARTBEAT: u16 = 30;

/// Longest heartbeat interval that a URL can set: a dead connection has to be noticed within two minutes.
const MAX_HEARTBEAT: u16 = 45;

/// Options of a URL (<https://www.rabbitmq.com/docs/uri-query-parameters>).
///
/// lapin ignores all others. This crate refuses them: a misspelt `heartbeat` or an ignored `verify` would go unnoticed.
pub(super) const OPTIONS: [&str; 5] = [
    "auth_mechanism",
    "channel_max",
    "connection_timeout",
    "frame_max",
    "heartbeat",
];

/// Number of channels of a connection with a client and a server. A client has one for requests, one for confirmed requests and one
/// for messages to topics. A server has one for its queues, one for its private queue, one for requests that it republishes, and two for a
/// short time: to declare a queue or announce itself, and to retry a request alone.
const MIN_CHANNELS: u16 = 8;

/// Smallest limit of a frame that RabbitMQ 4 allows, in bytes.
const RABBITMQ_4_MIN_FRAME_MAX: u32 = 8192;

/// Address of a broker, with the user for the login. Prints as `host:port`, never with the password.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(super) uri: AMQPUri,
}

impl Endpoint {
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        let invalid = |reason: String| Err(OpenError::InvalidUrl(reason));
        if !url.starts_with("amqp://") && !url.starts_with("amqps://") {
            return invalid("a URL begins with amqp://, amqps:// or memory:".to_owned());
        }
        // Otherwise the parser would cut off the rest.
        if url.contains('#') {
            return invalid(
                "a '#' in the user name, the password or the virtual host is written %23"
                    .to_owned(),
            );
        }
        if has_bare_percent(url) {
            return invalid(
                "a '%' needs two hexadecimal digits after it; a '%' itself is written %25"
                    .to_owned(),
            );
        }
        let query = url.split_once('?').map_or("", |(_, query)| query);
        if query.contains('@') {
            return invalid(
                "a '?' or '@' in the user name or the password is written %3f, %40".to_owned(),
            );
        }
        // Otherwise the parser would take the text before a '/' for the host, and print it.
        if authority_and_rest(url).1.contains('@') {
            return invalid(
                "a '/' or '@' in the user name, the password or the virtual host is written %2f, %40"
                    .to_owned(),
            );
        }
        if let Some(option) = unknown_option(query) {
            let remedy = match option {
                "cacertfile" => {
                    "give the text of that file to `ConnectionBuilder::root_certificates`"
                        .to_owned()
                }
                "certfile" | "keyfile" => {
                    "give the texts of both files to `ConnectionBuilder::identity`".to_owned()
                }
                _ => format!("the options are {}", OPTIONS.join(", ")),
            };
            return invalid(format!("unknown option '{option}'; {remedy}"));
        }
        if let Some((option, largest)) = bad_number(query) {
            return invalid(format!(
                "option '{option}' must be a whole number from 0 to {largest}"
            ));
        }
        if let Some(name) = unknown_mechanism(query) {
            let known = MECHANISMS.map(|mechanism| mechanism.name().to_lowercase());
            return invalid(format!(
                "unknown `auth_mechanism` {name:?}; the mechanisms are {}",
                known.join(", ")
            ));
        }
        // The scheme is one of these two, so none of the parser's errors repeats the URL.
        let mut uri: AMQPUri = match url.parse() {
            Ok(uri) => uri,
            Err(reason) => {
                return invalid(format!(
                    "{reason}; write amqp://user:password@host:port/virtual-host"
                ));
            }
        };
        if let Some(host) = ip_v6_host(url) {
            uri.authority.host = host.to_owned();
        }
        if uri.scheme == AMQPScheme::AMQPS && !cfg!(feature = "tls") {
            return invalid("amqps:// needs the feature `tls` of rpc-core".to_owned());
        }
        // 0 leaves both limits to the broker.
        if let Some(small @ 1..MIN_CHANNELS) = uri.query.channel_max {
            return invalid(format!(
                "`channel_max` is {small}, and a connection with a client and a server needs {MIN_CHANNELS}"
            ));
        }
        if let Some(small @ 1..MIN_FRAME_MAX) = uri.query.frame_max {
            return invalid(format!(
                "`frame_max` is {small}, and AMQP requires at least {MIN_FRAME_MAX} bytes"
            ));
        }
        uri.query.heartbeat = Some(match uri.query.heartbeat {
            None | Some(0) => HEARTBEAT,
            Some(seconds) => seconds.min(MAX_HEARTBEAT),
        });
        Ok(Self { uri })
    }

    /// Sets the heartbeat interval, in place of the URL's. Zero leaves the interval to the broker.
    pub(crate) fn set_heartbeat(&mut self, interval: Duration) {
        let begun = u64::from(interval.subsec_nanos() > 0);
        let seconds = interval.as_secs().saturating_add(begun);
        self.uri.query.heartbeat = Some(seconds.try_into().unwrap_or(u16::MAX));
    }

    pub(super) fn timeout(&self) -> Duration {
        self.uri
            .query
            .connection_timeout
            .map_or(CONNECTION_TIMEOUT, Duration::from_millis)
    }

    /// Refuses options that contradict the URL.
    pub(super) fn check(&self, options: &Options) -> Result<(), OpenError> {
        let invalid = |reason: &str| Err(OpenError::InvalidUrl(reason.to_owned()));
        if options.identity.is_some() && !self.is_secure() {
            return invalid("`identity` needs TLS: begin the URL with amqps://");
        }
        if self.mechanism() != SASLMechanism::External {
            return Ok(());
        }
        if options.identity.is_none() {
            return invalid(
                "`auth_mechanism=external` logs in with a client certificate: set one with `ConnectionBuilder::identity`, and begin the \
                 URL with amqps://",
            );
        }
        if options.credentials.is_some() {
            return invalid(
                "`auth_mechanism=external` logs in with a client certificate, so it cannot be combined with a credentials callback",
            );
        }
        Ok(())
    }

    /// Returns `true` for a limit of a frame that AMQP and RabbitMQ 3 allow, but not RabbitMQ 4.
    pub(super) fn frame_max_is_small(&self) -> bool {
        matches!(
            self.uri.query.frame_max,
            Some(MIN_FRAME_MAX..RABBITMQ_4_MIN_FRAME_MAX)
        )
    }

    /// Returns `true` for an encrypted connection.
    pub(super) fn is_secure(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// Mechanism of the login.
    pub(super) fn mechanism(&self) -> SASLMechanism {
        self.uri.query.auth_mechanism.unwrap_or_default()
    }

    /// Returns `true` if the client names the user of the login.
    pub(super) fn names_user(&self) -> bool {
        !matches!(
            self.mechanism(),
            SASLMechanism::External | SASLMechanism::Anonymous
        )
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.uri.authority;
        if authority.host.contains(':') {
            write!(f, "[{}]:{}", authority.host, authority.port)
        } else {
            write!(f, "{}:{}", authority.host, authority.port)
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// The first option that lapin would ignore.
fn unknown_option(query: &str) -> Option<&str> {
    query
        .split('&')
        .map(|option| option.split('=').next().unwrap_or_default())
        .find(|name| !name.is_empty() && !OPTIONS.contains(name))
}

/// Splits a URL after its scheme into the authority and the rest.
fn authority_and_rest(url: &str) -> (&str, &str) {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

/// The first numeric option with another value, and the largest number that it can have.
fn bad_number(query: &str) -> Option<(&str, u64)> {
    query.split('&').find_map(|option| {
        let (name, value) = option.split_once('=')?;
        let largest = match name {
            "channel_max" | "heartbeat" => u16::MAX.into(),
            "frame_max" => u32::MAX.into(),
            "connection_timeout" => u64::MAX,
            _ => return None,
        };
        let is_one = value.parse().is_ok_and(|number: u64| number <= largest);
        (!is_one).then_some((name, largest))
    })
}

/// The value of `auth_mechanism`, if there is no such mechanism.
fn unknown_mechanism(query: &str) -> Option<&str> {
    let name = query
        .split('&')
        .find_map(|option| option.strip_prefix("auth_mechanism="))?;
    let is_known = name
        .parse()
        .is_ok_and(|mechanism| MECHANISMS.contains(&mechanism));
    (!is_known).then_some(name)
}

/// Returns `true` if a '%' has no two hexadecimal digits after it. The parser would keep it as it is.
fn has_bare_percent(url: &str) -> bool {
    let mut parts = url.split('%');
    parts.next();
    parts.any(|part| {
        let digits = part.as_bytes().iter().take(2);
        digits.filter(|byte| byte.is_ascii_hexdigit()).count() < 2
    })
}

/// The IPv6 address in a URL, for which lapin's parser would return `localhost`.
fn ip_v6_host(url: &str) -> Option<&str> {
    let (authority, _) = authority_and_rest(url);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    host.strip_prefix('[')?
        .split_once(']')
        .map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        Endpoint::parse(url).expect_err(url).to_string()
    }

    #[test]
    fn endpoints_print_no_password() {
        let endpoint = Endpoint::parse("amqp://ada:s3cret@broker:5673/%2f").unwrap();
        assert_eq!(endpoint.to_string(), "broker:5673");
        assert!(!format!("{endpoint:?}").contains("s3cret"));
    }

    #[test]
    fn errors_about_urls_do_not_contain_the_password() {
        for url in [
            "amqp://ada:s3cret@broker:notaport/",
            "amqp://ada:s3cret@broker?heartbeat=x",
            "amqp://ada:s3cret@broker?heartbeet=5",
            "amqp:ada:s3cret@broker",
            "amqp://ada:s3cret@",
            "amqp://ada:?s3cret=1@broker",
            "amqp://ada:#s3cret@broker",
            "amqp://ada:/s3cret@broker",
            "http://ada:s3cret@broker",
            "s3cret",
        ] {
            if let Err(error) = Endpoint::parse(url) {
                assert!(!error.to_string().contains("s3cret"), "{error}");
            }
        }
        assert!(error("amqp://broker?heartbeet=5").contains("unknown option 'heartbeet'"));
        assert!(error("amqp://broker:notaport").contains("invalid port number"));
        let reason = "'heartbeat' must be a whole number from 0 to 65535";
        for heartbeat in ["x", "-1", "100000", ""] {
            let said = error(&format!("amqp://broker?heartbeat={heartbeat}"));
            assert!(said.contains(reason), "{said}");
        }
    }

    #[test]
    fn parts_of_a_password_are_not_taken_for_the_host() {
        for url in [
            "amqp://ada:@s3cret/word@broker",
            "amqp://ada:pass@s3cret#word@broker",
            "amqp://ada:pass@s3cret:1/@broker/%2f",
        ] {
            let said = error(url);
            assert!(
                said.contains("is written %2") && !said.contains("s3cret"),
                "{said}"
            );
        }
        let endpoint = Endpoint::parse("amqp://ada:p%40s3cret%2f@broker/v%40host").unwrap();
        assert_eq!(endpoint.to_string(), "broker:5672");
    }

    #[test]
    fn special_characters_in_a_password_have_to_be_escaped() {
        for (url, said) in [
            ("amqp://ada:s3c#ret@broker", "written %23"),
            ("amqp://ada:s3cret@broker/one#two", "written %23"),
            ("amqp://ada:s3c?ret@broker", "written %3f"),
            ("amqp://ada:s3c/ret@broker", "written %2f"),
            ("amqp://ada:s3cret%@broker", "written %25"),
            ("amqp://ada:100%s3cret@broker", "written %25"),
        ] {
            let error = error(url);
            assert!(error.contains(said) && !error.contains("s3c"), "{error}");
        }
        let endpoint = Endpoint::parse("amqp://ada:s3c%23%25%3Fret:@broker").unwrap();
        assert_eq!(endpoint.uri.authority.userinfo.password, "s3c#%?ret:");
    }

    #[test]
    fn options_that_no_broker_accepts_are_refused() {
        for (option, said) in [
            ("channel_max=7", "needs 8"),
            ("frame_max=4095", "4096 bytes"),
            (
                "auth_mechanism=rabbit-cr-demo",
                "plain, amqplain, external, anonymous",
            ),
        ] {
            let error = error(&format!("amqp://broker?{option}"));
            assert!(error.contains(said), "{error}");
        }
        for option in [
            "channel_max=0",
            "channel_max=8",
            "frame_max=0",
            "auth_mechanism=PLAIN",
        ] {
            Endpoint::parse(&format!("amqp://broker?{option}")).unwrap();
        }
    }

    #[test]
    fn ipv6_hosts_are_kept() {
        let endpoint = Endpoint::parse("amqp://[::1]:5673/%2f").unwrap();
        assert_eq!(endpoint.to_string(), "[::1]:5673");
        assert_eq!(endpoint.uri.authority.host, "::1");
    }

    #[test]
    fn options_are_taken_from_the_url() {
        let endpoint =
            Endpoint::parse("amqp://broker/?heartbeat=5&connection_timeout=250").unwrap();
        assert_eq!(endpoint.timeout(), Duration::from_millis(250));
        assert_eq!(endpoint.uri.query.heartbeat, Some(5));
    }

    #[test]
    fn urls_cannot_switch_heartbeats_off() {
        for (query, seconds) in [
            ("", 30),
            ("?heartbeat=0", 30),
            ("?heartbeat=1", 1),
            ("?heartbeat=45", 45),
            ("?heartbeat=46", 45),
            ("?heartbeat=65535", 45),
        ] {
            let endpoint = Endpoint::parse(&format!("amqp://broker/{query}")).unwrap();
            assert_eq!(endpoint.uri.query.heartbeat, Some(seconds), "{query}");
            // Two intervals without data, noticed at most half an interval later.
            assert!(u64::from(seconds) * 5 / 2 < 120);
        }
    }

    #[test]
    fn the_heartbeat_of_the_program_overrides_the_url() {
        let mut endpoint = Endpoint::parse("amqp://broker/?heartbeat=5").unwrap();
        for (interval, seconds) in [
            (Duration::ZERO, 0),
            (Duration::from_millis(1), 1),
            (Duration::from_secs(7), 7),
            (Duration::from_millis(7_001), 8),
            (Duration::from_secs(600), 600),
            (Duration::MAX, u16::MAX),
        ] {
            endpoint.set_heartbeat(interval);
            assert_eq!(endpoint.uri.query.heartbeat, Some(seconds));
        }
    }
}
