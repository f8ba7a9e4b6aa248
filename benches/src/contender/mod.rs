//! Contenders, by name.

pub mod engineer;
pub mod fastest;
pub mod ours;
pub mod same;
pub mod tutorial;

use std::error::Error;
use std::str::FromStr;

use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};

/// Result of a benchmark program. Errors end the program and are not measured.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Implementations that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// rpc-core.
    Ours,
    /// lapin as the RPC tutorial writes it.
    Tutorial,
    /// lapin as a good engineer writes it.
    Engineer,
    /// The fastest lapin with the messages, flags and acknowledgements of [`Ours`](Self::Ours).
    Same,
    /// The fastest lapin.
    Fastest,
    /// rpc-core on the embedded broker, all in one process.
    Embedded,
    /// rpc-core with the client around the dispatcher, without a broker.
    Direct,
}

/// Broker features that a contender uses. The defaults are rpc-core's.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each can be told from the others at a glance, which is all they are for.
pub struct Traffic {
    /// The broker returns unroutable requests.
    pub mandatory: bool,
    /// Requests expire in the queue.
    pub expiration: bool,
    /// Messages have `type`, `content_type` and `app_id`.
    pub metadata: bool,
    /// Requests have the deadline in a header.
    pub deadline: bool,
    /// Requests have a header of the user.
    pub header: bool,
    /// The broker confirms requests.
    pub confirms: bool,
    /// Requests survive a restart of the broker.
    pub persistent: bool,
    /// The queue is a quorum queue.
    pub quorum: bool,
    /// Servers acknowledge requests.
    pub acks: bool,
    /// Replies may share messages.
    pub batches: bool,
    /// Requests may share messages.
    pub coalesce: bool,
    /// Servers keep statistics and answer questions about themselves.
    pub introspection: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            mandatory: true,
            expiration: true,
            metadata: true,
            deadline: true,
            header: false,
            confirms: false,
            persistent: false,
            quorum: false,
            acks: true,
            batches: true,
            coalesce: false,
            introspection: true,
        }
    }
}

impl Traffic {
    fn flag(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "mandatory" => &mut self.mandatory,
            "expiration" => &mut self.expiration,
            "metadata" => &mut self.metadata,
            "deadline" => &mut self.deadline,
            "header" => &mut self.header,
            "confirms" => &mut self.confirms,
            "persistent" => &mut self.persistent,
            "quorum" => &mut self.quorum,
            "acks" => &mut self.acks,
            "batches" => &mut self.batches,
            "coalesce" => &mut self.coalesce,
            "introspection" => &mut self.introspection,
            _ => return None,
        })
    }
}

/// Tokio runtime of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// `current_thread`: lapin's own thread does the I/O, and this thread does the rest.
    Single,
    /// The default of `#[tokio::main]`.
    Multi,
}

/// Contender and its variations, written `name`, `name+flag-flag` or `name@single`.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The implementation.
    pub contender: Contender,
    /// The broker features.
    pub traffic: Traffic,
    /// The runtime.
    pub threads: Threads,
}

impl FromStr for Spec {
    type Err = Box<dyn Error + Send + Sync>;

    fn from_str(text: &str) -> Outcome<Self> {
        let unknown = || format!("there is no contender '{text}'");
        let (text, threads) = match text.split_once('@') {
            Some((text, "single")) => (text, Some(Threads::Single)),
            Some((text, "multi")) => (text, Some(Threads::Multi)),
            Some(_) => return Err(unknown().into()),
            None => (text, None),
        };
        let (name, mut flags) = text.split_at(text.find(['+', '-']).unwrap_or(text.len()));
        let (contender, usual_threads) = match name {
            "ours" => (Contender::Ours, Threads::Multi),
            "tutorial" => (Contender::Tutorial, Threads::Multi),
            "engineer" => (Contender::Engineer, Threads::Multi),
            "same" => (Contender::Same, Threads::Single),
            "fastest" => (Contender::Fastest, Threads::Single),
            "embedded" => (Contender::Embedded, Threads::Single),
            "direct" => (Contender::Direct, Threads::Single),
            _ => return Err(unknown().into()),
        };
        let mut traffic = Traffic::default();
        while !flags.is_empty() {
            let (sign, rest) = flags.split_at(1);
            let (flag, rest) = rest.split_at(rest.find(['+', '-']).unwrap_or(rest.len()));
            *traffic.flag(flag).ok_or_else(unknown)? = sign == "+";
            flags = rest;
        }
        Ok(Self {
            contender,
            traffic,
            threads: threads.unwrap_or(usual_threads),
        })
    }
}

/// Default prefetch of rpc-core. The hand-written contenders use the same.
const PREFETCH: u16 = 64;

/// Opens a lapin connection and a channel.
async fn channel(url: &str) -> Outcome<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Declares and consumes a request queue. Without a prefetch limit, consumes it without acknowledgements.
async fn serve_queue(
    channel: &Channel,
    queue: &str,
    quorum: bool,
    prefetch: Option<u16>,
) -> Outcome<Consumer> {
    let mut arguments = FieldTable::default();
    if quorum {
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
    }
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.into(), options, arguments)
        .await?;
    if let Some(prefetch) = prefetch {
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await?;
    }
    consume(channel, queue.into(), prefetch.is_none()).await
}

/// Declares and consumes an exclusive reply queue.
async fn reply_queue(channel: &Channel) -> Outcome<(ShortString, Consumer)> {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    let name = ShortString::from(format!("rpc.reply.{}", uuid::Uuid::new_v4()));
    channel
        .queue_declare(name.clone(), options, FieldTable::default())
        .await?;
    Ok((name.clone(), consume(channel, name, true).await?))
}

async fn consume(channel: &Channel, queue: ShortString, no_ack: bool) -> Outcome<Consumer> {
    let options = BasicConsumeOptions {
        no_ack,
        ..Default::default()
    };
    Ok(channel
        .basic_consume(queue, "bench".into(), options, FieldTable::default())
        .await?)
}
