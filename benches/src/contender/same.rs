//! The fastest lapin with rpc-core's own traffic: the lowest cost of its features.
//!
//! Every message has rpc-core's properties, headers, flags and body, and every request is acknowledged after its reply was
//! written. For speed, one task does all the work as it arrives. Of the messages that arrived together, only the last publish
//! is awaited (lapin writes in order), and one acknowledgement covers all. Nothing is decoded, deadlines have no timers, and
//! constant values are made once.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use uuid::Uuid;

use super::{Outcome, PREFETCH, Traffic, channel, reply_queue, serve_queue};
use crate::load::{Load, Next, Samples, Window};

/// Bytes that `rmp_serde` writes for `{"body": …}` before the header of the binary.
const ARGUMENTS: &[u8] = b"\x81\xa4body";
const TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until the connection ends.
pub async fn serve(url: &str, queue: &str, traffic: Traffic, ready: impl FnOnce()) -> Outcome {
    let (_connection, channel) = channel(url).await?;
    let prefetch = traffic.acks.then_some(PREFETCH);
    let mut requests = serve_queue(&channel, queue, traffic.quorum, prefetch).await?;
    ready();
    let mut usual = BasicProperties::default();
    if traffic.metadata {
        usual = with_metadata(usual, "result");
    }
    let mut arrived = Vec::new();
    while let Some(delivery) = requests.next().await {
        arrived.push(delivery?);
        while let Some(Some(delivery)) = requests.next().now_or_never() {
            arrived.push(delivery?);
        }
        if let Some((last, others)) = arrived.split_last() {
            for delivery in others {
                // The first poll queues the publish. lapin writes it before the last one.
                if let Some(Err(error)) = reply(&channel, &usual, delivery).now_or_never() {
                    return Err(error);
                }
            }
            reply(&channel, &usual, last).await?;
        }
        if let (Some(last), true) = (arrived.last(), traffic.acks) {
            let options = BasicAckOptions { multiple: true };
            let ack = channel.basic_ack(last.delivery_tag, options);
            ack.now_or_never().transpose()?;
        }
        arrived.clear();
    }
    Ok(())
}

async fn reply(channel: &Channel, usual: &BasicProperties, delivery: &Delivery) -> Outcome {
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
    let body = delivery.data.get(ARGUMENTS.len()..).ok_or("no arguments")?;
    let properties = usual.clone().with_correlation_id(id);
    channel
        .basic_publish(
            "".into(),
            reply_to,
            BasicPublishOptions::default(),
            body,
            properties,
        )
        .await?;
    Ok(())
}

fn with_metadata(properties: BasicProperties, kind: &str) -> BasicProperties {
    properties
        .with_type(kind.into())
        .with_content_type("application/msgpack".into())
        .with_app_id("contender".into())
}

/// Calls until the time is over.
pub async fn call(
    url: &str,
    queue: &str,
    traffic: Traffic,
    load: &Load,
    window: Window,
) -> Outcome<Samples> {
    let (_connection, channel) = channel(url).await?;
    let (reply_to, mut replies) = reply_queue(&channel).await?;
    if traffic.confirms {
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
    }
    let caller = Caller::new(channel, queue, reply_to, traffic, load);
    let mut waiting: HashMap<ShortString, Instant> = HashMap::with_capacity(load.in_flight);
    let mut confirms = FuturesUnordered::new();
    let mut samples = Samples::default();
    let mut started = load.in_flight;
    loop {
        for _ in 0..std::mem::take(&mut started) {
            let id = ShortString::from(Uuid::new_v4().hyphenated().to_string());
            waiting.insert(id.clone(), Instant::now());
            confirms.extend(caller.publish(id)?);
        }
        if waiting.is_empty() {
            return Ok(samples);
        }
        tokio::select! {
            biased;
            reply = replies.next() => {
                let reply = reply.ok_or("the reply queue is gone")??;
                let id = reply.properties.correlation_id().as_ref().ok_or("no correlation_id")?;
                let sent = waiting.remove(id).ok_or("a reply to nothing")?;
                if samples.record(window, sent) == Next::Call {
                    started = 1;
                }
            }
            Some(confirm) = confirms.next(), if traffic.confirms => { confirm?; }
        }
    }
}

/// Values that are the same in every call.
struct Caller {
    channel: Channel,
    queue: ShortString,
    options: BasicPublishOptions,
    usual: BasicProperties,
    traffic: Traffic,
    body: Vec<u8>,
}

type Confirmed = BoxFuture<'static, lapin::Result<Confirmation>>;

impl Caller {
    fn new(
        channel: Channel,
        queue: &str,
        reply_to: ShortString,
        traffic: Traffic,
        load: &Load,
    ) -> Self {
        let mut usual = BasicProperties::default().with_reply_to(reply_to);
        if traffic.metadata {
            usual = with_metadata(usual, "echo");
        }
        if traffic.expiration {
            usual = usual.with_expiration(TIMEOUT.as_millis().to_string().into());
        }
        if traffic.persistent {
            usual = usual.with_delivery_mode(2);
        }
        Self {
            channel,
            queue: queue.into(),
            options: BasicPublishOptions {
                mandatory: traffic.mandatory,
                ..Default::default()
            },
            usual,
            traffic,
            body: [ARGUMENTS, &bytes_header(load.payload), &load.body()].concat(),
        }
    }

    /// Queues a request. With confirms, returns a future of the confirm.
    fn publish(&self, id: ShortString) -> Outcome<Option<Confirmed>> {
        let mut properties = self.usual.clone().with_correlation_id(id);
        let mut headers = FieldTable::default();
        if self.traffic.deadline {
            headers.insert("rpc-deadline".into(), AMQPValue::LongLongInt(deadline()));
        }
        if self.traffic.batches {
            headers.insert("rpc-batches".into(), AMQPValue::Boolean(true));
        }
        if self.traffic.header {
            headers.insert("tenant".into(), AMQPValue::LongString("a".into()));
        }
        if !headers.inner().is_empty() {
            properties = properties.with_headers(headers);
        }
        if self.traffic.confirms {
            let (channel, queue, options) =
                (self.channel.clone(), self.queue.clone(), self.options);
            let body = self.body.clone();
            let mut confirmed: Confirmed = Box::pin(async move {
                channel
                    .basic_publish("".into(), queue, options, &body, properties)
                    .await?
                    .await
            });
            (&mut confirmed).now_or_never();
            return Ok(Some(confirmed));
        }
        let publish = self.channel.basic_publish(
            "".into(),
            self.queue.clone(),
            self.options,
            &self.body,
            properties,
        );
        publish.now_or_never().transpose()?;
        Ok(None)
    }
}

fn deadline() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from((now + TIMEOUT).as_millis()).unwrap_or(i64::MAX)
}

/// MessagePack's header of a binary.
fn bytes_header(length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    match length {
        [0, 0, 0, short] => vec![0xc4, short],
        [0, 0, high, low] => vec![0xc5, high, low],
        [a, b, c, d] => vec![0xc6, a, b, c, d],
    }
}
