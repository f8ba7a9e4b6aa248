//! The parts that commands share: the options, the broker and standard output.

use std::sync::Arc;
use std::time::Duration;

use rpc_core::{Client, Connection, ConnectionState};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::cli::Global;
use crate::connect::{self, connect};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Longest time for which the end of the program waits for the broker.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The parts that commands share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) global: Global,
    pub(crate) broker: Broker,
    pub(crate) out: Output,
}

impl App {
    pub(crate) fn new(global: Global) -> Self {
        Self {
            broker: Broker::new(global.clone()),
            out: Output::new(global.json),
            global,
        }
    }

    /// Returns a client of the broker. Connects on the first call.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        Ok(self.broker.connection().await?.client())
    }
}

/// The broker that the options name. A command that needs none does not connect.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    global: Global,
    connection: Arc<OnceCell<Connection>>,
}

impl Broker {
    fn new(global: Global) -> Self {
        Self {
            global,
            connection: Arc::default(),
        }
    }

    /// Returns the connection. Connects on the first call.
    pub(crate) async fn connection(&self) -> Result<&Connection, Failure> {
        self.connection
            .get_or_try_init(|| connect(&self.global))
            .await
    }

    /// Returns the URL of the broker, which may hold a password.
    pub(crate) fn url(&self) -> Result<String, Failure> {
        connect::url(&self.global)
    }

    /// Returns the failure of a command, which is one of the broker if there was no answer because the connection is down.
    pub(crate) fn explained(&self, failure: Failure) -> Failure {
        let state = self.connection.get().map(|it| it.state().current());
        match (failure.exit(), state) {
            (Exit::Timeout, Some(ConnectionState::Reconnecting { error })) => Failure::new(
                Exit::NoBroker,
                format!("{failure}: the connection to the broker is down: {error}"),
            ),
            _ => failure,
        }
    }

    /// Closes the connection, if there is one, after the messages that are on their way.
    pub(crate) async fn close(&self) {
        if let Some(connection) = self.connection.get() {
            // A broker that does not answer does not delay the end of the program.
            let _ = timeout(CLOSE_LIMIT, connection.close()).await;
        }
    }
}
