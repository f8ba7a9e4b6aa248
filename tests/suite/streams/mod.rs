//! Streams: methods that return items, take items from their caller, or both.

mod ends;
mod flow;
mod hostile;
mod shapes;
mod surroundings;
mod telemetry;
mod unlucky;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rpc_core::{
    ClientBuilder, Connection, Context, Incoming, RpcError, Server, ServerBuilder, ServerHandle,
    Stream, Streaming, rpc,
};
use rpc_tests::{eventually, unique_queue};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{LONG, client_builder};
use crate::broker;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum FeedError {
    Refused { name: String },
    Broken { at: u64 },
}

/// A service with a method for each way that a stream can go.
#[rpc]
pub(crate) trait Feed {
    async fn count(to: u64) -> impl Stream<Item = u64>;
    /// Returns numbers, then its own error.
    async fn fail_at(n: u64) -> impl Stream<Item = Result<u64, FeedError>>;
    /// Refuses every name but `numbers`.
    async fn open(name: String) -> Result<impl Stream<Item = u64>, FeedError>;
    /// May refuse, and may fail after the first items.
    async fn open_and_fail(
        name: String,
        n: u64,
    ) -> Result<impl Stream<Item = Result<u64, String>>, FeedError>;
    async fn panic_at(n: u64) -> impl Stream<Item = u64>;
    /// Returns texts of a length without end. The probe counts them.
    async fn endless(len: u64) -> impl Stream<Item = String>;
    /// Returns one number, and a further one each time that the probe is released.
    async fn held(#[ctx] cx: Context) -> impl Stream<Item = u64>;
    /// Returns a number each time that the probe is released.
    #[rpc(idempotent)]
    async fn held_again(#[ctx] cx: Context) -> impl Stream<Item = u64>;
    #[rpc(at_most_once)]
    async fn held_once(#[ctx] cx: Context) -> impl Stream<Item = u64>;
    /// Does not answer before the probe is released.
    async fn late() -> impl Stream<Item = u64>;
    async fn sum(numbers: impl Stream<Item = u64>) -> Result<u64, FeedError>;
    /// Takes a number of items, then answers while the caller still sends.
    async fn take(n: u64, numbers: impl Stream<Item = u64>) -> Vec<u64>;
    /// Takes one item each time that the probe is released.
    async fn slowly(numbers: impl Stream<Item = u64>) -> u64;
    async fn echo(said: impl Stream<Item = String>) -> impl Stream<Item = String>;
    async fn echo_or_refuse(
        refuse: bool,
        said: impl Stream<Item = String>,
    ) -> Result<impl Stream<Item = String>, FeedError>;
    /// Returns the tenant, once in the head of the stream and once for each item.
    async fn tenants(n: u64, #[ctx] cx: Context) -> impl Stream<Item = Option<String>>;
    async fn single(n: u64) -> u64;
}

/// The handler of the service. Tests observe and control its streams.
#[derive(Clone, Default)]
pub(crate) struct Probe(Arc<ProbeState>);

struct ProbeState {
    begun: AtomicUsize,
    produced: AtomicUsize,
    taken: AtomicUsize,
    dropped: AtomicUsize,
    /// Last items of `Incoming` streams that were errors.
    broken: std::sync::Mutex<Vec<String>>,
    release: Semaphore,
}

impl Default for ProbeState {
    fn default() -> Self {
        Self {
            begun: AtomicUsize::default(),
            produced: AtomicUsize::default(),
            taken: AtomicUsize::default(),
            dropped: AtomicUsize::default(),
            broken: std::sync::Mutex::default(),
            release: Semaphore::new(0),
        }
    }
}

/// Counts a stream whose handler was dropped before its end.
struct Dropped(Probe);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Probe {
    pub(crate) fn release(&self, times: usize) {
        self.0.release.add_permits(times);
    }

    pub(crate) fn begun(&self) -> usize {
        self.0.begun.load(Ordering::SeqCst)
    }

    pub(crate) fn produced(&self) -> usize {
        self.0.produced.load(Ordering::SeqCst)
    }

    pub(crate) fn taken(&self) -> usize {
        self.0.taken.load(Ordering::SeqCst)
    }

    pub(crate) fn broken(&self) -> Vec<String> {
        self.0.broken.lock().unwrap().clone()
    }

    pub(crate) async fn until_begun(&self, streams: usize) {
        eventually("the handlers begin", async || {
            (self.begun() >= streams).then_some(())
        })
        .await;
    }

    pub(crate) async fn until_taken(&self, items: usize) {
        eventually("the handlers take items", async || {
            (self.taken() == items).then_some(())
        })
        .await;
    }

    pub(crate) async fn until_dropped(&self, streams: usize) {
        eventually("the handlers are dropped", async || {
            (self.0.dropped.load(Ordering::SeqCst) >= streams).then_some(())
        })
        .await;
    }

    /// Waits until a counter stops changing, and returns it.
    pub(crate) async fn settled(&self, counter: impl Fn(&Self) -> usize) -> usize {
        let mut last = (counter(self), 0);
        eventually("the handler stops", async || {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = counter(self);
            last = match now == last.0 {
                true => (now, last.1 + 1),
                false => (now, 0),
            };
            (last.1 == 4).then_some(now)
        })
        .await
    }

    /// Numbers, of which the first ones come at once.
    fn held(&self, at_once: u64) -> impl Stream<Item = u64> + Send + use<> {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        let state = (self.clone(), 0, Dropped(self.clone()));
        stream::unfold(state, move |(probe, n, dropped)| async move {
            if n >= at_once {
                let permit = probe.0.release.acquire().await;
                permit.expect("never closed").forget();
            }
            Some((n, (probe, n + 1, dropped)))
        })
    }

    fn record(&self, error: &RpcError) {
        let kind = error.kind();
        self.0.broken.lock().unwrap().push(format!("{kind:?}"));
    }
}

impl Feed for Probe {
    async fn count(&self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(0..to)
    }

    async fn fail_at(&self, n: u64) -> impl Stream<Item = Result<u64, FeedError>> {
        let broken = Err(FeedError::Broken { at: n });
        stream::iter((0..n).map(Ok)).chain(stream::iter([broken]))
    }

    async fn open(&self, name: String) -> Result<impl Stream<Item = u64>, FeedError> {
        match name.as_str() {
            "numbers" => Ok(stream::iter(0..3)),
            _ => Err(FeedError::Refused { name }),
        }
    }

    async fn open_and_fail(
        &self,
        name: String,
        n: u64,
    ) -> Result<impl Stream<Item = Result<u64, String>>, FeedError> {
        match name.as_str() {
            "numbers" => {
                Ok(stream::iter((0..n).map(Ok)).chain(stream::iter([Err("broken".to_owned())])))
            }
            _ => Err(FeedError::Refused { name }),
        }
    }

    async fn panic_at(&self, n: u64) -> impl Stream<Item = u64> {
        stream::iter(0..).map(move |number| {
            assert!(number < n, "as the caller wishes");
            number
        })
    }

    async fn endless(&self, len: u64) -> impl Stream<Item = String> {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        let text = "x".repeat(len as usize);
        let dropped = Dropped(self.clone());
        // Borrows from the handler.
        stream::repeat_with(move || {
            let _ = &dropped;
            self.0.produced.fetch_add(1, Ordering::SeqCst);
            text.clone()
        })
    }

    async fn held(&self, _: Context) -> impl Stream<Item = u64> {
        self.held(1)
    }

    async fn held_again(&self, _: Context) -> impl Stream<Item = u64> {
        self.held(0)
    }

    async fn held_once(&self, _: Context) -> impl Stream<Item = u64> {
        self.held(1)
    }

    async fn late(&self) -> impl Stream<Item = u64> {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        let _dropped = Dropped(self.clone());
        let permit = self.0.release.acquire().await;
        permit.expect("never closed").forget();
        stream::iter(0..3)
    }

    async fn sum(&self, mut numbers: Incoming<u64>) -> Result<u64, FeedError> {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        let _dropped = Dropped(self.clone());
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            match number {
                Ok(13) => return Err(FeedError::Broken { at: 13 }),
                Ok(number) => sum += number,
                Err(error) => {
                    self.record(&error);
                    return Err(FeedError::Broken { at: sum });
                }
            }
            self.0.taken.fetch_add(1, Ordering::SeqCst);
        }
        Ok(sum)
    }

    async fn take(&self, n: u64, numbers: Incoming<u64>) -> Vec<u64> {
        let numbers = numbers.filter_map(async |number| number.ok());
        numbers.take(n as usize).collect().await
    }

    async fn slowly(&self, mut numbers: Incoming<u64>) -> u64 {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        let mut sum = 0;
        loop {
            let permit = self.0.release.acquire().await;
            permit.expect("never closed").forget();
            match numbers.next().await {
                Some(Ok(number)) => sum += number,
                Some(Err(error)) => self.record(&error),
                None => return sum,
            }
            self.0.taken.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn echo(&self, said: Incoming<String>) -> impl Stream<Item = String> {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        let dropped = Dropped(self.clone());
        stream::unfold((said, dropped), async |(mut said, dropped)| {
            match said.next().await? {
                Ok(text) => Some((text, (said, dropped))),
                Err(error) => {
                    dropped.0.record(&error);
                    None
                }
            }
        })
    }

    async fn echo_or_refuse(
        &self,
        refuse: bool,
        said: Incoming<String>,
    ) -> Result<impl Stream<Item = String>, FeedError> {
        match refuse {
            true => Err(FeedError::Refused {
                name: String::new(),
            }),
            false => Ok(said.filter_map(async |text| text.ok())),
        }
    }

    async fn tenants(&self, n: u64, cx: Context) -> impl Stream<Item = Option<String>> {
        let tenant = |cx: &Context| cx.header_as::<&str>("tenant").map(str::to_owned);
        cx.set_reply_header("tenant", tenant(&cx).unwrap_or_default());
        stream::iter(0..n).map(move |_| {
            let current = Context::current().expect("a current context");
            assert_eq!(tenant(&current), tenant(&cx));
            tenant(&current)
        })
    }

    async fn single(&self, n: u64) -> u64 {
        n
    }
}

/// A served feed and its client.
pub(crate) struct Setup {
    pub(crate) feed: FeedClient,
    pub(crate) probe: Probe,
    pub(crate) server: ServerHandle,
    pub(crate) queue: String,
    pub(crate) connection: Connection,
    pub(crate) serving: Connection,
}

impl Setup {
    pub(crate) async fn new() -> Self {
        Self::with(|server| server, |client| client).await
    }

    pub(crate) async fn with(
        server: impl FnOnce(ServerBuilder) -> ServerBuilder,
        client: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Self {
        let broker = broker().await;
        let (connection, serving) = (broker.connect().await, broker.connect().await);
        let (queue, probe) = (unique_queue("feed"), Probe::default());
        let feed = client(client_builder(&connection)).build();
        Self {
            server: serve(&serving, &queue, &probe, server).await,
            feed: FeedClient::new(feed).with_queue(&queue),
            probe,
            queue,
            connection,
            serving,
        }
    }
}

/// Serves the feed.
pub(crate) async fn serve(
    connection: &Connection,
    queue: &str,
    probe: &Probe,
    options: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> ServerHandle {
    let dispatcher = FeedDispatcher::new(probe.clone()).with_queue(queue);
    let server = options(Server::builder(connection).service(dispatcher)).build();
    server.start().await.expect("the server starts")
}

/// Reads a stream to its end: its items, and the error that is its last item.
pub(crate) async fn all<T, E>(mut items: Streaming<T, E>) -> (Vec<T>, Option<E>) {
    let mut read = Vec::new();
    let reading = async {
        while let Some(item) = items.next().await {
            match item {
                Ok(item) => read.push(item),
                Err(error) => {
                    assert!(items.next().await.is_none(), "an error is the last item");
                    return Some(error);
                }
            }
        }
        assert!(items.next().await.is_none(), "the end stays the end");
        None
    };
    let error = tokio::time::timeout(LONG, reading).await;
    let error = error.expect("the stream ends");
    (read, error)
}

/// Waits for the next item.
pub(crate) async fn next<T, E>(items: &mut Streaming<T, E>) -> Option<Result<T, E>> {
    let next = tokio::time::timeout(LONG, items.next()).await;
    next.expect("an item or the end")
}
