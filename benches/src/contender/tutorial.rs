//! lapin as RabbitMQ's RPC tutorial writes it: <https://github.com/rabbitmq/rabbitmq-tutorials/tree/main/rust-lapin>.
//!
//! The server works on one request at a time and awaits everything. The client is that of [`engineer`](super::engineer): with
//! one call in flight it does the same as the tutorial's client.

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicPublishOptions};

use super::{Outcome, channel, serve_queue};

/// Serves until the connection ends.
pub async fn serve(url: &str, queue: &str, ready: impl FnOnce()) -> Outcome {
    let (_connection, channel) = channel(url).await?;
    let mut requests = serve_queue(&channel, queue, false, Some(1)).await?;
    ready();
    while let Some(delivery) = requests.next().await {
        let delivery = delivery?;
        let reply_to = delivery
            .properties
            .reply_to()
            .clone()
            .ok_or("no reply_to")?;
        let id = delivery
            .properties
            .correlation_id()
            .clone()
            .ok_or("no correlation_id")?;
        channel
            .basic_publish(
                "".into(),
                reply_to,
                BasicPublishOptions::default(),
                &delivery.data,
                BasicProperties::default().with_correlation_id(id),
            )
            .await?
            .await?;
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}
