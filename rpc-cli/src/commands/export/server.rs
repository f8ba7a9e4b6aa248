//! Address of a broker, as documents may show it: without the login.

use serde_json::{Value, json};

/// Address of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BrokerAddress {
    scheme: String,
    /// Host, and the port if the URL has one.
    host: String,
    /// The virtual host as it stands in the URL; `None` for the default one, `/`.
    path: Option<String>,
}

impl BrokerAddress {
    /// Takes the address from the URL of a connection; `None` if the text is no such URL.
    pub(super) fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let rest = rest.split(['?', '#']).next()?;
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(path.to_owned())),
            None => (rest, None),
        };
        if path.as_ref().is_some_and(|path| path.contains('@')) {
            return None;
        }
        let host = authority.rsplit('@').next().filter(|it| !it.is_empty())?;
        Some(Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            path,
        })
    }

    /// Returns the virtual host.
    pub(super) fn vhost(&self) -> String {
        let path = self.path.as_deref().unwrap_or("%2f");
        super::schemas::decode(path)
    }

    /// Returns the Server Object of AsyncAPI.
    pub(super) fn server(&self) -> Value {
        let mut server = json!({
            "host": self.host,
            "protocol": self.scheme,
            "protocolVersion": "0-9-1",
        });
        if let Some(path) = &self.path {
            server["pathname"] = format!("/{path}").into();
        }
        server
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> BrokerAddress {
        BrokerAddress::of(url).expect(url)
    }

    #[test]
    fn the_address_has_no_login() {
        let address = of("amqps://user:p@ss@host:5671/%2fa%20b?heartbeat=5");
        assert_eq!(
            address.server(),
            json!({ "host": "host:5671", "protocol": "amqps", "protocolVersion": "0-9-1", "pathname": "/%2fa%20b" })
        );
        assert_eq!(address.vhost(), "/a b");
        assert!(!format!("{address:?}").contains("p@ss"));
        assert_eq!(of("amqp://host").vhost(), "/");
        assert_eq!(of("amqp://host/shop").vhost(), "shop");
        assert_eq!(BrokerAddress::of("host:5672"), None);
        assert_eq!(BrokerAddress::of("amqp:///"), None);
    }

    /// A login with a slash is malformed, and must not be taken for a host.
    #[test]
    fn a_slash_in_the_password_shows_nothing_of_it() {
        assert_eq!(BrokerAddress::of("amqp://user:pa/ss@host/shop"), None);
    }
}
