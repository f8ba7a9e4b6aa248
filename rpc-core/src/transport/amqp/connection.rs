//! Opening and closing a connection of lapin.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::{ConnectionProperties, ErrorKind};
use tracing::debug;

use super::cause;
use super::channel::AmqpChannel;
use super::direct::DirectReplies;
use super::url::Endpoint;
use crate::error::OpenError;
use crate::transport::{Channel, ChannelMode, Link, TransportError};

/// What it takes to connect to a broker and to log in.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) endpoint: Endpoint,
    /// What the broker's management shows.
    pub(crate) name: String,
    /// Certificate authorities to trust besides the platform's, in PEM.
    pub(crate) root_certificates: Option<String>,
}

impl Login {
    pub(super) async fn connect(&self) -> Result<lapin::Connection, OpenError> {
        let limit = self.endpoint.timeout();
        let properties = ConnectionProperties::default()
            .with_connection_name(self.name.as_str().into())
            .with_client_property("product".into(), "rpc-core".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let tls = OwnedTLSConfig {
            identity: None,
            cert_chain: self.root_certificates.clone(),
        };
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.explain(&error))?;
        let connecting = lapin::Connection::connect_uri_with_config(
            self.endpoint.uri.clone(),
            properties,
            tls,
            runtime,
        );
        // lapin limits neither name resolution nor the handshake.
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => Err(OpenError::TimedOut {
                endpoint: self.endpoint.to_string(),
                limit,
            }),
        }
    }

    /// Says what a refusal during the handshake means (<https://www.rabbitmq.com/docs/access-control>).
    fn explain(&self, error: &lapin::Error) -> OpenError {
        let endpoint = self.endpoint.to_string();
        let user = self.endpoint.user().to_owned();
        let refusal = match error.kind() {
            ErrorKind::ProtocolError(refusal) => Some(refusal.kind().clone()),
            _ => None,
        };
        match refusal {
            Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => {
                OpenError::CredentialsRefused { endpoint, user }
            }
            Some(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)) => {
                let virtual_host = self.endpoint.uri.vhost.clone();
                let hint = if virtual_host.is_empty() {
                    ": a URL that ends in '/' names the virtual host ''; the default one, '/', is written %2f"
                } else {
                    ": check its name and the user's permissions"
                };
                OpenError::VirtualHostRefused {
                    endpoint,
                    virtual_host,
                    user,
                    hint,
                    source: cause(error),
                }
            }
            _ => OpenError::Unreachable {
                endpoint,
                source: cause(error),
            },
        }
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

/// Connects and logs in.
pub(crate) async fn connect(login: Login) -> Result<Arc<dyn Link>, OpenError> {
    let connection = login.connect().await?;
    Ok(Arc::new(AmqpLink {
        connection,
        direct_replies: Arc::new(DirectReplies::new(login)),
    }))
}

/// A connection to RabbitMQ.
struct AmqpLink {
    connection: lapin::Connection,
    direct_replies: Arc<DirectReplies>,
}

impl Link for AmqpLink {
    fn open_channel(
        &self,
        mode: ChannelMode,
    ) -> BoxFuture<'_, Result<Arc<dyn Channel>, TransportError>> {
        async move {
            let channel =
                AmqpChannel::open(&self.connection, mode, Some(self.direct_replies.clone()))
                    .await?;
            Ok(Arc::new(channel) as Arc<dyn Channel>)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.direct_replies.close().await;
            close(&self.connection).await;
        }
        .boxed()
    }
}

/// Closes a connection and waits until the broker knows.
pub(super) async fn close(connection: &lapin::Connection) {
    if let Err(error) = connection.close(200, "OK".into()).await {
        debug!(%error, "the connection was closed already");
    }
}

impl fmt::Debug for AmqpLink {
    /// lapin's own output has the whole configuration, with the user's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpLink")
            .field("connected", &self.connection.status().connected())
            .finish_non_exhaustive()
    }
}
