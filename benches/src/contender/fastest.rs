//! The fastest lapin: no guarantees, and only the work that an echo needs.
//!
//! No acknowledgements, no limit, two properties. Publishes are queued and not awaited. One task does all the work as it
//! arrives. The correlation id is the number of a slot.

use std::time::Instant;

use futures_util::{FutureExt, StreamExt};
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;

use super::{Outcome, channel, reply_queue, serve_queue};
use crate::load::{Load, Next, Samples, Window};

/// Serves until the connection ends.
pub async fn serve(url: &str, queue: &str, ready: impl FnOnce()) -> Outcome {
    let (_connection, channel) = channel(url).await?;
    let mut requests = serve_queue(&channel, queue, false, None).await?;
    ready();
    while let Some(delivery) = requests.next().await {
        let delivery = delivery?;
        let reply_to = delivery.properties.reply_to().clone().unwrap_or_default();
        let id = delivery
            .properties
            .correlation_id()
            .clone()
            .unwrap_or_default();
        let properties = BasicProperties::default().with_correlation_id(id);
        let options = BasicPublishOptions::default();
        // The first poll queues the publish.
        let reply = channel.basic_publish("".into(), reply_to, options, &delivery.data, properties);
        reply.now_or_never().transpose()?;
    }
    Ok(())
}

/// Calls until the time is over.
pub async fn call(url: &str, queue: &str, load: &Load, window: Window) -> Outcome<Samples> {
    let (_connection, channel) = channel(url).await?;
    let (reply_to, mut replies) = reply_queue(&channel).await?;
    let usual = BasicProperties::default().with_reply_to(reply_to);
    let queue = ShortString::from(queue);
    let body = load.body();
    let send = |id: ShortString| -> Outcome<Instant> {
        let sent = Instant::now();
        let properties = usual.clone().with_correlation_id(id);
        let options = BasicPublishOptions::default();
        let request = channel.basic_publish("".into(), queue.clone(), options, &body, properties);
        request.now_or_never().transpose()?;
        Ok(sent)
    };
    let mut sent = Vec::with_capacity(load.in_flight);
    for slot in 0..load.in_flight {
        sent.push(send(ShortString::from(slot.to_string()))?);
    }
    let mut samples = Samples::default();
    let mut waiting = load.in_flight;
    while waiting > 0 {
        let reply = replies.next().await.ok_or("the reply queue is gone")??;
        let id = reply
            .properties
            .correlation_id()
            .as_ref()
            .ok_or("no correlation_id")?;
        let slot: usize = id.as_str().parse()?;
        match samples.record(window, sent[slot]) {
            Next::Call => sent[slot] = send(id.clone())?,
            Next::Stop => waiting -= 1,
        }
    }
    Ok(samples)
}
