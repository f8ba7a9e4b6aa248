//! The service under load, and the ledger of its executions.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rpc_core::{Call, Connection, Context, Incoming, QueueOptions, RpcError, Server, Stream, rpc};
use rpc_tests::unique_queue;

/// A service with one method for each promise about a call.
#[rpc]
pub(crate) trait Fault {
    /// Works for some milliseconds and returns [`answer_to`] the id.
    async fn plain(id: u64, work_millis: u64, #[ctx] context: Context) -> u64;
    #[rpc(idempotent)]
    async fn idempotent(id: u64, work_millis: u64, #[ctx] context: Context) -> u64;
    /// Kills the server's process at the end of its work.
    #[rpc(idempotent)]
    async fn deadly(id: u64, work_millis: u64, #[ctx] context: Context) -> u64;
    #[rpc(at_most_once)]
    async fn at_most_once(id: u64, work_millis: u64, #[ctx] context: Context) -> u64;
    /// Returns the numbers below `count`, with a pause before each.
    async fn numbers(count: u64, pause_millis: u64) -> impl Stream<Item = u64>;
    /// Returns the number of numbers, which have to come in order.
    async fn in_order(numbers: impl Stream<Item = u64>) -> Option<u64>;
}

/// A method of the service, as scenarios choose and the verdict distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Plain,
    Idempotent,
    AtMostOnce,
    Deadly,
}

impl Method {
    /// The methods that servers survive.
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Idempotent, Self::AtMostOnce];

    pub(crate) fn call(
        self,
        client: &FaultClient,
        id: u64,
        work: Duration,
    ) -> Call<Result<u64, RpcError>> {
        let work_millis = u64::try_from(work.as_millis()).expect("a short work");
        match self {
            Self::Plain => client.plain(id, work_millis),
            Self::Idempotent => client.idempotent(id, work_millis),
            Self::AtMostOnce => client.at_most_once(id, work_millis),
            Self::Deadly => client.deadly(id, work_millis),
        }
    }
}

/// The right result of a call, different from that of any other call.
pub(crate) fn answer_to(id: u64) -> u64 {
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

/// A handler that enters each call into the ledger when the call starts.
struct Worker(LedgerWriter);

impl Worker {
    async fn work(&self, id: u64, work_millis: u64, context: &Context) -> u64 {
        self.0.enter(id, context.redelivered());
        tokio::time::sleep(Duration::from_millis(work_millis)).await;
        answer_to(id)
    }
}

impl Fault for Worker {
    async fn plain(&self, id: u64, work_millis: u64, context: Context) -> u64 {
        self.work(id, work_millis, &context).await
    }

    async fn idempotent(&self, id: u64, work_millis: u64, context: Context) -> u64 {
        self.work(id, work_millis, &context).await
    }

    async fn deadly(&self, id: u64, work_millis: u64, context: Context) -> u64 {
        self.work(id, work_millis, &context).await;
        std::process::abort()
    }

    async fn at_most_once(&self, id: u64, work_millis: u64, context: Context) -> u64 {
        self.work(id, work_millis, &context).await
    }

    async fn numbers(&self, count: u64, pause_millis: u64) -> impl Stream<Item = u64> {
        paced(count, Duration::from_millis(pause_millis))
    }

    async fn in_order(&self, mut numbers: Incoming<u64>) -> Option<u64> {
        let mut count = 0;
        while let Some(number) = numbers.next().await {
            if number.ok()? != count {
                return None;
            }
            count += 1;
        }
        Some(count)
    }
}

/// The numbers below `count`, with a pause before each.
pub(crate) fn paced(count: u64, pause: Duration) -> impl Stream<Item = u64> + Send + 'static {
    stream::iter(0..count).then(move |number| async move {
        tokio::time::sleep(pause).await;
        number
    })
}

/// The queue of a scenario: its name and options, the same for all participants.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) options: QueueOptions,
}

impl Queue {
    pub(crate) fn unique(options: QueueOptions) -> Self {
        Self {
            name: unique_queue("faults"),
            options,
        }
    }

    /// A server of the queue, not started yet.
    pub(crate) fn server(&self, connection: &Connection, ledger: &Path) -> Server {
        let ledger = LedgerWriter::open(ledger).expect("the ledger can be opened");
        let dispatcher = FaultDispatcher::new(Worker(ledger))
            .with_queue(&self.name)
            .with_queue_options(self.options.clone());
        Server::builder(connection).service(dispatcher).build()
    }

    pub(crate) fn client(&self, connection: &Connection, sharing: Sharing) -> FaultClient {
        let client = connection.client_builder();
        let client = match sharing {
            Sharing::Nothing => client.coalesce(1),
            Sharing::Replies => client,
            Sharing::Requests => client.coalesce(16),
        };
        FaultClient::new(client.build()).with_queue(&self.name)
    }
}

/// The ways in which calls of a client share messages. Outcomes must not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    Nothing,
    /// The default.
    Replies,
    /// Batched requests of idempotent calls, and batched replies.
    Requests,
}

impl Sharing {
    /// The sharing of a client by its number: three consecutive clients differ.
    pub(crate) fn of(client: usize) -> Self {
        [Self::Requests, Self::Replies, Self::Nothing][client % 3]
    }
}

/// A file to which every server process of a scenario appends. Dropping the ledger deletes the file.
///
/// Entries in a file survive the death of the process that wrote them.
#[derive(Debug)]
pub(crate) struct Ledger(PathBuf);

/// The executions of one call in their order: `true` for a redelivery.
pub(crate) type Executions = Vec<bool>;

impl Ledger {
    pub(crate) fn create() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique_queue("ledger"));
        File::create(&path).expect("the target folder can be written to");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// All executions so far, by the id of the call.
    pub(crate) fn read(&self) -> HashMap<u64, Executions> {
        let mut executions: HashMap<u64, Executions> = HashMap::new();
        for line in fs::read_to_string(&self.0).expect("the ledger").lines() {
            let (id, redelivered) = line.split_once(' ').expect("an id and a word");
            executions
                .entry(id.parse().expect("an id"))
                .or_default()
                .push(redelivered == "true");
        }
        executions
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // A file that remains in the target folder does no harm.
        let _ = fs::remove_file(&self.0);
    }
}

struct LedgerWriter(File);

impl LedgerWriter {
    fn open(path: &Path) -> io::Result<Self> {
        File::options().append(true).open(path).map(Self)
    }

    /// Appends with a single write, so that lines of several writers do not mix.
    fn enter(&self, id: u64, redelivered: bool) {
        (&self.0)
            .write_all(format!("{id} {redelivered}\n").as_bytes())
            .expect("the ledger can be written to");
    }
}
