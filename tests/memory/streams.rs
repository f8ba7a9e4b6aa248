//! Streams in the direct form: the client calls the dispatcher without a broker.

use std::fmt::Debug;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, FusedStream, StreamExt};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use rpc_core::{CallError, Context, ErrorKind, Incoming, RpcError, Stream, Streaming, rpc};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Refused(String);

type Guarded<T> = Result<T, Refused>;
type GuardedResult<T> = Result<T, Refused>;

/// All shapes.
#[rpc(timeout = "5s")]
trait Streams {
    /// Counts, from items that are borrowed from the handler.
    async fn count(to: u64) -> impl Stream<Item = u64>;
    async fn broken(to: u64) -> impl Stream<Item = Result<u64, Refused>>;
    async fn aliased(to: u64) -> impl Stream<Item = Guarded<u64>>;
    async fn open(to: u64) -> Result<impl Stream<Item = u64>, Refused>;
    async fn open_aliased(to: u64) -> GuardedResult<impl Stream<Item = Guarded<u64>> + Send>;
    async fn sum(start: u64, numbers: impl Stream<Item = u64>) -> Result<u64, Refused>;
    async fn chat(
        #[ctx] cx: Context,
        said: impl Stream<Item = String>,
    ) -> impl Stream<Item = String>;
    async fn chat_fallible(
        said: impl Stream<Item = Result<u64, String>>,
        limit: u64,
    ) -> Result<impl Stream<Item = Result<u64, Refused>>, Refused>;
    /// Has a default body.
    async fn doubled(n: u64) -> impl Stream<Item = u64> {
        stream::iter([n, n])
    }
    async fn checked(n: u64) -> Result<impl Stream<Item = u64>, Refused> {
        let parsed: u64 = n.to_string().parse().map_err(|_| Refused("no".into()))?;
        if parsed == 0 {
            return Err(Refused("zero".to_owned()));
        }
        Ok(stream::iter([parsed]))
    }
    async fn total(numbers: impl Stream<Item = u64>) -> u64 {
        let mut numbers = numbers;
        let mut total = 0;
        while let Some(Ok(number)) = numbers.next().await {
            total += number;
        }
        total
    }
    /// Never ends, and tells when its handler is dropped.
    async fn endless(#[ctx] cx: Context) -> impl Stream<Item = u64>;
    async fn panics(after: u64) -> impl Stream<Item = u64>;
    async fn slow() -> impl Stream<Item = u64>;
}

#[derive(Default)]
struct Handler {
    numbers: Vec<u64>,
    dropped: Arc<Notify>,
    cancelled: Arc<Notify>,
}

struct Told(Arc<Notify>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Streams for Handler {
    async fn count(&self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(self.numbers.iter().copied().take(to as usize))
    }
    async fn broken(&self, to: u64) -> impl Stream<Item = Result<u64, Refused>> {
        stream::iter((0..to).map(Ok).chain([Err(Refused("end".into())), Ok(99)]))
    }
    async fn aliased(&self, to: u64) -> impl Stream<Item = Guarded<u64>> {
        self.broken(to).await
    }
    async fn open(&self, to: u64) -> Result<impl Stream<Item = u64>, Refused> {
        match to {
            0 => Err(Refused("nothing".into())),
            _ => Ok(self.count(to).await),
        }
    }
    async fn open_aliased(
        &self,
        to: u64,
    ) -> GuardedResult<impl Stream<Item = Guarded<u64>> + Send> {
        match to {
            0 => Err(Refused("nothing".into())),
            _ => Ok(self.broken(to).await),
        }
    }
    async fn sum(&self, start: u64, mut numbers: Incoming<u64>) -> Result<u64, Refused> {
        let mut sum = start;
        while let Some(number) = numbers.next().await {
            sum += number.map_err(|error| Refused(format!("{:?}", error.kind())))?;
            if sum > 1_000 {
                return Err(Refused("too much".into()));
            }
        }
        Ok(sum)
    }
    async fn chat(&self, cx: Context, said: Incoming<String>) -> impl Stream<Item = String> {
        cx.set_reply_header("greeting", "hello");
        said.map(|said| said.unwrap().to_uppercase())
    }
    async fn chat_fallible(
        &self,
        said: Incoming<Result<u64, String>>,
        limit: u64,
    ) -> Result<impl Stream<Item = Result<u64, Refused>>, Refused> {
        if limit == 0 {
            return Err(Refused("limit".into()));
        }
        Ok(said
            .take(limit as usize)
            .map(|said| said.unwrap().map_err(Refused)))
    }
    async fn endless(&self, cx: Context) -> impl Stream<Item = u64> {
        let told = Told(self.dropped.clone());
        let cancelled = self.cancelled.clone();
        tokio::spawn(async move {
            cx.cancelled().await;
            cancelled.notify_one();
        });
        stream::iter([1, 2]).chain(stream::once(async move {
            let _told = told;
            pending::<u64>().await
        }))
    }
    async fn panics(&self, after: u64) -> impl Stream<Item = u64> {
        assert!(after > 0, "no items");
        stream::iter(0..).map(move |n| if n < after { n } else { panic!("item {n}") })
    }
    async fn slow(&self) -> impl Stream<Item = u64> {
        tokio::time::sleep(Duration::from_secs(60)).await;
        stream::empty()
    }
}

/// A client of a handler with the numbers 0 to 9, and signals of the handler.
fn streams() -> (
    StreamsClient<StreamsDispatcher<Handler>>,
    Arc<Notify>,
    Arc<Notify>,
) {
    let handler = Handler {
        numbers: (0..10).collect(),
        ..Handler::default()
    };
    let signals = (handler.dropped.clone(), handler.cancelled.clone());
    let client = StreamsClient::new(StreamsDispatcher::new(handler));
    (client, signals.0, signals.1)
}

fn client() -> StreamsClient<StreamsDispatcher<Handler>> {
    streams().0
}

/// Reads a stream to its end. Returns the values and the error.
async fn read<T, E>(mut items: Streaming<T, E>) -> (Vec<T>, Option<E>) {
    let (mut values, mut failure) = (Vec::new(), None);
    while let Some(item) = items.next().await {
        assert!(failure.is_none(), "an item after the error");
        match item {
            Ok(value) => values.push(value),
            Err(error) => failure = Some(error),
        }
    }
    assert!(items.is_terminated());
    assert!(items.next().await.is_none());
    (values, failure)
}

fn kind<E>(error: Option<CallError<E>>) -> ErrorKind {
    match error {
        Some(CallError::Rpc(error)) => error.kind(),
        _ => panic!("not an error of the call"),
    }
}

#[tokio::test]
async fn a_stream_gives_its_items_and_ends() {
    let (values, error): (_, Option<RpcError>) = read(client().count(3).await.unwrap()).await;
    assert_eq!(values, [0, 1, 2]);
    assert!(error.is_none());
    let (values, _) = read(client().count(0).await.unwrap()).await;
    assert!(values.is_empty());
}

#[tokio::test]
async fn the_services_own_error_is_the_last_item() {
    for items in [
        client().broken(2).await.unwrap(),
        client().aliased(2).await.unwrap(),
        client().open_aliased(2).await.unwrap(),
    ] {
        let (values, error) = read(items).await;
        assert_eq!(values, [0, 1]);
        assert!(matches!(error, Some(CallError::App(Refused(end))) if end == "end"));
    }
}

#[tokio::test]
async fn a_handler_may_refuse_before_the_first_item() {
    for refused in [
        client().open(0).await.map(|_| ()),
        client().open_aliased(0).await.map(|_| ()),
        client().checked(0).await.map(|_| ()),
    ] {
        assert!(matches!(refused, Err(CallError::App(Refused(_)))));
    }
    let (values, _) = read(client().open(2).await.unwrap()).await;
    assert_eq!(values, [0, 1]);
}

#[tokio::test]
async fn default_bodies_may_return_and_receive_streams() {
    let client = client();
    let (values, _) = read(client.doubled(4).await.unwrap()).await;
    assert_eq!(values, [4, 4]);
    let (values, _) = read(client.checked(7).await.unwrap()).await;
    assert_eq!(values, [7]);
    assert_eq!(client.total(stream::iter(0..4)).await.unwrap(), 6);
}

#[tokio::test]
async fn a_handler_receives_the_callers_items() {
    let client = client();
    assert_eq!(client.sum(1, stream::iter([2, 3])).await.unwrap(), 6);
    // A stream of items that come later.
    let late = stream::unfold(0, |n| async move {
        tokio::task::yield_now().await;
        (n < 3).then_some((n, n + 1))
    });
    assert_eq!(client.sum(0, late).await.unwrap(), 3);
    // The handler returns before the end of the items.
    let refused = client.sum(0, stream::repeat(300)).await;
    assert!(matches!(refused, Err(CallError::App(Refused(reason))) if reason == "too much"));
}

#[tokio::test]
async fn streams_flow_in_both_directions_at_once() {
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let said = stream::poll_fn(move |cx| said.poll_recv(cx));
    let mut answers = client().chat(said).await.unwrap();
    assert_eq!(answers.headers().get_as("greeting"), Some("hello"));
    say.send("first".to_owned()).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), "FIRST");
    say.send("second".to_owned()).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), "SECOND");
    drop(say);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn items_of_the_caller_may_be_results() {
    let said = || stream::iter([Ok(1), Err("two".to_owned()), Ok(3)]);
    let (values, error) = read(client().chat_fallible(said(), 9).await.unwrap()).await;
    assert_eq!(values, [1]);
    assert!(matches!(error, Some(CallError::App(Refused(two))) if two == "two"));
    let refused = client().chat_fallible(said(), 0).await;
    assert!(matches!(refused, Err(CallError::App(Refused(_)))));
}

#[tokio::test]
async fn reply_headers_come_with_the_first_answer() {
    let said = stream::pending::<String>();
    let (answers, headers) = client().chat(said).with_headers().await;
    assert_eq!(headers.get_as("greeting"), Some("hello"));
    assert_eq!(answers.unwrap().headers().get_as("greeting"), Some("hello"));
}

#[tokio::test]
async fn a_panic_comes_after_the_items_before_it() {
    let (values, error) = read(client().panics(2).await.unwrap()).await;
    assert_eq!(values, [0, 1]);
    assert_eq!(error.unwrap().kind(), ErrorKind::Panicked);
    let error = client().panics(0).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
}

#[tokio::test]
async fn dropping_a_stream_stops_its_handler() {
    let (client, dropped, cancelled) = streams();
    let mut items = client.endless().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    drop(items);
    dropped.notified().await;
    cancelled.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_deadline() {
    let (client, dropped, cancelled) = streams();
    let begun = tokio::time::Instant::now();
    let deadline = begun.into_std() + Duration::from_secs(600);
    let items = client
        .endless()
        .deadline(deadline)
        .timeout(Duration::from_secs(1))
        .await
        .unwrap();
    let (values, error) = read(items).await;
    assert_eq!(values, [1, 2]);
    assert_eq!(error.unwrap().kind(), ErrorKind::Timeout);
    assert_eq!(begun.elapsed().as_secs(), 600);
    dropped.notified().await;
    cancelled.notified().await;
}

#[tokio::test]
async fn a_stream_that_is_always_ready_ends_at_its_deadline() {
    let deadline = Instant::now() + Duration::from_millis(50);
    let items = client().panics(u64::MAX).deadline(deadline).await.unwrap();
    let (values, error) = read(items).await;
    assert!(!values.is_empty());
    assert_eq!(error.unwrap().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn the_timeout_bounds_the_first_answer_alone() {
    let client = client();
    let begun = tokio::time::Instant::now();
    let error = client.slow().await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(begun.elapsed().as_secs(), 5);
    let timeout = Duration::from_secs(61);
    let (values, error) = read(client.slow().timeout(timeout).await.unwrap()).await;
    assert!(values.is_empty() && error.is_none());
    let error = client.count(1).timeout(Duration::ZERO).await;
    assert_eq!(error.map(|_| ()).unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn an_upload_takes_its_time_and_its_result_is_due_within_the_timeout() {
    let client = client();
    let slow = stream::iter(0..5).then(|n| async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        n
    });
    let calls = client.sum(0, slow);
    assert_eq!(calls.await.unwrap(), 10);

    #[rpc]
    trait Stuck {
        async fn upload(parts: impl Stream<Item = u8>) -> u8;
    }
    struct Never;
    impl Stuck for Never {
        async fn upload(&self, parts: Incoming<u8>) -> u8 {
            parts.count().await;
            pending().await
        }
    }
    let begun = tokio::time::Instant::now();
    let stuck = StuckClient::new(StuckDispatcher::new(Never));
    let parts = stream::iter([1]).then(|n| async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        n
    });
    let call = stuck.upload(parts).timeout(Duration::from_secs(7));
    assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(begun.elapsed().as_secs(), 27);
}

#[tokio::test(start_paused = true)]
async fn layers_are_bounded_by_the_first_answer() {
    let handler = Handler::default();
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(3)))
        .service(StreamsDispatcher::new(handler));
    let client = StreamsClient::new(service);
    let mut items = client.endless().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    assert_eq!(items.next().await.unwrap().unwrap(), 2);
    // The layer has seen the first answer, and the stream goes on.
    let more = tokio::time::timeout(Duration::from_secs(60), items.next()).await;
    assert!(more.is_err());
}

/// Passes on the streams of another service.
#[rpc]
trait Relay {
    async fn relay(#[ctx] cx: Context) -> impl Stream<Item = Result<u64, String>>;
}

struct Relaying(StreamsClient<StreamsDispatcher<Handler>>);

impl Relay for Relaying {
    async fn relay(&self, cx: Context) -> impl Stream<Item = Result<u64, String>> {
        stream::once(async move {
            // The stream runs in the context of the call.
            assert_eq!(Context::current().unwrap().method(), cx.method());
            self.0.endless().await.unwrap()
        })
        .flatten()
        .map(|item| item.map_err(|error| format!("{:?}", error.kind())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_nested_stream_ends_with_the_deadline_and_the_drop_of_its_handler() {
    let (inner, dropped, cancelled) = streams();
    let relay = RelayClient::new(RelayDispatcher::new(Relaying(inner)));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let items = relay.relay().deadline(deadline.into_std()).await.unwrap();
    let (values, error) = read(items).await;
    assert_eq!(values, [1, 2]);
    assert!(error.is_some());
    dropped.notified().await;
    cancelled.notified().await;

    let mut items = relay.relay().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    drop(items);
    dropped.notified().await;
    cancelled.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_outside_of_its_cancelled_handler_ends() {
    let (client, ..) = streams();
    let cancelled = Context::builder().timeout(Duration::from_secs(60)).build();
    let mut items = cancelled.scope(client.endless()).await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    let (values, error) = read(items).await;
    assert_eq!(values, [2]);
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("inherited"), "{error}");
}

#[tokio::test]
async fn streams_cannot_go_to_all_instances() {
    let call = client().count(1).to_all_instances();
    let error = call.send().await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(error.to_string().contains("one instance"), "{error}");
}

/// Another version of a trait, whose items differ.
mod other {
    use super::*;

    #[rpc(name = "Streams")]
    pub trait Changed {
        async fn count(to: u64) -> impl Stream<Item = String>;
        async fn doubled(n: u64) -> u64;
        async fn total(numbers: impl Stream<Item = String>) -> u64;
        async fn open(to: u64) -> impl Stream<Item = u64>;
        async fn broken(to: u64) -> impl Stream<Item = Result<u64, u8>>;
    }
}

#[tokio::test]
async fn an_item_that_cannot_be_decoded_is_the_last() {
    let handler = Handler {
        numbers: vec![5],
        ..Handler::default()
    };
    let changed = other::ChangedClient::new(StreamsDispatcher::new(handler));
    let (values, error) = read(changed.count(9).await.unwrap()).await;
    assert_eq!(values, Vec::<String>::new());
    assert_eq!(error.unwrap().kind(), ErrorKind::BadReply);
    let (values, error) = read(changed.broken(1).await.unwrap()).await;
    assert_eq!(values, [0]);
    assert_eq!(kind(error), ErrorKind::BadReply);
    // The handler of `total` takes an item that it cannot decode for the end.
    let words = stream::iter(["a".to_owned()]);
    assert_eq!(changed.total(words).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_with_another_version_of_the_trait_is_told_so() {
    let changed = other::ChangedClient::new(StreamsDispatcher::new(Handler::default()));
    // The service streams, and the client does not know that.
    let error = changed.doubled(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    assert!(!error.may_have_executed());
    // The service refuses with an error, and the client knows none.
    let error = changed.open(0).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadReply);
}

#[tokio::test]
async fn a_handlers_incoming_items_can_be_made_by_hand() {
    let items = Incoming::from_stream(stream::iter([1, 2]));
    assert_eq!(Handler::default().sum(0, items).await, Ok(3));
    let items = Incoming::from_stream(stream::iter(vec![1_u64, 2]));
    assert_eq!(Handler::default().sum(0, items).await, Ok(3));
    let items = Incoming::from_stream(stream::iter([Ok(1), Ok(2)]));
    assert_eq!(Handler::default().sum(0, items).await, Ok(3));
    let gone = RpcError::new(ErrorKind::Disconnected, "gone");
    let items = Incoming::from_stream(stream::iter([Ok(1), Err(gone), Ok(2)]));
    let refused = Refused("Disconnected".to_owned());
    assert_eq!(Handler::default().sum(0, items).await, Err(refused));
}

/// Reads a stream while metrics are recorded. Returns the status of the call, and the numbers of open calls before and after the end.
async fn recorded<T, E, F>(
    call: impl Future<Output = Result<Streaming<T, E>, F>>,
    items: usize,
) -> (String, f64, f64) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let numbers = || {
        let (mut open, mut status) = (0.0, None);
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let mut labels = key.key().labels();
            let label = labels.find(|label| label.key() == "rpc.response.status_code");
            match (key.key().name(), value) {
                ("rpc.client.active_calls", DebugValue::Gauge(level)) => open = level.0,
                ("rpc.client.call.duration", _) => {
                    status = label.map(|label| label.value().to_owned());
                }
                _ => {}
            }
        }
        (open, status)
    };
    let Ok(mut stream) = call.await else {
        panic!("no stream");
    };
    let (before, status) = numbers();
    assert_eq!(status, None);
    for _ in 0..items {
        stream.next().await;
    }
    drop(stream);
    let (after, status) = numbers();
    // A snapshot sets the gauge to zero.
    (status.unwrap(), before, before + after)
}

#[tokio::test(start_paused = true)]
async fn a_call_is_recorded_when_its_stream_ends() {
    let client = client();
    let is = |status: &str| (status.to_owned(), 1.0, 0.0);
    assert_eq!(recorded(client.count(2), 3).await, is("result"));
    assert_eq!(recorded(client.count(2), 2).await, is("dropped"));
    assert_eq!(recorded(client.broken(0), 1).await, is("error"));
    assert_eq!(recorded(client.panics(1), 2).await, is("panicked"));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
    let endless = client.endless().deadline(deadline.into_std());
    assert_eq!(recorded(endless, 3).await, is("timeout"));
    let handler = Handler {
        numbers: vec![5],
        ..Handler::default()
    };
    let changed = other::ChangedClient::new(StreamsDispatcher::new(handler));
    assert_eq!(recorded(changed.count(1), 1).await, is("bad_reply"));
}

#[test]
fn streams_make_no_demands_on_their_items() {
    fn assert_stream<S: FusedStream + Send + Unpin + Debug>() {}
    fn read<T, E>(items: &mut Streaming<T, E>) -> bool {
        drop(items.next());
        items.headers().is_empty()
    }
    struct Pinned(std::marker::PhantomPinned);
    let _ = Pinned(std::marker::PhantomPinned);
    let _ = read::<Pinned, *const u8>;
    assert_stream::<Streaming<Pinned, *const u8>>();
    assert_stream::<Incoming<Pinned>>();
}
