//! Behaviour of every transport. Each test binary that includes this module defines `crate::broker`, the broker under test.
//!
//! The environment variable `COALESCE` sets the number of calls that clients put into one message, except in tests that set their own limit.
//! The tests pass with any number. `make test` runs the suite without the variable, with 1, and with 64.

mod answers;
mod cancelling;
mod coalescing;
mod content;
mod context;
mod dead_letters;
mod deadlines;
mod errors;
mod evolution;
pub(crate) mod fakes;
mod gathering;
mod headers;
mod health;
mod instances;
mod introspection;
mod layered_services;
mod lifecycle;
mod limits;
mod middleware;
mod questions;
mod queue_extremes;
mod queue_options;
mod queues;
mod redelivery;
mod runtimes;
mod sharing;
mod streams;
mod tap;
pub(crate) mod telemetry;
mod untyped;
mod user_id;
mod values;
pub(crate) mod warnings;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rpc_core::instances::{InstanceStats, MethodStats};
use rpc_core::middleware::RetryPolicy;
use rpc_core::{
    Client, ClientBuilder, Connection, Context, Dispatch, Server, ServerBuilder, ServerHandle, rpc,
};
use rpc_tests::unique_queue;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

/// Time limit that is longer than any event of a test takes.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The broker under test.
pub(crate) struct Broker {
    pub(crate) url: String,
}

impl Broker {
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(&self.url)
            .await
            .expect("the test's broker")
    }

    /// Serves the sample service from a queue of its own.
    pub(crate) async fn sample(&self) -> Setup {
        self.sample_with(|server| server).await
    }

    pub(crate) async fn sample_with(
        &self,
        options: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Setup {
        let connection = self.connect().await;
        let queue = unique_queue("sample");
        let probe = Probe::default();
        let server = serve(&connection, &queue, &probe, options).await;
        let sample = SampleClient::new(client(&connection)).with_queue(&queue);
        Setup {
            sample,
            probe,
            server,
            queue,
            connection,
        }
    }
}

/// The starting point of most tests: a served sample service and its client.
pub(crate) struct Setup {
    pub(crate) sample: SampleClient,
    pub(crate) probe: Probe,
    pub(crate) server: ServerHandle,
    pub(crate) queue: String,
    pub(crate) connection: Connection,
}

/// The number of calls that may share a message, if the variable `COALESCE` sets one.
pub(crate) fn coalesce() -> Option<usize> {
    static LIMIT: OnceLock<Option<usize>> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let value = std::env::var_os("COALESCE")?;
        let limit = value.to_str().and_then(|value| value.parse().ok());
        assert!(
            limit.is_some(),
            "COALESCE must be the number of calls that may share a message, not {value:?}"
        );
        limit
    })
}

/// A client with the batch limit of this run and without retries, so that tests see each failure.
pub(crate) fn client(connection: &Connection) -> Client {
    client_builder(connection).build()
}

/// Options of the clients that [`client`] makes.
pub(crate) fn client_builder(connection: &Connection) -> ClientBuilder {
    let builder = connection.client_builder().retry(RetryPolicy::never());
    match coalesce() {
        None => builder,
        Some(limit) => builder.coalesce(limit),
    }
}

/// Serves a service on a server of its own.
pub(crate) async fn start(connection: &Connection, dispatcher: impl Dispatch) -> ServerHandle {
    Server::builder(connection)
        .service(dispatcher)
        .build()
        .start()
        .await
        .expect("the server starts")
}

/// Serves the sample service.
pub(crate) async fn serve(
    connection: &Connection,
    queue: &str,
    probe: &Probe,
    options: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> ServerHandle {
    let dispatcher = SampleDispatcher::new(probe.clone()).with_queue(queue);
    options(Server::builder(connection).service(dispatcher))
        .build()
        .start()
        .await
        .expect("the server starts")
}

/// The application error of the sample service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum SampleError {
    DivisionByZero { dividend: i64 },
}

/// An alias, which the macro cannot see through by name.
pub(crate) type Fallible<T> = Result<T, SampleError>;

/// A service with a method for each way that a call can go. Methods that may run twice are `idempotent`: only their calls share
/// messages.
#[rpc]
pub(crate) trait Sample {
    #[rpc(idempotent)]
    async fn add(a: u64, b: u64) -> u64;
    #[rpc(idempotent)]
    async fn divide(dividend: i64, divisor: i64) -> Fallible<i64>;
    #[rpc(idempotent)]
    async fn echo(bytes: Vec<u8>) -> Vec<u8>;
    /// Runs until the probe is released.
    #[rpc(idempotent)]
    async fn hold(#[ctx] context: Context) -> usize;
    /// The same, without redelivery.
    #[rpc(at_most_once)]
    async fn hold_once(#[ctx] context: Context) -> usize;
    /// Runs until its call is cancelled.
    #[rpc(idempotent, blocking)]
    fn block_until_cancelled(#[ctx] context: Context);
    /// Records its number.
    async fn number(n: u64);
    #[rpc(idempotent)]
    async fn panic();
    #[rpc(idempotent, blocking)]
    fn block_and_panic();
    #[rpc(idempotent, blocking)]
    fn block(millis: u64) -> u64;
    #[rpc(oneway)]
    async fn note(text: String);
    #[rpc(idempotent, timeout = "50ms")]
    async fn hold_briefly() -> usize;
    #[rpc(idempotent)]
    async fn describe(#[ctx] context: Context) -> Description;
    #[rpc(idempotent)]
    async fn double(&self, n: u64) -> u64 {
        self.add(n, n).await
    }
    #[rpc(idempotent, name = "renamed.on-the-wire")]
    async fn renamed() -> String;
}

/// The context of a call as its handler sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) correlation_id: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) remaining_millis: Option<u64>,
    pub(crate) redelivered: bool,
    pub(crate) app_id: Option<String>,
}

/// The handler of the sample service. Tests observe and control its calls.
#[derive(Clone, Default)]
pub(crate) struct Probe(Arc<ProbeState>);

struct ProbeState {
    running: AtomicUsize,
    most_running: AtomicUsize,
    begun: AtomicUsize,
    dropped: AtomicUsize,
    redelivered: AtomicUsize,
    deliveries: std::sync::Mutex<Vec<u32>>,
    numbers: std::sync::Mutex<Vec<u64>>,
    changed: Notify,
    release: Semaphore,
    notes: std::sync::Mutex<Vec<String>>,
}

impl Default for ProbeState {
    fn default() -> Self {
        Self {
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            redelivered: AtomicUsize::new(0),
            deliveries: std::sync::Mutex::default(),
            numbers: std::sync::Mutex::default(),
            changed: Notify::new(),
            release: Semaphore::new(0),
            notes: std::sync::Mutex::default(),
        }
    }
}

impl Probe {
    /// Releases that many held calls.
    pub(crate) fn release(&self, calls: usize) {
        self.0.release.add_permits(calls);
    }

    pub(crate) fn most_running(&self) -> usize {
        self.0.most_running.load(Ordering::SeqCst)
    }

    /// The number of held calls that have started.
    pub(crate) fn begun(&self) -> usize {
        self.0.begun.load(Ordering::SeqCst)
    }

    /// The number of held calls with `Context::redelivered`.
    pub(crate) fn redelivered(&self) -> usize {
        self.0.redelivered.load(Ordering::SeqCst)
    }

    /// The delivery count of each held call.
    pub(crate) fn deliveries(&self) -> Vec<u32> {
        self.0.deliveries.lock().unwrap().clone()
    }

    /// The recorded numbers in their order.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.0.numbers.lock().unwrap().clone()
    }

    /// Waits until that many held calls have started.
    pub(crate) async fn until_begun(&self, calls: usize) {
        self.until(
            |state| state.begun.load(Ordering::SeqCst) >= calls,
            "held calls have started",
        )
        .await;
    }

    /// Waits until that many held calls were dropped while they ran.
    pub(crate) async fn until_dropped(&self, calls: usize) {
        self.until(
            |state| state.dropped.load(Ordering::SeqCst) >= calls,
            "held calls were dropped",
        )
        .await;
    }

    pub(crate) async fn until_noted(&self, text: &str) {
        self.until(
            |state| state.notes.lock().unwrap().iter().any(|note| note == text),
            "the note has arrived",
        )
        .await;
    }

    async fn until(&self, condition: impl Fn(&ProbeState) -> bool, what: &str) {
        let wait = async {
            loop {
                let changed = self.0.changed.notified();
                if condition(&self.0) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(LONG, wait)
            .await
            .unwrap_or_else(|_| panic!("did not happen within {LONG:?}: {what}"));
    }

    fn record(&self, context: &Context) {
        if context.redelivered() {
            self.0.redelivered.fetch_add(1, Ordering::SeqCst);
        }
        let mut deliveries = self.0.deliveries.lock().unwrap();
        deliveries.push(context.delivery_count());
    }

    async fn held(&self) -> usize {
        struct Running<'a>(&'a ProbeState, bool);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.running.fetch_sub(1, Ordering::SeqCst);
                if !self.1 {
                    self.0.dropped.fetch_add(1, Ordering::SeqCst);
                }
                self.0.changed.notify_waiters();
            }
        }
        let state = &*self.0;
        let running = state.running.fetch_add(1, Ordering::SeqCst) + 1;
        let mut guard = Running(state, false);
        state.most_running.fetch_max(running, Ordering::SeqCst);
        let number = state.begun.fetch_add(1, Ordering::SeqCst) + 1;
        state.changed.notify_waiters();
        state
            .release
            .acquire()
            .await
            .expect("never closed")
            .forget();
        guard.1 = true;
        number
    }
}

impl Sample for Probe {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn divide(&self, dividend: i64, divisor: i64) -> Fallible<i64> {
        dividend
            .checked_div(divisor)
            .ok_or(SampleError::DivisionByZero { dividend })
    }

    async fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    async fn hold(&self, context: Context) -> usize {
        self.record(&context);
        self.held().await
    }

    async fn hold_once(&self, context: Context) -> usize {
        self.record(&context);
        self.held().await
    }

    fn block_until_cancelled(&self, context: Context) {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
        let patience = std::time::Instant::now() + Duration::from_secs(20);
        while !context.is_cancelled() && std::time::Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        if context.is_cancelled() {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
            self.0.changed.notify_waiters();
        }
    }

    async fn number(&self, n: u64) {
        self.0.numbers.lock().unwrap().push(n);
        self.0.changed.notify_waiters();
    }

    async fn panic(&self) {
        panic!("as requested");
    }

    fn block_and_panic(&self) {
        panic!("as requested");
    }

    fn block(&self, millis: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(millis));
        millis
    }

    async fn note(&self, text: String) {
        self.0.notes.lock().unwrap().push(text);
        self.0.changed.notify_waiters();
    }

    async fn hold_briefly(&self) -> usize {
        self.held().await
    }

    async fn describe(&self, context: Context) -> Description {
        Description {
            correlation_id: context.correlation_id().map(str::to_owned),
            tenant: context
                .header("tenant")
                .and_then(|value| value.as_str())
                .map(str::to_owned),
            remaining_millis: context
                .remaining()
                .map(|left| u64::try_from(left.as_millis()).expect("small")),
            redelivered: context.redelivered(),
            app_id: context.app_id().map(str::to_owned),
        }
    }

    async fn renamed(&self) -> String {
        "renamed".to_owned()
    }
}

/// Waits until the client has dropped that many late replies.
pub(crate) async fn until_late(client: &Client, replies: u64) {
    rpc_tests::eventually("late replies are counted", async || {
        (client.dropped_replies().late >= replies).then_some(())
    })
    .await;
}

/// The statistics of a method.
pub(crate) fn of_method<'a>(stats: &'a InstanceStats, name: &str) -> &'a MethodStats {
    let mut methods = stats.methods.iter();
    methods.find(|method| method.name == name).unwrap()
}
