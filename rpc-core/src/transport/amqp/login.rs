//! Connecting and logging in.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_rs::Tokio;
use async_rs::traits::Reactor;
use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream};
use lapin::uri::{AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{ConnectionProperties, ErrorKind};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::time::Instant;

use super::backpressure::Backpressure;
use super::close::close_connection;
use super::error::cause;
use super::guard::{self, GuardedStream, Secrets};
use super::renewal::Renewal;
use super::sasl::Sasl;
use super::tls::Connector;
use super::url::{Endpoint, OPTIONS};
use crate::credentials::{Credentials, Provider};
use crate::error::OpenError;

/// A stream, with TLS or without.
type Stream = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// Connects to a broker and logs in.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) endpoint: Endpoint,
    /// Connection name that the broker's management UI shows.
    pub(super) name: String,
    /// The program's callback, which replaces the URL's user and password.
    pub(super) credentials: Option<Provider>,
    /// `Some` for `amqps` URLs.
    pub(super) tls: Option<Connector>,
}

/// Credentials from a program's callback, with the time at which it returned them.
#[derive(Clone)]
pub(super) struct TimedCredentials {
    credentials: Credentials,
    at: Instant,
}

/// A connection of lapin with its login.
pub(super) struct Session {
    pub(super) connection: Arc<lapin::Connection>,
    /// `None` if only the broker knows.
    pub(super) user: Option<SmolStr>,
    pub(super) renewal: Option<Renewal>,
}

/// Stage of an attempt to connect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Reaching,
    Securing,
    /// TLS is done, if it is used. Nothing has arrived from a broker yet.
    Greeting,
    LoggingIn,
}

/// Time limit for a broker's reason for ending a connection.
const REASON_LIMIT: Duration = Duration::from_secs(1);

impl Login {
    /// Asks the program for credentials, if it has a callback.
    pub(super) async fn ask(&self) -> Result<Option<TimedCredentials>, OpenError> {
        let Some(provider) = &self.credentials else {
            return Ok(None);
        };
        match provider.ask(self.endpoint.timeout()).await {
            Ok(credentials) => Ok(Some(TimedCredentials {
                credentials,
                at: Instant::now(),
            })),
            Err(source) => Err(OpenError::CredentialsUnavailable { source }),
        }
    }

    /// Opens a connection with credentials from [`ask`](Self::ask). The connection reads no faster than its consumers take their
    /// deliveries.
    pub(super) async fn connect(
        &self,
        given: Option<TimedCredentials>,
        backpressure: &Arc<Backpressure>,
    ) -> Result<Session, OpenError> {
        let limit = self.endpoint.timeout();
        let mut uri = self.endpoint.uri.clone();
        let mut validity = None;
        if let Some(TimedCredentials { credentials, at }) = given {
            validity = credentials.valid_for.map(|lifetime| (at, lifetime));
            uri.authority.userinfo = AMQPUserInfo {
                username: credentials.user,
                password: credentials.password,
            };
        }
        let user = uri.authority.userinfo.username.clone();
        let secrets = Arc::default();
        let begun = Instant::now();
        // lapin limits neither the time of name resolution nor that of the handshake.
        let connecting = tokio::time::timeout(limit, self.try_connect(uri, backpressure, &secrets));
        let connection = match connecting.await {
            Ok(Ok(connection)) => Arc::new(connection),
            Ok(Err((stage, error))) => {
                let left = limit.saturating_sub(begun.elapsed()).min(REASON_LIMIT);
                let asking = tokio::time::timeout(left, self.ask_why(stage, &error));
                return Err(match asking.await.ok().flatten() {
                    Some(reason) => reason,
                    None => self.explain(stage, &error, user),
                });
            }
            Err(_) => {
                return Err(OpenError::TimedOut {
                    endpoint: self.endpoint.to_string(),
                    limit,
                });
            }
        };
        let renewal = self.credentials.as_ref().zip(validity);
        Ok(Session {
            renewal: renewal.map(|(provider, validity)| {
                let asking = (provider.clone(), limit);
                Renewal::start(connection.clone(), secrets, asking, &user, validity)
            }),
            connection,
            user: (self.endpoint.names_user() && !user.is_empty()).then(|| user.into()),
        })
    }

    async fn try_connect(
        &self,
        uri: AMQPUri,
        backpressure: &Arc<Backpressure>,
        secrets: &Arc<Secrets>,
    ) -> Result<lapin::Connection, (Stage, lapin::Error)> {
        // lapin does not connect by itself, because it would leave tasks behind with each failed attempt.
        let stream = self.stream().await?;
        let guarded = GuardedStream::new(stream, uri.query.frame_max)
            .with_backpressure(backpressure)
            .with_secrets(secrets.clone());
        let stream = Mutex::new(Some(AsyncTcpStream::Plain(guarded)));
        let connected = async move |_, _| {
            let stream = stream.lock().take();
            stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
        };
        let greeted = Arc::new(AtomicBool::new(false));
        let user = &uri.authority.userinfo;
        let sasl = Sasl::new(self.endpoint.mechanism(), user, secrets, greeted.clone());
        let properties = ConnectionProperties::default()
            .with_auth_provider(sasl)
            .with_connection_name(self.name.as_str().into())
            .with_client_property("product".into(), "rpc-core".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        lapin::Connection::connector(uri, guard::runtime(), connected, properties)
            .await
            .map_err(|error| match greeted.load(Ordering::Relaxed) {
                true => (Stage::LoggingIn, error),
                false => (Stage::Greeting, error),
            })
    }

    /// Opens a stream to the broker. AMQP has not begun on this stream.
    async fn stream(&self) -> Result<Stream, (Stage, lapin::Error)> {
        let at = |stage| move |error: io::Error| (stage, error.into());
        let runtime =
            lapin::runtime::default_runtime().map_err(|error| (Stage::Reaching, error))?;
        let plain = AMQPUri {
            scheme: AMQPScheme::AMQP,
            ..self.endpoint.uri.clone()
        };
        let stream = plain.connect_async(&runtime).await;
        let stream = stream.map_err(at(Stage::Reaching))?;
        let Some(connector) = &self.tls else {
            return Ok(stream);
        };
        let secured = connector.secure(stream, &plain.authority.host).await;
        secured.map_err(at(Stage::Securing))
    }

    /// Asks for the reason of a broker that ends a connection after TLS is done on its side. With TLS 1.3, the broker refuses a
    /// client's certificate only then, and its reason is lost if the client has sent anything meanwhile. So this connection sends
    /// nothing.
    async fn refusal_of_tls(&self) -> Option<io::Error> {
        self.tls.as_ref()?;
        let mut stream = self.stream().await.ok()?;
        stream.read(&mut [0]).await.err()
    }

    /// Asks for the login mechanisms that a broker offers, separated by spaces. A broker that is asked for another mechanism
    /// ends the connection without a reason.
    async fn offered_mechanisms(&self) -> Option<String> {
        /// Larger than the list of any broker.
        const MAX_LEN: usize = 64 << 10;
        let mut stream = self.stream().await.ok()?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await.ok()?;
        stream.flush().await.ok()?;
        // A frame begins with type, channel and length. The method, the version, and the broker's properties with their length
        // follow.
        let mut head = [0; 7];
        stream.read_exact(&mut head).await.ok()?;
        let [_, _, _, length @ ..] = head;
        let mut start = vec![
            0;
            usize::try_from(u32::from_be_bytes(length))
                .ok()?
                .min(MAX_LEN)
        ];
        stream.read_exact(&mut start).await.ok()?;
        let (_, rest) = split_long_string(start.get(6..)?)?;
        let (mechanisms, _) = split_long_string(rest)?;
        Some(String::from_utf8_lossy(mechanisms).into_owned())
    }

    /// Finds the reason of an error for which the broker gave none, through one more connection.
    async fn ask_why(&self, stage: Stage, error: &lapin::Error) -> Option<OpenError> {
        let endpoint = self.endpoint.to_string();
        match stage {
            Stage::Greeting => {
                let refusal = self.refusal_of_tls().await?;
                Some(OpenError::TlsRefused {
                    endpoint,
                    reason: self.tls.as_ref()?.explain(&refusal)?,
                    source: refusal.into(),
                })
            }
            Stage::LoggingIn if error.is_io_error() => {
                let offered = self.offered_mechanisms().await?;
                let mechanism = self.endpoint.mechanism().name();
                if !offered.split(' ').any(|one| one == mechanism) {
                    return Some(OpenError::MechanismRefused {
                        endpoint,
                        mechanism,
                        offered,
                    });
                }
                // The broker states this reason, but resets the connection before the reason arrives.
                let is_small = self.endpoint.frame_max_is_small();
                is_small.then(|| OpenError::OptionRefused {
                    endpoint,
                    option: "frame_max",
                    hint: "RabbitMQ 4 requires at least 8192; raise it, or leave it out",
                    source: cause(error),
                })
            }
            _ => None,
        }
    }

    /// Explains a refusal (<https://www.rabbitmq.com/docs/access-control>).
    fn explain(&self, stage: Stage, error: &lapin::Error, user: String) -> OpenError {
        let endpoint = self.endpoint.to_string();
        let source = cause(error);
        let refusal = match error.kind() {
            ErrorKind::ProtocolError(refusal) => Some((refusal.kind(), refusal.get_message())),
            _ => None,
        };
        match refusal {
            Some((AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED), _)) => {
                if self.endpoint.mechanism() == SASLMechanism::External {
                    OpenError::CertificateLoginRefused { endpoint, source }
                } else {
                    OpenError::CredentialsRefused { endpoint, user }
                }
            }
            Some((AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED), said)) => {
                let said = said.as_str();
                if said.contains("connection limit") && said.contains("reached") {
                    let hint = limit_hint(said);
                    return OpenError::LimitReached {
                        endpoint,
                        hint,
                        source,
                    };
                }
                if let Some((option, hint)) = refused_option(said) {
                    return OpenError::OptionRefused {
                        endpoint,
                        option,
                        hint,
                        source,
                    };
                }
                let virtual_host = self.endpoint.uri.vhost.clone();
                let hint = if virtual_host.is_empty() {
                    ": a URL that ends in '/' names the virtual host ''; the default virtual host '/' is written %2f"
                } else {
                    ": check its name, and the user's permissions there"
                };
                OpenError::VirtualHostRefused {
                    endpoint,
                    virtual_host,
                    user,
                    hint,
                    source,
                }
            }
            _ => self.explain_stream(stage, error),
        }
    }

    /// Explains a stream that could not be made or that broke.
    fn explain_stream(&self, stage: Stage, error: &lapin::Error) -> OpenError {
        let endpoint = self.endpoint.to_string();
        let source = cause(error);
        if let (Some(connector), ErrorKind::IOError(error)) = (&self.tls, error.kind())
            && let Some(reason) = connector.explain(error)
        {
            return OpenError::TlsRefused {
                endpoint,
                reason,
                source,
            };
        }
        let hint = match stage {
            Stage::Reaching => "check that it is running there",
            Stage::Securing => {
                "it ended the connection during the TLS handshake; check that this is not the port for amqp:// URLs"
            }
            Stage::Greeting if error.is_io_error() => match self.tls {
                Some(_) => {
                    "it ended the connection at once; it may be starting or stopping, or a load balancer without a node"
                }
                None => {
                    "it ended the connection at once; it may be starting or stopping, or a load balancer without a node, or the \
                     port for amqps:// URLs"
                }
            },
            Stage::Greeting if self.tls.is_none() => {
                "the peer does not speak AMQP; check that this is not the port for amqps:// URLs"
            }
            Stage::Greeting => "the peer speaks TLS, but not AMQP",
            Stage::LoggingIn => "it ended the connection during the login",
        };
        OpenError::Unreachable {
            endpoint,
            hint,
            source,
        }
    }
}

/// Names the limit of connections that the broker's text is about, and the way to raise it.
fn limit_hint(said: &str) -> &'static str {
    if said.contains("user connection limit") {
        "the user has reached its limit of connections: close some, or raise its limit with `rabbitmqctl set_user_limits`"
    } else if said.contains("node connection limit") {
        "the node has reached its limit of connections: close some, or raise `connection_max` in its configuration"
    } else {
        "the virtual host has reached its limit of connections: close some, or raise its limit with `rabbitmqctl set_vhost_limits`"
    }
}

/// Names the option of the URL that the broker's text refuses, and a remedy.
fn refused_option(said: &str) -> Option<(&'static str, &'static str)> {
    let (_, refused) = said.split_once("negotiated ")?;
    let option = OPTIONS
        .into_iter()
        .find(|option| refused.starts_with(option))?;
    let hint = match refused.contains("lower than") {
        true => "raise it, or leave it out",
        false => "lower it, or leave it out",
    };
    Some((option, hint))
}

/// Splits bytes after the long string, or the table, with which they begin.
fn split_long_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

impl Session {
    /// Returns `true` if another session has to replace this one.
    pub(super) fn is_outdated(&self) -> bool {
        self.renewal.as_ref().is_some_and(Renewal::is_outdated)
    }

    /// Size in bytes of the largest frame, as both sides have agreed.
    pub(super) fn frame_max(&self) -> usize {
        let frame_max = self.connection.configuration().frame_max();
        frame_max.try_into().unwrap_or(usize::MAX)
    }

    /// Closes the connection and waits for the broker's answer.
    pub(super) async fn close(&self) {
        close_connection(&self.connection).await;
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("endpoint", &self.endpoint)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Session {
    /// lapin's `Debug` output has the whole configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("connected", &self.connection.status().connected())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_of_connections_has_its_own_remedy() {
        for (said, part) in [
            (
                "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (1) is reached",
                "set_vhost_limits",
            ),
            (
                "NOT_ALLOWED - connection refused for user 'u': user connection limit (1) is reached",
                "set_user_limits",
            ),
            (
                "NOT_ALLOWED - connection refused: node connection limit (1) is reached",
                "connection_max",
            ),
        ] {
            assert!(limit_hint(said).contains(part), "{said}");
        }
    }

    #[test]
    fn refused_options_are_named() {
        for (said, refused) in [
            (
                "NOT_ALLOWED - negotiated frame_max = 4096 is lower than the minimum allowed value (8192)",
                Some(("frame_max", "raise it, or leave it out")),
            ),
            (
                "NOT_ALLOWED - negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
                Some(("channel_max", "lower it, or leave it out")),
            ),
            ("NOT_ALLOWED - vhost negotiated not found", None),
        ] {
            assert_eq!(refused_option(said), refused, "{said}");
        }
    }
}
