//! Publishing in transactions (<https://www.rabbitmq.com/docs/semantics#tx>).

use futures_util::FutureExt;
use lapin::Channel;
use tracing::debug;

use super::publish::{Publish, write};
use crate::transport::amqp::error::{cause, refused_or_lost};
use crate::transport::amqp::properties::to_message;
use crate::transport::error::TransportError;
use crate::transport::message::Message;

/// A publisher on a channel with transactions. It is slower than the others: each message waits until it is written.
pub(crate) struct TransactionPublisher(Channel);

impl TransactionPublisher {
    pub(crate) async fn start(channel: Channel) -> Result<Self, TransportError> {
        channel.tx_select().await.map_err(refused_or_lost)?;
        Ok(Self(channel))
    }

    /// Adds a message to the transaction. Resolves once the message is written: lapin may write other methods before it.
    pub(crate) async fn publish(&self, publish: Publish) -> Result<(), TransportError> {
        let Publish {
            address,
            properties,
            body,
        } = publish;
        match write(&self.0, address, properties, &body).await {
            Ok(_) => Ok(()),
            Err(error) => Err(TransportError::lost(cause(&error))),
        }
    }

    /// Commits. Returns the messages that the broker returned, which it does before it answers.
    pub(crate) async fn commit(&self) -> Result<Vec<Message>, TransportError> {
        self.0.tx_commit().await.map_err(refused_or_lost)?;
        // Resolves at once: there are no confirms to wait for.
        let returned = self.0.wait_for_confirms().await.unwrap_or_default();
        let messages = returned.into_iter().map(|returned| {
            let delivery = returned.delivery;
            to_message(&delivery.properties, delivery.data)
        });
        Ok(messages.collect())
    }

    /// Drops what was not committed, and commits something else in its place. Does not wait.
    pub(crate) fn abandon(&self, instead: impl FnOnce()) {
        let report = |outcome: Option<lapin::Result<()>>| {
            if let Some(Err(error)) = outcome {
                debug!(%error, "a transaction could not be abandoned"); // It ends with its channel.
            }
        };
        report(self.0.tx_rollback().now_or_never());
        instead();
        report(self.0.tx_commit().now_or_never());
    }
}
