//! The contenders, by name.

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

/// What a benchmark program ends with when something goes wrong, which is not measured.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Who competes.
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
    /// rpc-core with the client around the dispatcher.
    Direct,
}

/// What a contender asks of the broker. The defaults are rpc-core's own.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each can be told from the others at a glance, which is all they are for.
pub struct Traffic {
    /// Unroutable requests come back.
    pub mandatory: bool,
    /// Requests expire in the queue.
    pub expiration: bool,
    /// `type`, `content_type` and `app_id`.
    pub metadata: bool,
    /// The header with the deadline.
    pub deadline: bool,
    /// A header of the user's.
    pub header: bool,
    /// Requests are confirmed.
    pub confirms: bool,
    /// Requests survive a restart of the broker.
    pub persistent: bool,
    /// The queue is a quorum queue.
    pub quorum: bool,
    /// Requests are acknowledged.
    pub acks: bool,
    /// Replies may share messages.
    pub batches: bool,
    /// Requests may, too.
    pub coalesce: bool,
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
            _ => return None,
        })
    }
}

/// The tokio runtime of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// `current_thread`: lapin's own thread does the I/O, this one the rest.
    Single,
    /// What `#[tokio::main]` gives.
    Multi,
}

/// A contender and its variations, written `name`, `name+flag-flag` or `name@single`.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Who it is.
    pub contender: Contender,
    /// What it asks of the broker.
    pub traffic: Traffic,
    /// What it runs on.
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

/// What rpc-core grants a server unless told otherwise; the hand-written ones do the same.
const PREFETCH: u16 = 64;

/// A connection of lapin's and a channel.
async fn channel(url: &str) -> Outcome<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Declares a request queue and reads it; without a prefetch limit it is read without acknowledgements.
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

/// Makes an exclusive queue for replies and reads it.
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
