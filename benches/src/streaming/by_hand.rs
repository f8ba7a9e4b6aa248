//! lapin as a good engineer writes it: one message for each item, with the window and the guarantees of rpc-core.
//!
//! Items are mandatory and numbered, the reader checks the numbers and gives credit by halves of the window, and the sender waits for credit
//! and for its connection.

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::WINDOW_ITEMS;
use crate::contender::Outcome;

/// Number of publishes of which the last is awaited, so that no more wait to be written.
const UNAWAITED: u64 = 64;

async fn private_queue(channel: &Channel, prefix: &str) -> Outcome<(ShortString, Consumer)> {
    let name = ShortString::from(format!("{prefix}{}", Uuid::new_v4()));
    let options = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    channel
        .queue_declare(name.clone(), options, FieldTable::default())
        .await?;
    let consumer = consume(channel, name.clone(), true).await?;
    Ok((name, consumer))
}

async fn consume(channel: &Channel, queue: ShortString, no_ack: bool) -> Outcome<Consumer> {
    let options = BasicConsumeOptions {
        no_ack,
        ..Default::default()
    };
    let tag = queue.clone();
    Ok(channel
        .basic_consume(queue, tag, options, FieldTable::default())
        .await?)
}

/// Serves one stream after the other until the connection ends.
pub async fn serve(url: &str, queue: &str, ready: impl FnOnce()) -> Outcome {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await?;
    let mut requests = consume(&channel, queue.into(), false).await?;
    let (private, mut credits) = private_queue(&channel, "items.").await?;
    ready();
    while let Some(request) = requests.next().await {
        let request = request?;
        let (count, len): (u64, u64) = rmp_serde::from_slice(&request.data)?;
        let reply_to = request.properties.reply_to().clone().ok_or("no reply_to")?;
        let id = request
            .properties
            .correlation_id()
            .clone()
            .ok_or("no correlation_id")?;
        let usual = BasicProperties::default()
            .with_correlation_id(id)
            .with_content_type("application/msgpack".into());
        let accepted = usual
            .clone()
            .with_type("accepted".into())
            .with_reply_to(private.clone());
        publish(&channel, &reply_to, accepted, b"").await?;
        request.acker.ack(BasicAckOptions::default()).await?;
        let credit = Semaphore::new(WINDOW_ITEMS as usize);
        let sending = async {
            let item = rmp_serde::to_vec(serde_bytes(&vec![b'x'; len as usize]))?;
            for number in 0..count {
                credit.acquire().await?.forget();
                let properties = numbered(&usual, "item", number);
                let publishing = publish(&channel, &reply_to, properties, &item);
                if number % UNAWAITED == 0 {
                    publishing.await?;
                } else if let Some(outcome) = futures_util::FutureExt::now_or_never(publishing) {
                    outcome?;
                }
            }
            publish(&channel, &reply_to, numbered(&usual, "end", count), b"").await
        };
        let giving = async {
            while let Some(message) = credits.next().await {
                let more: u64 = rmp_serde::from_slice(&message?.data)?;
                credit.add_permits(more as usize);
            }
            Outcome::Ok(())
        };
        tokio::select! {
            sent = sending => sent?,
            given = giving => given?,
        }
    }
    Ok(())
}

/// Wraps bytes, which are written as a binary.
fn serde_bytes(bytes: &[u8]) -> &serde_bytes::Bytes {
    serde_bytes::Bytes::new(bytes)
}

fn numbered(usual: &BasicProperties, kind: &str, number: u64) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("number".into(), AMQPValue::LongLongInt(number as i64));
    usual.clone().with_type(kind.into()).with_headers(headers)
}

async fn publish(
    channel: &Channel,
    queue: &ShortString,
    properties: BasicProperties,
    body: &[u8],
) -> Outcome {
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    channel
        .basic_publish("".into(), queue.clone(), options, body, properties)
        .await?;
    Ok(())
}

/// A client.
#[derive(Debug)]
pub struct Client {
    _connection: Connection,
    channel: Channel,
    queue: ShortString,
    reply_to: ShortString,
    replies: Consumer,
}

impl Client {
    /// Connects a client.
    pub async fn connect(url: &str, queue: &str) -> Outcome<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let (reply_to, replies) = private_queue(&channel, "rpc.reply.").await?;
        Ok(Self {
            _connection: connection,
            channel,
            queue: queue.into(),
            reply_to,
            replies,
        })
    }

    /// Reads a stream. Returns the number of its items.
    pub async fn read(&mut self, count: u64, len: u64) -> Outcome<u64> {
        let id = ShortString::from(Uuid::new_v4().to_string());
        let properties = BasicProperties::default()
            .with_reply_to(self.reply_to.clone())
            .with_correlation_id(id.clone());
        let body = rmp_serde::to_vec(&(count, len))?;
        publish(&self.channel, &self.queue, properties, &body).await?;
        let mut sender = None;
        let (mut received, mut owed) = (0, 0);
        while let Some(message) = self.replies.next().await {
            let message = message?;
            if message.properties.correlation_id().as_ref() != Some(&id) {
                continue;
            }
            let kind = message
                .properties
                .kind()
                .as_ref()
                .ok_or("no type")?
                .as_str();
            if kind == "accepted" {
                sender = message.properties.reply_to().clone();
                continue;
            }
            let number = message
                .properties
                .headers()
                .as_ref()
                .and_then(|headers| headers.inner().get("number"));
            if number != Some(&AMQPValue::LongLongInt(received as i64)) {
                return Err("items were lost".into());
            }
            if kind == "end" {
                return Ok(received);
            }
            let item: serde_bytes::ByteBuf = rmp_serde::from_slice(&message.data)?;
            received += u64::from(item.len() as u64 == len);
            owed += 1;
            if owed == WINDOW_ITEMS / 2 {
                let sender = sender.as_ref().ok_or("not accepted")?;
                let credit = rmp_serde::to_vec(&owed)?;
                publish(&self.channel, sender, BasicProperties::default(), &credit).await?;
                owed = 0;
            }
        }
        Err("the reply queue is gone".into())
    }
}
