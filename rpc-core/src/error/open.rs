//! Error of opening a connection.

use std::fmt;
use std::time::Duration;

use super::causes::{BoxError, with_causes};

/// Error of opening a [`Connection`](crate::Connection).
///
/// No variant holds or prints a password.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is malformed, or needs a feature that is switched off in this build.
    #[error("invalid broker URL: {0}")]
    InvalidUrl(String),
    /// The connection's name is longer than AMQP allows.
    #[error("the connection's name is longer than 255 bytes")]
    InvalidName,
    /// The broker refused the user name or the password.
    #[error(
        "the broker at {endpoint} refused the credentials of user '{}': check the user name and password{}",
        user.escape_debug(),
        guest_hint(user)
    )]
    CredentialsRefused {
        /// Host and port.
        endpoint: String,
        /// The user name that was refused.
        user: String,
    },
    /// The broker refused the client certificate as a login, which `auth_mechanism=external` in the URL asked for.
    #[error(
        "the broker at {endpoint} refused the client certificate as a login: check that a user exists with the name that the broker reads \
         from the certificate (setting `ssl_cert_login_from`)"
    )]
    CertificateLoginRefused {
        /// Host and port.
        endpoint: String,
        /// The broker's error.
        source: BoxError,
    },
    /// The broker does not offer the URL's `auth_mechanism`.
    #[error(
        "the broker at {endpoint} offers the login mechanisms {offered:?}, but not {mechanism}: set `auth_mechanism` in the URL to one of \
         them, or enable {mechanism} in the broker's `auth_mechanisms` (EXTERNAL needs the plugin rabbitmq_auth_mechanism_ssl)"
    )]
    MechanismRefused {
        /// Host and port.
        endpoint: String,
        /// The mechanism that the URL asks for.
        mechanism: &'static str,
        /// The mechanisms that the broker offers, separated by spaces.
        offered: String,
    },
    /// The callback of [`ConnectionBuilder::credentials`](crate::ConnectionBuilder::credentials) failed, panicked or did not return in
    /// time.
    #[error("the credentials callback gave no credentials")]
    CredentialsUnavailable {
        /// The callback's own error, or a description of its panic or timeout.
        source: BoxError,
    },
    /// [`ConnectionBuilder::state_user_id`](crate::ConnectionBuilder::state_user_id) is set, but this program does not know the name of
    /// its user.
    #[error(
        "the name of the connection's user is unknown to this program, so messages cannot state it: log in with a user name and a \
         password, or do not call `state_user_id`"
    )]
    UnknownUser,
    /// A certificate or a key is invalid.
    #[error("{0}")]
    InvalidCertificate(String),
    /// The TLS handshake failed: one side does not accept the other's certificate, or only one side uses TLS.
    #[error("no TLS connection with the broker at {endpoint}: {reason}")]
    TlsRefused {
        /// Host and port.
        endpoint: String,
        /// The reason, and a remedy if one is known.
        reason: &'static str,
        /// The cause, as the TLS library reports it.
        source: BoxError,
    },
    /// The broker, the virtual host or the user has reached its limit of connections.
    #[error("the broker at {endpoint} has no room for another connection: {hint}")]
    LimitReached {
        /// Host and port.
        endpoint: String,
        /// The limit, and how to raise it.
        hint: &'static str,
        /// The broker's error.
        source: BoxError,
    },
    /// The broker refused an option of the URL.
    #[error("the broker at {endpoint} refused the option `{option}` of the URL: {hint}")]
    OptionRefused {
        /// Host and port.
        endpoint: String,
        /// The name of the option.
        option: &'static str,
        /// A remedy.
        hint: &'static str,
        /// The broker's error.
        source: BoxError,
    },
    /// The virtual host does not exist, or the user may not access it.
    #[error(
        "user '{}' may not access virtual host '{}' on the broker at {endpoint}{hint}",
        user.escape_debug(),
        virtual_host.escape_debug()
    )]
    VirtualHostRefused {
        /// Host and port.
        endpoint: String,
        /// The virtual host that the URL names.
        virtual_host: String,
        /// The user name.
        user: String,
        /// A remedy, if one is known.
        hint: &'static str,
        /// The broker's error.
        source: BoxError,
    },
    /// The future was awaited outside of a Tokio runtime.
    #[error("a connection needs a Tokio runtime: open it inside `Runtime::block_on`")]
    NoRuntime,
    /// The broker cannot be reached, or the connection broke during the handshake.
    #[error("cannot connect to the broker at {endpoint}: {hint}")]
    Unreachable {
        /// Host and port.
        endpoint: String,
        /// A remedy, if one is known.
        hint: &'static str,
        /// The cause.
        source: BoxError,
    },
    /// The endpoint accepted the connection but did not complete the AMQP handshake in time.
    #[error("no AMQP handshake with {endpoint} within {limit:?}")]
    TimedOut {
        /// Host and port.
        endpoint: String,
        /// The time limit: the URL's `connection_timeout`, or 10 seconds.
        limit: Duration,
    },
}

impl OpenError {
    /// Returns `true` for an outage of the broker or of the credentials callback, and `false` for a refusal.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::CredentialsUnavailable { .. }
        )
    }
}

/// Writes the message with its causes, because `main` prints this form when it returns the error.
impl fmt::Debug for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_causes(self))
    }
}

/// Returns a reason, other than a wrong password, for which RabbitMQ refuses its default user
/// (<https://www.rabbitmq.com/docs/access-control#loopback-users>).
fn guest_hint(user: &str) -> &'static str {
    match user {
        "guest" => " (the default user may log in from the broker's own machine only)",
        _ => "",
    }
}
