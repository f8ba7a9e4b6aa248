//! Streams of a server, as a caller sees them that is written by hand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tower::layer::util::Identity;

use super::*;
use crate::connection::Connection;
use crate::definition::{Method, Service};
use crate::error::ServeError;
use crate::headers::HeaderValue;
use crate::instances::{MethodStats, ServiceInfo};
use crate::message::ItemSource;
use crate::queue::QueueOptions;
use crate::server::instance::Instance;
use crate::server::{Dispatch, DispatcherInfo, Server, ServerBuilder, report_dispatcher, serve};
use crate::service::ResponseFuture;
use crate::testing::{EmbeddedBroker, Peer, PeerMessage};
use crate::wire::{CancelNotice, push_item, split_item};

const ADD: &Method = &Method::new("add", &[]);
const COUNT: &Method = &Method::new("count", &[]).streams_items();
const COUNT_ONCE: &Method = &Method::new("count_once", &[])
    .streams_items()
    .at_most_once();
const UPLOAD: &Method = &Method::new("upload", &[]).stream_argument("parts");
const CHAT: &Method = &Method::new("chat", &[])
    .streams_items()
    .stream_argument("said");
const SERVICE: &Service = &Service::new(
    "Streams",
    "rpc.Streams",
    &[ADD, COUNT, COUNT_ONCE, UPLOAD, CHAT],
);
const QUEUE: &str = "rpc.Streams";
const SILENCE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(600);

type Items = UnboundedReceiver<Result<Bytes, StreamError>>;
type Handler = Arc<dyn Fn(Request) -> BoxFuture<'static, Result<Response, RpcError>> + Send + Sync>;

/// A dispatcher whose handler a test sets.
struct Fake(Handler);

impl Clone for Fake {
    fn clone(&self) -> Self {
        report_dispatcher::<Self>(self);
        Self(self.0.clone())
    }
}

impl tower_service::Service<Request> for Fake {
    type Response = Response;
    type Error = RpcError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture {
        if let Some(delivery) = &request.0.delivery {
            delivery.cancellation.begin();
        }
        ResponseFuture::new((self.0)(request))
    }
}

impl Dispatch for Fake {
    fn dispatcher(&self) -> &dyn DispatcherInfo {
        self
    }
}

impl DispatcherInfo for Fake {
    fn definition(&self) -> &'static Service {
        SERVICE
    }

    fn queues(&self) -> Vec<String> {
        vec![QUEUE.to_owned()]
    }

    fn queue_options(&self) -> &QueueOptions {
        static OPTIONS: OnceLock<QueueOptions> = OnceLock::new();
        OPTIONS.get_or_init(QueueOptions::classic)
    }

    fn describe(&self) -> ServiceInfo {
        ServiceInfo {
            name: SERVICE.name.to_owned(),
            version: String::new(),
            docs: None,
            queue: QUEUE.to_owned(),
            contract: String::new(),
            methods: Vec::new(),
        }
    }

    fn describe_client(&self) -> ServiceInfo {
        self.describe()
    }
}

/// A server that runs.
struct Running {
    instance: Arc<Instance>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    async fn start(
        connection: &Connection,
        handler: Handler,
        options: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Self {
        let builder = Server::builder(connection);
        let Server {
            connection,
            queues,
            options,
            ..
        } = options(builder).service(Fake(handler)).build();
        let (instance, to_all) = Instance::new(connection, queues, options);
        let session = instance.open().await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(instance.clone(), session, to_all, stopped));
        Self {
            instance,
            stop,
            task,
        }
    }

    fn stats(&self, method: &str) -> MethodStats {
        let statistics = self.instance.queues[0].statistics.as_ref().unwrap();
        let in_flight = self.instance.in_flight.as_ref().unwrap();
        let (methods, _) = statistics.read(in_flight, |_| true);
        let mut methods = methods.into_iter();
        methods.find(|found| found.name == method).unwrap()
    }

    async fn shutdown(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }
}

/// A server and a caller.
struct World {
    broker: EmbeddedBroker,
    connection: Connection,
    server: Running,
    peer: Peer,
    reply_to: String,
    sent: AtomicUsize,
}

impl World {
    async fn new<F>(handler: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Response, RpcError>> + Send + 'static,
    {
        Self::with(|server| server, handler).await
    }

    async fn with<F>(
        options: impl FnOnce(ServerBuilder) -> ServerBuilder,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Response, RpcError>> + Send + 'static,
    {
        let id = uuid::Uuid::new_v4();
        let broker = EmbeddedBroker::named(format!("streams-{id}"));
        let connection = Connection::open(&broker.url()).await.unwrap();
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        let server = Running::start(&connection, handler, options).await;
        let reply_to = format!("rpc.reply.{id}");
        // The peer's connection survives that of the server.
        let own = Connection::open(&broker.url()).await.unwrap();
        Self {
            peer: Peer::open(&own, &reply_to, &[]).await.unwrap(),
            broker,
            connection,
            server,
            reply_to,
            sent: AtomicUsize::new(0),
        }
    }

    /// A request that opens a stream, with a window of 4 items and 1,000 bytes.
    fn request(&self, method: &Method) -> PeerMessage {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let mut request = PeerMessage {
            kind: Some(method.name.to_owned()),
            correlation_id: Some(number.to_string()),
            reply_to: Some(self.reply_to.clone()),
            content_type: Some("application/msgpack".to_owned()),
            body: Bytes::from_static(b"\x80"),
            ..PeerMessage::default()
        };
        request.headers.insert("rpc-items", 4_i64);
        request.headers.insert("rpc-bytes", 1000_i64);
        let silence = i64::try_from(SILENCE.as_millis()).unwrap();
        request.headers.insert("rpc-silence", silence);
        request
    }

    async fn send(&self, request: PeerMessage) {
        self.peer.publish(QUEUE, request).await.unwrap();
    }

    async fn next(&mut self) -> PeerMessage {
        let next = timeout(LONG, self.peer.next());
        next.await.expect("a message in time").expect("a queue")
    }

    /// The next message that is no sign of life.
    async fn next_of(&mut self, kind: &str) -> PeerMessage {
        loop {
            let next = self.next().await;
            match next.kind.as_deref() {
                Some("alive") if kind != "alive" => {}
                found => {
                    assert_eq!(found, Some(kind), "{next:?} {:?}", next.body);
                    return next;
                }
            }
        }
    }

    /// Waits for a fault, and returns its code.
    async fn fault(&mut self) -> (String, PeerMessage) {
        let fault = self.next_of("fault").await;
        let body = String::from_utf8_lossy(&fault.body).into_owned();
        let codes = [
            "bad_request",
            "permission_denied",
            "overloaded",
            "cancelled",
            "deadline_exceeded",
            "panicked",
            "too_large",
        ];
        let code = codes.into_iter().find(|code| body.contains(code));
        (code.unwrap_or(&body).to_owned(), fault)
    }

    async fn open(&mut self, method: &Method) -> Open {
        self.send(self.request(method)).await;
        let accepted = self.next_of("accepted").await;
        Open {
            stream: accepted.message_id.clone().unwrap(),
            private_queue: accepted.reply_to.clone().unwrap(),
            accepted,
        }
    }

    async fn control(&self, open: &Open, kind: &str, headers: &[(&str, i64)], body: Bytes) {
        let mut message = PeerMessage {
            kind: Some(kind.to_owned()),
            message_id: Some(open.stream.clone()),
            body,
            ..PeerMessage::default()
        };
        for (name, value) in headers {
            message.headers.insert(*name, *value);
        }
        let queue = &open.private_queue;
        self.peer.publish(queue, message).await.unwrap();
    }

    async fn give(&self, open: &Open, first: i64, items: &[&str]) {
        let headers = [("rpc-sequence", first)];
        self.control(open, "items", &headers, packed(items)).await;
    }

    async fn end(&self, open: &Open, items: i64) {
        let headers = [("rpc-sequence", items)];
        self.control(open, "end", &headers, Bytes::new()).await;
    }

    async fn credit(&self, open: &Open, items: i64) {
        let headers = [("rpc-items", items), ("rpc-bytes", 1000)];
        self.control(open, "credit", &headers, Bytes::new()).await;
    }

    async fn stop(&self, open: &Open) {
        self.control(open, "stop", &[], Bytes::new()).await;
    }

    /// Waits for items up to a number of all, and returns those.
    async fn items(&mut self, first: usize, end: usize) -> Vec<String> {
        let mut items = Vec::new();
        while first + items.len() < end {
            let message = self.next_of("items").await;
            let sequence = message.headers.get_as::<i64>("rpc-sequence").unwrap();
            assert_eq!(sequence, i64::try_from(first + items.len()).unwrap());
            items.extend(unpacked(message.body));
        }
        items
    }
}

/// An open stream as its caller sees it.
struct Open {
    stream: String,
    private_queue: String,
    accepted: PeerMessage,
}

fn packed(items: &[&str]) -> Bytes {
    let mut body = BytesMut::new();
    for item in items {
        push_item(&mut body, item.as_bytes());
    }
    body.freeze()
}

fn unpacked(mut body: Bytes) -> Vec<String> {
    let items = std::iter::from_fn(|| split_item(&mut body));
    items
        .map(|item| String::from_utf8(item.to_vec()).unwrap())
        .collect()
}

fn sequence(message: &PeerMessage) -> Option<i64> {
    message.headers.get_as("rpc-sequence")
}

fn streaming(
    items: impl futures_util::Stream<Item = Result<Bytes, StreamError>> + Send + 'static,
) -> Response {
    Response::streaming(ContentType::MessagePack, Box::pin(items))
}

fn numbers(range: std::ops::Range<usize>) -> BoxStream<'static, Result<Bytes, StreamError>> {
    stream::iter(range.map(|n| Ok(Bytes::from(n.to_string())))).boxed()
}

fn strings(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// A handler's stream whose items the test sends. The sender is closed once the stream is dropped.
fn channel() -> (UnboundedSender<Result<Bytes, StreamError>>, ItemStream) {
    let (sender, mut items): (_, Items) = mpsc::unbounded_channel();
    (
        sender,
        Box::pin(stream::poll_fn(move |cx| items.poll_recv(cx))),
    )
}

/// A handler that returns the streams of a channel, one for each call.
fn handing_out(
    streams: impl IntoIterator<Item = ItemStream>,
) -> impl Fn(Request) -> std::future::Ready<Result<Response, RpcError>> {
    let streams = Mutex::new(
        streams
            .into_iter()
            .collect::<std::collections::VecDeque<_>>(),
    );
    move |_| {
        let items = streams.lock().pop_front().expect("a stream for each call");
        std::future::ready(Ok(Response::streaming(ContentType::MessagePack, items)))
    }
}

fn own(text: &'static str) -> StreamError {
    StreamError::Own(Bytes::from_static(text.as_bytes()))
}

fn incoming(request: &Request) -> ItemStream {
    let streams = request.0.streams.as_ref().expect("a stream");
    let source: ItemSource = streams.items.as_ref().unwrap().take().unwrap();
    source(ContentType::MessagePack)
}

/// A handler that reads all of the caller's items, tells each to the test, and returns them as text.
async fn read_and_tell(
    request: Request,
    tell: UnboundedSender<String>,
) -> Result<Response, RpcError> {
    let mut read = Vec::new();
    let mut items = incoming(&request);
    while let Some(item) = items.next().await {
        let text = text(item);
        let _ = tell.send(text.clone()); // The test may have ended.
        read.push(text);
    }
    Ok(value(read.join(" ")))
}

fn text(item: Result<Bytes, StreamError>) -> String {
    match item {
        Ok(item) => String::from_utf8(item.to_vec()).unwrap(),
        Err(StreamError::Own(error)) => format!("own {error:?}"),
        Err(StreamError::Rpc(error)) => format!("{:?}", error.kind()),
    }
}

/// Reads all items. The last entry is the error, if there is one.
async fn read_all(items: ItemStream) -> Vec<String> {
    items.map(text).collect().await
}

fn value(text: impl Into<Bytes>) -> Response {
    Response::new(Outcome::Result, ContentType::MessagePack, text.into())
}

/// A handler that reads all of the caller's items, and returns them as text.
async fn read_and_join(request: Request) -> Result<Response, RpcError> {
    let read = read_all(incoming(&request)).await;
    Ok(value(read.join(" ")))
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_have_a_stream_gets_a_fault() {
    let mut world = World::new(async |_| panic!("the handler does not run")).await;
    let mut lacking = world.request(COUNT);
    lacking.headers.remove("rpc-silence");
    let mut anonymous = world.request(COUNT);
    anonymous.correlation_id = None;
    for request in [lacking, anonymous] {
        let id = request.correlation_id.clone();
        world.send(request).await;
        let (code, fault) = world.fault().await;
        assert_eq!(code, "bad_request");
        assert_eq!(fault.correlation_id, id);
        assert_eq!(fault.headers.get("rpc-executed"), Some(&false.into()));
    }
    let mut late = world.request(UPLOAD);
    late.deadline = Some(1);
    world.send(late).await;
    assert_eq!(world.fault().await.0, "deadline_exceeded");
    let topic = crate::wire::all_topic(QUEUE);
    let to_all = world.request(COUNT);
    world.peer.publish_to_topic(&topic, to_all).await.unwrap();
    assert_eq!(world.fault().await.0, "bad_request");
    *world.server.instance.private_queue.lock() = None;
    world.send(world.request(COUNT)).await;
    let (code, fault) = world.fault().await;
    assert_eq!(code, "permission_denied");
    let body = String::from_utf8_lossy(&fault.body);
    assert!(body.contains("'rpc.instance.'"), "{body}");
    let mut silent = world.request(COUNT);
    silent.reply_to = None;
    let refused = world.server.instance.refused.clone();
    let before = refused.load(Ordering::Relaxed);
    world.send(silent).await;
    while refused.load(Ordering::Relaxed) == before {
        yield_now().await;
    }
    world.server.shutdown().await;
    let queue = world.broker.queue(QUEUE).unwrap();
    assert_eq!((queue.ready, queue.unsettled), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_unary_method_ignores_the_terms_of_a_stream() {
    let mut world = World::new(async |request: Request| {
        assert!(request.0.streams.is_none());
        Ok(value("3"))
    })
    .await;
    world.send(world.request(ADD)).await;
    assert_eq!(world.next_of("result").await.message_id, None);
}

#[tokio::test(start_paused = true)]
async fn an_accepted_request_is_acknowledged_and_its_items_follow() {
    let (items, stream) = channel();
    let stream = Mutex::new(Some(stream));
    let mut world = World::new(move |_| {
        let items = stream.lock().take().unwrap();
        let mut response = Response::streaming(ContentType::MessagePack, items);
        response.headers.insert("tenant", "a");
        std::future::ready(Ok(response))
    })
    .await;
    let open = world.open(COUNT).await;
    let Open { accepted, .. } = &open;
    assert_eq!(accepted.correlation_id.as_deref(), Some("0"));
    assert_eq!(accepted.headers.get("tenant"), Some(&"a".into()));
    assert_eq!(accepted.headers.get("rpc-items"), None);
    let instance = &world.server.instance;
    let id = HeaderValue::from(&*instance.id);
    assert_eq!(accepted.headers.get("rpc-instance"), Some(&id));
    assert_eq!(
        instance.private_queue.lock().as_deref(),
        Some(&*open.private_queue)
    );
    let stats = world.server.stats("count");
    assert_eq!((stats.calls, stats.in_flight, stats.streams), (0, 0, 1));
    for n in 0..2 {
        items.send(Ok(Bytes::from(n.to_string()))).unwrap();
    }
    assert_eq!(world.items(0, 2).await, strings(0..2));
    // The acknowledgement follows the reply before the items.
    assert_eq!(world.broker.queue(QUEUE).unwrap().unsettled, 0);
    drop(items);
    let end = world.next_of("end").await;
    assert_eq!(sequence(&end), Some(2));
    assert_eq!(end.message_id.as_deref(), Some(&*open.stream));
    assert_eq!(end.correlation_id.as_deref(), Some("0"));
    let stats = world.server.stats("count");
    assert_eq!((stats.results, stats.streams), (1, 0));
    assert_eq!(stats.max, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_duration_of_a_stream_is_the_time_to_its_acceptance() {
    let mut world = World::with(
        |server| server.slow_handler(Duration::from_secs(60)),
        async |_| {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(streaming(stream::pending()))
        },
    )
    .await;
    let open = world.open(COUNT).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        world.control(&open, "alive", &[], Bytes::new()).await;
    }
    let in_flight = world.server.instance.in_flight.as_ref().unwrap();
    assert!(in_flight.take_slow(Duration::from_secs(1)).0.is_empty());
    world.stop(&open).await;
    while world.server.stats("count").calls == 0 {
        yield_now().await;
    }
    let stats = world.server.stats("count");
    assert_eq!(stats.max.as_secs(), 2);
    assert_eq!(stats.faults.get("cancelled"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn items_stay_within_the_window_until_there_is_credit() {
    let polled = Arc::new(AtomicUsize::new(0));
    let count = polled.clone();
    let mut world = World::new(move |_| {
        let count = count.clone();
        let items = numbers(0..100).inspect(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        std::future::ready(Ok(streaming(items)))
    })
    .await;
    let open = world.open(COUNT).await;
    assert_eq!(world.items(0, 4).await, strings(0..4));
    // A sign of life shows that nothing else was sent meanwhile.
    assert_eq!(world.next().await.kind.as_deref(), Some("alive"));
    assert_eq!(polled.load(Ordering::Relaxed), 4);
    world.credit(&open, 2).await;
    assert_eq!(world.items(4, 6).await, strings(4..6));
    assert_eq!(world.next().await.kind.as_deref(), Some("alive"));
    let mut read = 6;
    while read < 100 {
        world.credit(&open, 4).await;
        let next = (read + 4).min(100);
        assert_eq!(world.items(read, next).await, strings(read..next));
        read = next;
    }
    assert_eq!(sequence(&world.next_of("end").await), Some(100));
}

#[tokio::test(start_paused = true)]
async fn an_error_comes_after_the_items_before_it() {
    let panicked = || RpcError::new(ErrorKind::Panicked, "the handler panicked");
    let errors = [(own("no"), "error"), (panicked().into(), "fault")];
    for (error, kind) in errors {
        let items = numbers(0..3).chain(stream::iter([Err(error)]));
        let mut world = World::new(handing_out([Box::pin(items) as ItemStream])).await;
        world.open(COUNT).await;
        assert_eq!(world.items(0, 3).await, strings(0..3));
        let end = world.next_of(kind).await;
        assert_eq!(sequence(&end), Some(3));
        let stats = world.server.stats("count");
        match kind {
            "error" => {
                assert_eq!(&end.body[..], b"no");
                assert_eq!(stats.errors, 1);
            }
            _ => assert_eq!(stats.faults.get("panicked"), Some(&1)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_returns_no_stream_gives_an_ordinary_reply() {
    let mut world = World::new(async |_| {
        Ok(Response::new(
            Outcome::Error,
            ContentType::MessagePack,
            Bytes::from_static(b"no"),
        ))
    })
    .await;
    world.send(world.request(COUNT)).await;
    let error = world.next_of("error").await;
    assert_eq!((error.message_id, &error.body[..]), (None, &b"no"[..]));
    assert_eq!(world.server.stats("count").errors, 1);
    let mut world = World::new(async |_| panic!("before the stream")).await;
    world.send(world.request(COUNT)).await;
    assert_eq!(world.fault().await.0, "panicked");
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_too_long_ends_the_stream() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    world.open(COUNT).await;
    let too_long = vec![0; world.connection.max_message_size()];
    for item in [b"0".to_vec(), too_long] {
        items.send(Ok(Bytes::from(item))).unwrap();
    }
    assert_eq!(world.items(0, 1).await, strings(0..1));
    let (code, fault) = world.fault().await;
    assert_eq!((&*code, sequence(&fault)), ("too_large", Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_its_stream_stops_the_handler() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    let open = world.open(COUNT).await;
    world.stop(&open).await;
    items.closed().await;
    let stats = world.server.stats("count");
    assert_eq!(stats.faults.get("cancelled"), Some(&1));
    // Its id is forgotten.
    world.stop(&open).await;
    assert!(world.server.instance.streams.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_notice_stops_the_handler() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    let open = world.open(COUNT).await;
    let notice = CancelNotice {
        reply_to: world.reply_to.as_str().into(),
        correlation_ids: open.accepted.correlation_id.into_iter().collect(),
        deadline: Instant::now() + SILENCE,
    };
    let calls = world.server.instance.calls.as_ref().unwrap();
    calls.take_notice(&notice.into_message());
    items.closed().await;
    // A call that is dropped before it arrives is not accepted.
    let request = world.request(UPLOAD);
    let notice = CancelNotice {
        reply_to: world.reply_to.as_str().into(),
        correlation_ids: request.correlation_id.iter().cloned().collect(),
        deadline: Instant::now() + SILENCE,
    };
    let calls = world.server.instance.calls.as_ref().unwrap();
    calls.take_notice(&notice.into_message());
    world.send(request).await;
    let (code, fault) = world.fault().await;
    assert_eq!(code, "cancelled");
    assert_eq!(fault.headers.get("rpc-executed"), Some(&false.into()));
}

#[tokio::test(start_paused = true)]
async fn returned_items_stop_the_handler() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    world.open(COUNT).await;
    let begun = Instant::now();
    drop(world.peer);
    items.send(Ok(Bytes::from_static(b"0"))).unwrap();
    items.closed().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn silence_of_the_caller_ends_the_stream() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    let open = world.open(COUNT).await;
    let begun = Instant::now();
    for _ in 0..10 {
        tokio::time::sleep(SILENCE - Duration::from_secs(1)).await;
        world.control(&open, "alive", &[], Bytes::new()).await;
    }
    let last = Instant::now();
    assert!(last - begun > SILENCE * 9);
    items.closed().await;
    let silent = last.elapsed();
    assert!(
        silent >= SILENCE && silent < SILENCE + Duration::from_secs(1),
        "{silent:?}"
    );
}

/// The terms are the caller's, who may be hostile, and gone.
#[tokio::test(start_paused = true)]
async fn a_caller_cannot_hold_a_place_by_silence() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    let mut request = world.request(COUNT);
    request.headers.insert("rpc-silence", i64::MAX);
    world.send(request).await;
    world.next_of("accepted").await;
    let begun = Instant::now();
    items.closed().await;
    let silent = begun.elapsed();
    assert!(
        silent >= MAX_SILENCE && silent < MAX_SILENCE + Duration::from_secs(1),
        "{silent:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_ends_when_its_caller_waits_no_longer_for_the_first_answer() {
    let (open, mut closed) = mpsc::unbounded_channel::<()>();
    let open = Mutex::new(Some(open));
    let mut world = World::new(move |_| {
        let open = open.lock().take();
        async move {
            let _open = open;
            std::future::pending().await
        }
    })
    .await;
    let begun = Instant::now();
    world.send(world.request(COUNT)).await;
    assert!(closed.recv().await.is_none());
    let waited = begun.elapsed();
    assert!(
        waited >= SILENCE && waited < SILENCE + Duration::from_secs(1),
        "{waited:?}"
    );
    assert_eq!(world.fault().await.0, "deadline_exceeded");
}

#[tokio::test(start_paused = true)]
async fn a_server_gives_signs_of_life() {
    let (_items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    let open = world.open(COUNT).await;
    for n in 1..=2 {
        let alive = world.next().await;
        assert_eq!(alive.kind.as_deref(), Some("alive"), "{n}");
        assert_eq!(alive.message_id.as_deref(), Some(&*open.stream));
    }
}

#[tokio::test(start_paused = true)]
async fn streams_beyond_the_limit_are_refused() {
    let (first, second) = (channel(), channel());
    let (items, later) = (first.0, second.0);
    let handler = handing_out([first.1, second.1]);
    let mut world = World::with(|server| server.max_streams(1), handler).await;
    let open = world.open(COUNT).await;
    for method in [COUNT, UPLOAD] {
        world.send(world.request(method)).await;
        let (code, fault) = world.fault().await;
        assert_eq!(code, "overloaded");
        assert_eq!(fault.headers.get("rpc-executed"), Some(&false.into()));
    }
    world.stop(&open).await;
    items.closed().await;
    while !world.server.instance.streams.is_empty() {
        yield_now().await;
    }
    world.open(COUNT).await;
    assert!(!later.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_handler_receives_the_items_of_its_caller() {
    let mut world = World::with(|server| server.window(4), read_and_join).await;
    let open = world.open(UPLOAD).await;
    let headers = &open.accepted.headers;
    assert_eq!(headers.get("rpc-items"), Some(&4_i64.into()));
    assert_eq!(headers.get("rpc-bytes"), Some(&(1_i64 << 20).into()));
    world.give(&open, 0, &["a", "b", "c"]).await;
    let credit = world.next_of("credit").await;
    assert_eq!(credit.headers.get("rpc-items"), Some(&3_i64.into()));
    assert_eq!(credit.message_id.as_deref(), Some(&*open.stream));
    world.give(&open, 3, &["d"]).await;
    world.end(&open, 4).await;
    let result = world.next_of("result").await;
    assert_eq!(&result.body[..], b"a b c d");
    assert_eq!(result.correlation_id.as_deref(), Some("0"));
    assert_eq!(world.server.stats("upload").results, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_breaks_the_rules_gets_a_fault() {
    let gap: (i64, &[&str]) = (2, &["x"]);
    let too_many: (i64, &[&str]) = (1, &["x", "x", "x", "x", "x"]);
    for (first, items) in [gap, too_many] {
        let (read, reading) = oneshot::channel();
        let read = Mutex::new(Some(read));
        let mut world = World::with(
            |server| server.window(4),
            move |request| {
                let read = read.lock().take().unwrap();
                async move {
                    let _ = read.send(read_all(incoming(&request)).await);
                    Ok(value("ignored"))
                }
            },
        )
        .await;
        let open = world.open(UPLOAD).await;
        world.give(&open, 0, &["a"]).await;
        world.give(&open, first, items).await;
        assert_eq!(world.fault().await.0, "bad_request");
        assert_eq!(reading.await.unwrap(), ["a", "BadRequest"]);
        assert_eq!(
            world.server.stats("upload").faults.get("bad_request"),
            Some(&1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_learns_that_its_caller_is_gone_and_has_a_second() {
    let (read, mut reading) = mpsc::unbounded_channel();
    let guard = Arc::new(());
    let running = Arc::downgrade(&guard);
    let guard = Mutex::new(Some(guard));
    let mut world = World::new(move |request| {
        let (read, guard) = (read.clone(), guard.lock().take());
        async move {
            let _ = read.send(read_all(incoming(&request)).await);
            let never = std::future::pending().await;
            drop(guard);
            never
        }
    })
    .await;
    let open = world.open(UPLOAD).await;
    world.give(&open, 0, &["a"]).await;
    world.stop(&open).await;
    let begun = Instant::now();
    assert_eq!(reading.recv().await.unwrap(), ["a", "Cancelled"]);
    while running.upgrade().is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() >= GRACE && begun.elapsed() < 2 * GRACE);
}

#[tokio::test(start_paused = true)]
async fn items_flow_in_both_directions() {
    let mut world = World::new(async |request: Request| {
        let said = incoming(&request);
        let echo = said.map(|item| {
            let text = String::from_utf8(item?.to_vec()).unwrap();
            Ok(Bytes::from(text.to_uppercase()))
        });
        let mut response = streaming(echo);
        response.headers.insert("tenant", "a");
        Ok(response)
    })
    .await;
    let open = world.open(CHAT).await;
    assert_eq!(open.accepted.headers.get("tenant"), None);
    let started = world.next_of("started").await;
    assert_eq!(started.headers.get("tenant"), Some(&"a".into()));
    assert_eq!(started.message_id.as_deref(), Some(&*open.stream));
    world.give(&open, 0, &["a", "b"]).await;
    assert_eq!(world.items(0, 2).await, ["A", "B"]);
    world.give(&open, 2, &["c"]).await;
    world.end(&open, 3).await;
    assert_eq!(world.items(2, 3).await, ["C"]);
    assert_eq!(sequence(&world.next_of("end").await), Some(3));
}

#[tokio::test(start_paused = true)]
async fn the_stream_of_a_handler_may_end_once_its_caller_is_gone() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let mut world = World::new(move |request: Request| {
        let (said, ended) = (incoming(&request), ended.clone());
        let items = stream::once(async move {
            let _ = ended.send(read_all(said).await);
            Ok(Bytes::from_static(b"late"))
        });
        std::future::ready(Ok(streaming(items)))
    })
    .await;
    let open = world.open(CHAT).await;
    world.next_of("started").await;
    world.give(&open, 0, &["a"]).await;
    world.stop(&open).await;
    assert_eq!(ends.recv().await.unwrap(), ["a", "Cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_stream_with_a_fault() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    let mut request = world.request(COUNT);
    request.deadline = Some(deadline::unix_millis_after(Duration::from_secs(5)));
    world.send(request).await;
    world.next_of("accepted").await;
    items.send(Ok(Bytes::from_static(b"0"))).unwrap();
    assert_eq!(world.items(0, 1).await, strings(0..1));
    let (code, fault) = world.fault().await;
    assert_eq!((&*code, sequence(&fault)), ("deadline_exceeded", Some(1)));
    items.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopping_server_ends_its_streams_after_their_items() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    let open = world.open(COUNT).await;
    items.send(Ok(Bytes::from_static(b"0"))).unwrap();
    let begun = Instant::now();
    world.server.stop.send_replace(true);
    assert_eq!(world.items(0, 1).await, strings(0..1));
    let (code, fault) = world.fault().await;
    assert_eq!((&*code, sequence(&fault)), ("cancelled", Some(1)));
    assert_eq!(fault.message_id.as_deref(), Some(&*open.stream));
    let body = String::from_utf8_lossy(&fault.body);
    assert!(body.contains("the server is stopping"), "{body}");
    world.server.task.await.unwrap().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_stopping_server_ends_an_endless_stream() {
    let endless = stream::repeat_with(|| Ok(Bytes::from_static(b"x")));
    let mut world = World::new(handing_out([Box::pin(endless) as ItemStream])).await;
    let mut request = world.request(COUNT);
    request.headers.insert("rpc-items", i64::MAX);
    request.headers.insert("rpc-bytes", i64::MAX);
    world.send(request).await;
    world.next_of("accepted").await;
    world.items(0, 1).await;
    world.server.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_tells_a_handler_and_its_caller_that_the_items_are_incomplete() {
    let (read, mut reading) = mpsc::unbounded_channel();
    let mut world = World::new(move |request| read_and_tell(request, read.clone())).await;
    let open = world.open(UPLOAD).await;
    world.give(&open, 0, &["a"]).await;
    assert_eq!(reading.recv().await.unwrap(), "a");
    world.server.stop.send_replace(true);
    // The handler's result is not that of all items.
    let (code, fault) = world.fault().await;
    assert_eq!((&*code, fault.message_id), ("cancelled", None));
    world.server.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_returns_its_stream_while_the_server_stops_gets_no_caller() {
    let (return_now, returning) = oneshot::channel();
    let (begun, beginning) = oneshot::channel();
    let (items, stream) = channel();
    let parts = Mutex::new(Some((begun, returning, stream)));
    let mut world = World::new(move |_| {
        let (begun, returning, stream) = parts.lock().take().unwrap();
        async move {
            let _ = begun.send(());
            let _ = returning.await;
            Ok(Response::streaming(ContentType::MessagePack, stream))
        }
    })
    .await;
    world.send(world.request(COUNT)).await;
    beginning.await.unwrap();
    world.server.stop.send_replace(true);
    world.server.instance.streams.stopped().await;
    return_now.send(()).unwrap();
    let (code, fault) = world.fault().await;
    assert_eq!((&*code, fault.message_id), ("cancelled", None));
    items.closed().await;
    world.server.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_server_drops_its_handlers() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    world.open(COUNT).await;
    world.server.task.abort();
    items.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_ends_its_streams() {
    let (items, stream) = channel();
    let streams = Mutex::new(Some(stream));
    let (read, mut reading) = mpsc::unbounded_channel();
    let mut world = World::new(move |request: Request| {
        let (stream, read) = (streams.lock().take(), read.clone());
        async move {
            if request.method() == Some("count") {
                let items = stream.unwrap();
                return Ok(Response::streaming(ContentType::MessagePack, items));
            }
            read_and_tell(request, read).await
        }
    })
    .await;
    world.open(COUNT).await;
    let open = world.open(UPLOAD).await;
    world.give(&open, 0, &["a"]).await;
    assert_eq!(reading.recv().await.unwrap(), "a");
    let begun = Instant::now();
    world.broker.refuse_connections(true);
    world.broker.drop_connections();
    items.closed().await;
    assert_eq!(reading.recv().await.unwrap(), "Disconnected");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    while world.server.stats("upload").calls == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.server.stats("count").faults.get("dropped"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_private_queue_leads_to_the_streams_of_its_own_server() {
    let (opened, mut opening) = mpsc::unbounded_channel();
    let handler = move |_| {
        let (items, stream) = channel();
        opened.send(items).unwrap();
        std::future::ready(Ok(Response::streaming(ContentType::MessagePack, stream)))
    };
    let mut world = World::new(handler.clone()).await;
    let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
    let other = Running::start(&world.connection, handler, |server| server).await;
    let mut of_servers = Vec::new();
    for server in [&world.server.instance.id, &other.instance.id].map(Clone::clone) {
        loop {
            let open = world.open(COUNT).await;
            let items = opening.recv().await.unwrap();
            if open.accepted.headers.get_as("rpc-instance") == Some(&*server) {
                of_servers.push((open, items));
                break;
            }
        }
    }
    let [(first, first_items), (second, second_items)] = &of_servers[..] else {
        panic!("a stream of each server")
    };
    assert_ne!(first.private_queue, second.private_queue);
    let crossed = Open {
        stream: first.stream.clone(),
        private_queue: second.private_queue.clone(),
        accepted: PeerMessage::default(),
    };
    world.stop(&crossed).await;
    world.stop(second).await;
    second_items.closed().await;
    assert!(!first_items.is_closed());
    world.stop(first).await;
    first_items.closed().await;
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_takes_no_slot_and_no_place_of_the_prefetch() {
    let mut world = World::with(
        |server| server.prefetch(1).concurrency(1),
        async |request: Request| match request.method() {
            Some("add") => Ok(value("3")),
            Some("upload") => read_and_join(request).await,
            _ => Ok(streaming(stream::pending())),
        },
    )
    .await;
    world.open(COUNT).await;
    world.open(UPLOAD).await;
    world.open(COUNT_ONCE).await;
    world.send(world.request(ADD)).await;
    assert_eq!(&world.next_of("result").await.body[..], b"3");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_has_not_returned_its_stream_takes_a_slot() {
    let (return_now, returning) = oneshot::channel::<()>();
    let returning = Mutex::new(Some(returning));
    let mut world = World::with(
        |server| server.prefetch(1),
        move |request: Request| {
            let returning = returning.lock().take();
            async move {
                if request.method() == Some("add") {
                    return Ok(value("3"));
                }
                let _ = returning.unwrap().await;
                Ok(streaming(stream::pending()))
            }
        },
    )
    .await;
    world.send(world.request(COUNT)).await;
    world.send(world.request(ADD)).await;
    while world.server.stats("count").in_flight == 0 {
        yield_now().await;
    }
    return_now.send(()).unwrap();
    world.next_of("accepted").await;
    world.next_of("result").await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_passes_through_the_layers_of_a_server() {
    let (items, stream) = channel();
    let handler = handing_out([stream]);
    let mut world = World::with(|server| server.layer(Identity::new()), handler).await;
    let mut request = world.request(COUNT);
    request.deadline = Some(deadline::unix_millis_after(LONG));
    world.send(request).await;
    world.next_of("accepted").await;
    items.send(Ok(Bytes::from_static(b"0"))).unwrap();
    assert_eq!(world.items(0, 1).await, strings(0..1));
    drop(items);
    assert_eq!(sequence(&world.next_of("end").await), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_connection_is_not_silence() {
    let (items, stream) = channel();
    let mut world = World::new(handing_out([stream])).await;
    world.open(COUNT).await;
    let begun = Instant::now();
    world.broker.block("low on memory");
    tokio::time::sleep(2 * SILENCE).await;
    assert!(!items.is_closed());
    items.closed().await;
    let silent = begun.elapsed();
    assert!(silent >= 3 * SILENCE && silent < 4 * SILENCE, "{silent:?}");
}
