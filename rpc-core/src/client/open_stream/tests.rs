//! Streams of a client, whose server is a test that writes its messages one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use futures_util::{FutureExt, stream};
use smol_str::SmolStr;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::connection::Connection;
use crate::definition::{Method, Service};
use crate::message::StreamCall;
use crate::queue::QueueOptions;
use crate::service;
use crate::testing::EmbeddedBroker;
use crate::transport::{
    Acknowledge, Channel, ChannelMode, Content, Deliveries, Message, QueueKind,
};
use crate::wire::{
    Accepted, CancelNotice, Frame, StreamLabel, cancel_topic, push_item, split_item,
};

const TAIL: &Method = &Method::new("tail", &[]).streams_items();
const TAIL_AGAIN: &Method = &Method::new("tail_again", &[]).streams_items().idempotent();
const UPLOAD: &Method = &Method::new("upload", &[]).stream_argument("parts");
const CHAT: &Method = &Method::new("chat", &[])
    .streams_items()
    .stream_argument("said");
const CHAT_AGAIN: &Method = &Method::new("chat_again", &[])
    .streams_items()
    .stream_argument("said")
    .idempotent();
const SERVICE: &Service = &Service::new(
    "Logs",
    "logs",
    &[TAIL, TAIL_AGAIN, UPLOAD, CHAT, CHAT_AGAIN],
);

const SECOND: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(9);

type Calling = JoinHandle<Result<Response, RpcError>>;

/// A server of the queue, played by the test.
struct Server {
    channel: Arc<dyn Channel>,
    requests: Deliveries,
    /// Messages to the private queue.
    control: Deliveries,
}

/// A stream of the server.
struct Served {
    channel: Arc<dyn Channel>,
    label: StreamLabel,
    reply_to: SmolStr,
}

impl Server {
    async fn start(connection: &Connection) -> Self {
        let link = connection.link().await.unwrap();
        let channel = link.open_channel(ChannelMode::Plain).await.unwrap();
        let durable = QueueOptions::default();
        let kind = QueueKind::Durable(&durable);
        channel.declare_queue("logs", kind).await.unwrap();
        let private = "rpc.instance.i.1";
        let kind = QueueKind::Exclusive;
        channel.declare_queue(private, kind).await.unwrap();
        channel.bind(private, &cancel_topic("logs")).await.unwrap();
        let consume = |queue: &'static str| channel.consume(queue, queue, Acknowledge::None);
        Self {
            requests: consume("logs").await.unwrap(),
            control: consume(private).await.unwrap(),
            channel,
        }
    }

    /// Waits for a request. Its stream has no id that the caller knows yet.
    async fn request(&mut self) -> (Message, Served) {
        let message = self.requests.next().await.unwrap().unwrap().message;
        let served = Served {
            channel: self.channel.clone(),
            label: StreamLabel {
                stream: "secret".into(),
                correlation_id: message.correlation_id.clone(),
                content_type: message.content_type.clone(),
                app_id: None,
                user_id: None,
            },
            reply_to: message.reply_to.clone().unwrap(),
        };
        (message, served)
    }

    /// Waits for a request and accepts it.
    async fn accepted(&mut self) -> Served {
        let (_, served) = self.request().await;
        served.accept(window(8, 1 << 20)).await;
        served
    }

    /// Waits for a message to the private queue.
    async fn told(&mut self) -> Message {
        self.control.next().await.unwrap().unwrap().message
    }

    /// Waits for a message of the stream, other than a sign of life.
    async fn frame(&mut self) -> Frame {
        loop {
            let message = self.told().await;
            assert_eq!(message.message_id.as_deref(), Some("secret"));
            assert!(message.mandatory || message.correlation_id.is_some());
            match Frame::from_message(message).unwrap() {
                Frame::Alive => {}
                frame => return frame,
            }
        }
    }

    async fn is_told_to_stop(&mut self) {
        assert!(matches!(self.frame().await, Frame::Stop));
    }

    async fn is_told_of_a_dropped_call(&mut self, served: &Served) {
        let notice = CancelNotice::from_message(&self.told().await).unwrap();
        let id = served.label.correlation_id.as_deref().unwrap();
        assert_eq!(notice.correlation_ids, [id]);
        assert!(notice.deadline > Instant::now());
    }

    /// Waits for items of the caller.
    async fn items(&mut self) -> (u64, Vec<Bytes>) {
        match self.frame().await {
            Frame::Items { first, mut body } => {
                let items = std::iter::from_fn(|| split_item(&mut body)).collect();
                (first, items)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn hears_nothing(&mut self) {
        settle().await;
        assert!(self.control.next().now_or_never().is_none());
    }

    async fn gets_no_request(&mut self) {
        settle().await;
        assert!(self.requests.next().now_or_never().is_none());
    }
}

impl Served {
    async fn publish(&self, message: Message) {
        let sending = self.channel.publish(self.reply_to.clone(), message);
        sending.wait().await.unwrap();
    }

    async fn accept(&self, window: Amount) {
        self.accept_as("rpc.instance.i.1", Some(window)).await;
    }

    async fn accept_as(&self, private_queue: &str, window: Option<Amount>) {
        let accepted = Accepted {
            stream: self.label.stream.clone(),
            private_queue: private_queue.into(),
            window,
            headers: [("version".to_owned(), 7.into())].into_iter().collect(),
        };
        self.publish(accepted.into_message(&self.label, "i")).await;
    }

    async fn send(&self, frame: Frame) {
        self.publish(frame.into_message(&self.label)).await;
    }

    async fn items(&self, first: u64, items: &[&str]) {
        let body = packed(items);
        self.send(Frame::Items { first, body }).await;
    }

    async fn end(&self, items: u64) {
        self.send(Frame::End { items, error: None }).await;
    }

    async fn fail(&self, items: u64, error: impl Into<StreamError>) {
        let error = Some(error.into());
        self.send(Frame::End { items, error }).await;
    }

    /// Sends an ordinary reply.
    async fn reply(&self, kind: &'static str, body: &'static [u8]) {
        let message = Message::from(Content {
            correlation_id: self.label.correlation_id.clone(),
            content_type: self.label.content_type.clone(),
            kind: Some(kind.into()),
            body: Bytes::from_static(body),
            ..Content::default()
        });
        self.publish(message).await;
    }

    async fn fault(&self, error: RpcError) {
        let error = Some(error.into());
        let mut message = Frame::End { items: 0, error }.into_message(&self.label);
        message.message_id = None;
        self.publish(message).await;
    }
}

fn window(items: u64, bytes: u64) -> Amount {
    Amount { items, bytes }
}

fn packed(items: &[&str]) -> Bytes {
    let mut body = BytesMut::new();
    for item in items {
        push_item(&mut body, item.as_bytes());
    }
    body.freeze()
}

/// Lets all tasks run that are ready.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn request(method: &'static Method) -> Request {
    let mut request = Request::new(SERVICE, method, "logs", &()).unwrap();
    streams(&mut request).silence = Some(SILENCE);
    request
}

fn streams(request: &mut Request) -> &mut StreamCall {
    request.0.streams.as_mut().unwrap()
}

/// A request with items of the caller.
fn sending(
    method: &'static Method,
    items: impl Stream<Item = Result<Bytes, StreamError>> + Send + 'static,
) -> Request {
    let mut request = request(method);
    let source: ItemSource = Box::new(move |_| Box::pin(items));
    streams(&mut request).items = Some(Slot::new(source));
    request
}

/// Items of a caller that come when the test sends them.
fn channel() -> (
    mpsc::UnboundedSender<&'static str>,
    impl Stream<Item = Result<Bytes, StreamError>> + Send + 'static,
) {
    let (sender, mut items) = mpsc::unbounded_channel::<&'static str>();
    let items = stream::poll_fn(move |cx| items.poll_recv(cx));
    (
        sender,
        items.map(|item| Ok(Bytes::from_static(item.as_bytes()))),
    )
}

fn start(client: &Client, request: Request) -> Calling {
    tokio::spawn(service::call(client.clone(), request))
}

async fn stream_of(calling: Calling) -> ItemStream {
    items_of(calling.await.unwrap().unwrap())
}

fn items_of(response: Response) -> ItemStream {
    response.items.unwrap().take().unwrap()
}

/// Reads an item.
async fn read(items: &mut ItemStream) -> String {
    let item = items.next().await.unwrap().unwrap();
    String::from_utf8(item.to_vec()).unwrap()
}

/// Reads the error at the end of the items.
async fn last(items: &mut ItemStream) -> RpcError {
    let Some(Err(StreamError::Rpc(error))) = items.next().await else {
        panic!("no error");
    };
    assert!(items.next().await.is_none());
    error
}

fn failed(result: Result<Response, RpcError>) -> RpcError {
    result.unwrap_err()
}

struct Setup {
    connection: Connection,
    client: Client,
    server: Server,
}

impl Setup {
    async fn new() -> Self {
        Self::with(&Connection::open("memory:").await.unwrap()).await
    }

    async fn with(connection: &Connection) -> Self {
        Self {
            client: connection.client(),
            server: Server::start(connection).await,
            connection: connection.clone(),
        }
    }

    /// Opens a stream whose server has accepted it.
    async fn open(&mut self, method: &'static Method) -> (Served, ItemStream) {
        let calling = start(&self.client, request(method));
        let served = self.server.accepted().await;
        (served, stream_of(calling).await)
    }

    fn dropped(&self) -> (u64, u64, u64) {
        let dropped = self.client.dropped_replies();
        (dropped.late, dropped.foreign, dropped.malformed)
    }
}

#[tokio::test(start_paused = true)]
async fn items_arrive_in_order_with_headers_and_an_end() {
    let mut setup = Setup::new().await;
    let calling = start(&setup.client, request(TAIL));
    let (message, served) = setup.server.request().await;
    assert_eq!(message.kind.as_deref(), Some("tail"));
    assert_eq!(message.headers.get_as("rpc-items"), Some(1024));
    assert_eq!(message.headers.get_as("rpc-bytes"), Some(1 << 20));
    assert_eq!(message.headers.get_as("rpc-silence"), Some(9_000));
    assert_eq!((message.deadline, message.expiration), (None, Some(9_000)));
    assert!(!message.batches);
    served.accept(window(1, 1)).await;
    served.items(0, &["a", "b"]).await;
    served.items(2, &["c"]).await;
    served.end(3).await;
    let response = calling.await.unwrap().unwrap();
    assert_eq!(response.headers.get_as("version"), Some(7));
    let mut items = items_of(response);
    for item in ["a", "b", "c"] {
        assert_eq!(read(&mut items).await, item);
    }
    assert!(items.next().await.is_none());
    served.items(3, &["late"]).await;
    setup.server.hears_nothing().await;
    assert_eq!(setup.dropped(), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn settings_of_call_and_client_are_the_terms_of_the_stream() {
    let mut setup = Setup::new().await;
    let builder = setup.connection.client_builder().timeout(4 * SECOND);
    let client = builder.window(20).window_bytes(300).build();
    let mut own = request(TAIL);
    let deadline = Instant::now() + 3 * SECOND;
    own.0.deadline.set_moment(deadline);
    *streams(&mut own) = StreamCall {
        window_items: Some(5),
        silence: None,
        ..streams(&mut own).clone()
    };
    let _calling = start(&client, own);
    let (message, _) = setup.server.request().await;
    assert_eq!(message.headers.get_as("rpc-items"), Some(5));
    assert_eq!(message.headers.get_as("rpc-bytes"), Some(300));
    assert_eq!(message.headers.get_as("rpc-silence"), Some(4_000));
    assert_eq!(message.expiration, Some(3_000));
    assert!(message.deadline.is_some());
    let mut other = request(TAIL);
    streams(&mut other).silence = None;
    let _calling = start(&client, other);
    let (message, _) = setup.server.request().await;
    assert_eq!(message.headers.get_as("rpc-items"), Some(20));
    let client = setup.connection.client_builder().window(0).window_bytes(0);
    let _calling = start(&client.build(), request(TAIL));
    let (message, _) = setup.server.request().await;
    for name in ["rpc-items", "rpc-bytes"] {
        assert_eq!(message.headers.get_as(name), Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_without_end_ends_no_stream() {
    let mut setup = Setup::new().await;
    let mut tail = request(TAIL);
    streams(&mut tail).silence = Some(Duration::MAX);
    let calling = start(&setup.client, tail);
    let served = setup.server.accepted().await;
    let mut items = stream_of(calling).await;
    tokio::time::sleep(SECOND).await;
    served.end(0).await;
    assert!(items.next().await.is_none());

    let mut upload = sending(UPLOAD, stream::empty());
    streams(&mut upload).silence = Some(Duration::MAX);
    let calling = start(&setup.client, upload);
    let served = setup.server.accepted().await;
    assert!(matches!(setup.server.frame().await, Frame::End { .. }));
    tokio::time::sleep(SECOND).await;
    served.reply("result", b"\xc0").await;
    assert!(calling.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_services_own_error_and_faults_come_after_the_items() {
    let mut setup = Setup::new().await;
    let (served, mut items) = setup.open(TAIL).await;
    served.items(0, &["a"]).await;
    let own = StreamError::Own(Bytes::from_static(b"own"));
    served.fail(1, own).await;
    assert_eq!(read(&mut items).await, "a");
    let Some(Err(StreamError::Own(error))) = items.next().await else {
        panic!("no error");
    };
    assert_eq!(&error[..], b"own");
    assert!(items.next().await.is_none());

    let (served, mut items) = setup.open(TAIL).await;
    served.items(0, &["a"]).await;
    served
        .fail(1, RpcError::new(ErrorKind::Panicked, "oh"))
        .await;
    assert_eq!(read(&mut items).await, "a");
    let error = last(&mut items).await;
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.may_have_executed());
    setup.server.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_ends_with_an_error_and_is_stopped() {
    let mut setup = Setup::new().await;
    let many: Vec<&str> = std::iter::repeat_n("x", 1025).collect();
    let too_many = packed(&many);
    let broken = [
        (1, packed(&["a"]), "items were lost"),
        (0, too_many, "more items came"),
        (0, Bytes::from_static(b"\0\0\0\x09a"), "malformed"),
    ];
    for (first, body, text) in broken {
        let (served, mut items) = setup.open(TAIL).await;
        served.send(Frame::Items { first, body }).await;
        let error = last(&mut items).await;
        assert_eq!(error.kind(), ErrorKind::BadReply);
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.may_have_executed());
        setup.server.is_told_to_stop().await;
    }
    // A repetition, and an end with another number.
    let (served, mut items) = setup.open(TAIL).await;
    served.items(0, &["a"]).await;
    served.items(0, &["a"]).await;
    assert_eq!(read(&mut items).await, "a");
    assert_eq!(last(&mut items).await.kind(), ErrorKind::BadReply);
    setup.server.is_told_to_stop().await;
    let (served, mut items) = setup.open(TAIL).await;
    served.items(0, &["a"]).await;
    served.end(2).await;
    assert_eq!(read(&mut items).await, "a");
    assert_eq!(last(&mut items).await.kind(), ErrorKind::BadReply);
    setup.server.is_told_to_stop().await;
}

#[tokio::test(start_paused = true)]
async fn credit_follows_reading() {
    let mut setup = Setup::new().await;
    let mut call = request(TAIL);
    streams(&mut call).window_items = Some(4);
    let calling = start(&setup.client, call);
    let served = setup.server.accepted().await;
    let mut items = stream_of(calling).await;
    served.items(0, &["a", "b"]).await;
    served.items(2, &["c", "d"]).await;
    setup.server.hears_nothing().await;
    for item in ["a", "b", "c"] {
        assert_eq!(read(&mut items).await, item);
    }
    let Frame::Credit(amount) = setup.server.frame().await else {
        panic!("no credit");
    };
    assert_eq!(amount, window(2, 2));
    served.items(4, &["e", "f"]).await;
    served.items(6, &["g"]).await; // One too many.
    settle().await;
    for item in ["d", "e", "f"] {
        assert_eq!(read(&mut items).await, item);
    }
    assert_eq!(last(&mut items).await.kind(), ErrorKind::BadReply);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_ends_the_stream_after_the_items_that_came() {
    let mut setup = Setup::new().await;
    let (served, mut items) = setup.open(TAIL).await;
    let opened = Instant::now();
    served.items(0, &["a"]).await;
    // The caller gives signs of life meanwhile.
    for sign in 1..3 {
        let message = setup.server.told().await;
        assert!(matches!(Frame::from_message(message), Some(Frame::Alive)));
        assert_eq!(opened.elapsed().as_secs(), 3 * sign);
    }
    setup.server.is_told_to_stop().await;
    assert_eq!(opened.elapsed().as_secs(), SILENCE.as_secs());
    assert_eq!(read(&mut items).await, "a");
    let error = last(&mut items).await;
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    let text = error.to_string();
    assert!(
        text.starts_with("the server has been silent for 9s"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_keep_a_stream_that_is_not_read() {
    let mut setup = Setup::new().await;
    let (served, mut items) = setup.open(TAIL).await;
    served.items(0, &["a"]).await;
    for _ in 0..10 {
        tokio::time::sleep(SILENCE * 2 / 3).await;
        served.send(Frame::Alive).await;
    }
    served.end(1).await;
    assert_eq!(read(&mut items).await, "a");
    assert!(items.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_stream() {
    let mut setup = Setup::new().await;
    let mut call = request(TAIL);
    call.0.deadline.set_moment(Instant::now() + 5 * SECOND);
    let calling = start(&setup.client, call);
    let served = setup.server.accepted().await;
    let mut items = stream_of(calling).await;
    served.items(0, &["a"]).await;
    assert_eq!(read(&mut items).await, "a");
    let error = last(&mut items).await;
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = error.to_string();
    assert!(
        text.starts_with("the deadline of the stream passed after"),
        "{text}"
    );
    setup.server.is_told_to_stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_notices_the_deadline_first_makes_no_difference() {
    let mut setup = Setup::new().await;
    for (method, early) in [(TAIL, false), (TAIL, true), (UPLOAD, false)] {
        let mut call = match method.stream_argument {
            None => request(method),
            Some(_) => sending(method, stream::pending()),
        };
        let deadline = Instant::now() + 5 * SECOND;
        call.0.deadline.set_moment(deadline);
        let calling = start(&setup.client, call);
        let served = setup.server.accepted().await;
        let left = Duration::from_millis(if early { 2_000 } else { 10 });
        let fault = deadline::passed_at_the_server();
        let error = if method.streams_items {
            let mut items = stream_of(calling).await;
            tokio::time::sleep_until(deadline - left).await;
            served.fail(0, fault).await;
            last(&mut items).await
        } else {
            tokio::time::sleep_until(deadline - left).await;
            served.fault(fault).await;
            failed(calling.await.unwrap())
        };
        let (kind, text) = match early {
            false => (
                ErrorKind::Timeout,
                "the deadline of the stream passed after",
            ),
            // The clocks are the same, so they are not the cause.
            true => (ErrorKind::DeadlineExceeded, "by the server's clock"),
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.may_have_executed());
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_stream_stops_it() {
    let mut setup = Setup::new().await;
    let (served, items) = setup.open(TAIL).await;
    served.items(0, &["a"]).await;
    drop(items);
    setup.server.is_told_to_stop().await;
    settle().await;
    served.items(1, &["b"]).await;
    settle().await;
    assert_eq!(setup.dropped().0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_its_first_answer_is_cancelled() {
    let mut setup = Setup::new().await;
    let calling = start(&setup.client, request(TAIL));
    let (_, served) = setup.server.request().await;
    calling.abort();
    setup.server.is_told_of_a_dropped_call(&served).await;
    served.accept(window(1, 1)).await;
    settle().await;
    assert_eq!(setup.dropped(), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_with_its_first_answer_unread_is_stopped() {
    let mut setup = Setup::new().await;
    let mut calling = Box::pin(service::call(setup.client.clone(), request(TAIL)));
    assert!(calling.as_mut().now_or_never().is_none());
    while setup.connection.live_requester().is_none() {
        settle().await;
        assert!(calling.as_mut().now_or_never().is_none());
    }
    settle().await;
    assert!(calling.as_mut().now_or_never().is_none());
    setup.server.accepted().await;
    settle().await;
    drop(calling);
    setup.server.is_told_to_stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_first_answer_the_call_times_out_and_is_cancelled() {
    let mut setup = Setup::new().await;
    let started = Instant::now();
    let calling = start(&setup.client, request(TAIL));
    let (_, served) = setup.server.request().await;
    let error = failed(calling.await.unwrap());
    assert_eq!(started.elapsed().as_secs(), SILENCE.as_secs());
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    assert!(
        error.to_string().contains("no response within 9s"),
        "{error}"
    );
    setup.server.is_told_of_a_dropped_call(&served).await;
}

#[tokio::test(start_paused = true)]
async fn errors_before_the_first_item_are_those_of_a_call() {
    let mut setup = Setup::new().await;
    let mut elsewhere = request(TAIL);
    elsewhere.0.queue = "nowhere".into();
    let error = failed(start(&setup.client, elsewhere.clone()).await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    assert!(error.to_string().contains("'nowhere'"), "{error}");
    assert!(!error.may_have_executed());
    elsewhere.0.persistent = true; // Confirmed.
    let error = failed(start(&setup.client, elsewhere).await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Unroutable);

    let calling = start(&setup.client, request(TAIL));
    let (_, served) = setup.server.request().await;
    served.reply("error", b"\x01").await;
    let response = calling.await.unwrap().unwrap();
    assert!(response.is_error() && response.items.is_none());

    let calling = start(&setup.client, request(TAIL));
    let (_, served) = setup.server.request().await;
    served
        .fault(RpcError::new(ErrorKind::Overloaded, "full"))
        .await;
    let error = failed(calling.await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Overloaded);

    let calling = start(&setup.client, request(TAIL));
    let (_, served) = setup.server.request().await;
    served.reply("result", b"\x01").await;
    let error = failed(calling.await.unwrap());
    assert_eq!(error.kind(), ErrorKind::BadReply);
    assert!(
        error.to_string().contains("'tail' of Logs does not stream"),
        "{error}"
    );
    let mut none = request(TAIL);
    streams(&mut none).silence = Some(Duration::ZERO);
    let error = failed(start(&setup.client, none).await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    setup.server.hears_nothing().await;
    setup.server.gets_no_request().await;
}

#[tokio::test(start_paused = true)]
async fn a_persistent_request_opens_a_stream() {
    let mut setup = Setup::new().await;
    let mut call = request(TAIL);
    call.0.persistent = true;
    let calling = start(&setup.client, call);
    let (message, served) = setup.server.request().await;
    assert!(message.persistent);
    served.accept(window(1, 1)).await;
    served.items(0, &["a"]).await;
    assert_eq!(read(&mut stream_of(calling).await).await, "a");
}

#[cfg(feature = "json")]
#[tokio::test(start_paused = true)]
async fn a_plain_client_refuses_streams() {
    let mut setup = Setup::new().await;
    let client = setup.connection.client_builder().plain().build();
    let error = failed(start(&client, request(TAIL)).await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(!error.may_have_executed());
    setup.server.gets_no_request().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_instance_is_gone_ends_at_once() {
    let mut setup = Setup::new().await;
    let calling = start(&setup.client, request(TAIL));
    let (_, served) = setup.server.request().await;
    served.accept_as("rpc.instance.i.gone", None).await;
    let mut items = stream_of(calling).await;
    let opened = Instant::now();
    let error = last(&mut items).await;
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(error.may_have_executed());
    assert!(
        error.to_string().contains("the instance that served"),
        "{error}"
    );
    // The first sign of life comes back.
    assert_eq!(opened.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn messages_of_strangers_are_dropped_and_counted() {
    let mut setup = Setup::new().await;
    let calling = start(&setup.client, request(TAIL));
    let (_, served) = setup.server.request().await;
    served.accept_as("logs", None).await;
    served.accept_as("rpc.instance.other.1", None).await;
    served.items(0, &["before"]).await;
    settle().await;
    assert_eq!(setup.dropped(), (0, 1, 2));
    served.accept(window(1, 1)).await;
    let mut items = stream_of(calling).await;
    let stranger = Served {
        channel: served.channel.clone(),
        label: StreamLabel {
            stream: "guessed".into(),
            ..served.label.clone()
        },
        reply_to: served.reply_to.clone(),
    };
    stranger.accept(window(1, 1)).await;
    served.accept(window(1, 1)).await;
    served.reply("result", b"\x01").await;
    served
        .fault(RpcError::new(ErrorKind::Cancelled, "no"))
        .await;
    settle().await;
    assert_eq!(setup.dropped(), (4, 1, 2));
    stranger.items(0, &["forged"]).await;
    stranger.end(0).await;
    stranger.send(Frame::Alive).await;
    settle().await;
    assert_eq!(setup.dropped(), (4, 4, 2));
    served.items(0, &["real"]).await;
    assert_eq!(read(&mut items).await, "real");
}

#[tokio::test(start_paused = true)]
async fn a_malformed_message_ends_the_stream() {
    let setup = &mut Setup::new().await;
    for kind in ["stop", "items", "end", "fault", "credit", "result", "other"] {
        let (served, mut items) = setup.open(TAIL).await;
        served.items(0, &["before"]).await;
        let mut malformed = Frame::Alive.into_message(&served.label);
        malformed.kind = Some(kind.into());
        served.publish(malformed).await;
        assert_eq!(read(&mut items).await, "before");
        let error = last(&mut items).await;
        assert_eq!(error.kind(), ErrorKind::BadReply, "{kind}");
        assert!(error.to_string().contains("malformed"), "{error}");
        setup.server.is_told_to_stop().await;
    }
    assert_eq!(setup.dropped(), (0, 0, 7));
}

#[tokio::test(start_paused = true)]
async fn an_upload_sends_items_within_the_credit_and_returns_the_result() {
    let mut setup = Setup::new().await;
    let items = ["a", "b", "c", "d", "e"].map(|item| Ok(Bytes::from_static(item.as_bytes())));
    let calling = start(&setup.client, sending(UPLOAD, stream::iter(items)));
    let (_, served) = setup.server.request().await;
    served.accept(window(2, 100)).await;
    assert_eq!(
        setup.server.items().await,
        (0, vec!["a".into(), "b".into()])
    );
    setup.server.hears_nothing().await;
    served.send(Frame::Credit(window(2, 2))).await;
    assert_eq!(
        setup.server.items().await,
        (2, vec!["c".into(), "d".into()])
    );
    served.send(Frame::Credit(window(2, 2))).await;
    assert_eq!(setup.server.items().await, (4, vec!["e".into()]));
    let end = setup.server.frame().await;
    assert!(
        matches!(
            end,
            Frame::End {
                items: 5,
                error: None
            }
        ),
        "{end:?}"
    );
    served.reply("result", b"\x05").await;
    let response = calling.await.unwrap().unwrap();
    assert_eq!(&response.body[..], b"\x05");
    assert!(response.items.is_none());
    setup.server.hears_nothing().await;
}

/// Notes when it is dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_ends_an_upload_that_still_sends() {
    let mut setup = Setup::new().await;
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Flag(dropped.clone());
    let endless = stream::repeat_with(move || {
        let _flag = &flag;
        Ok(Bytes::from_static(b"x"))
    });
    let calling = start(&setup.client, sending(UPLOAD, endless));
    let served = setup.server.accepted().await;
    assert_eq!(setup.server.items().await.1.len(), 8);
    served.reply("error", b"\x05").await;
    assert!(calling.await.unwrap().unwrap().is_error());
    settle().await;
    assert!(dropped.load(Ordering::Relaxed));
    setup.server.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_upload_is_stopped() {
    let mut setup = Setup::new().await;
    let (parts, items) = channel();
    let calling = start(&setup.client, sending(UPLOAD, items));
    setup.server.accepted().await;
    parts.send("a").unwrap();
    setup.server.items().await;
    calling.abort();
    setup.server.is_told_to_stop().await;
    settle().await;
    assert!(parts.is_closed());
}

#[tokio::test(start_paused = true)]
async fn the_result_of_an_upload_is_due_within_the_timeout_after_the_last_item() {
    let mut setup = Setup::new().await;
    let (parts, items) = channel();
    let calling = start(&setup.client, sending(UPLOAD, items));
    let served = setup.server.accepted().await;
    let alive = async {
        loop {
            tokio::time::sleep(SECOND).await;
            served.send(Frame::Alive).await;
        }
    };
    let waiting = async {
        // Longer than the timeout.
        tokio::time::sleep(2 * SILENCE).await;
        drop(parts);
        let ended = Instant::now();
        (calling.await.unwrap(), ended.elapsed())
    };
    let (result, took) = tokio::select! {
        () = alive => return,
        waited = waiting => waited,
    };
    let error = failed(result);
    assert_eq!(took.as_secs(), SILENCE.as_secs());
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    let text = error.to_string();
    assert!(
        text.contains("no result within 9s after the last item"),
        "{text}"
    );
    assert!(matches!(
        setup.server.frame().await,
        Frame::End { items: 0, .. }
    ));
    setup.server.is_told_to_stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_item_that_cannot_be_sent_stops_the_stream_with_its_error() {
    let mut setup = Setup::new().await;
    let encoding = || RpcError::new(ErrorKind::Encode, "not encoded");
    let bad = stream::iter([Ok(Bytes::from_static(b"a")), Err(encoding().into())]);
    let calling = start(&setup.client, sending(UPLOAD, bad));
    setup.server.accepted().await;
    assert_eq!(setup.server.items().await.1.len(), 1);
    setup.server.is_told_to_stop().await;
    let error = failed(calling.await.unwrap());
    assert_eq!(error.to_string(), "not encoded");
    assert!(error.may_have_executed());

    let too_long = vec![0; setup.connection.max_message_size()];
    let long = stream::iter([Ok(Bytes::from(too_long))]);
    let calling = start(&setup.client, sending(CHAT, long));
    let served = setup.server.accepted().await;
    served
        .publish(crate::wire::started(Headers::new(), &served.label))
        .await;
    let mut items = stream_of(calling).await;
    let error = last(&mut items).await;
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.may_have_executed());
    setup.server.is_told_to_stop().await;
}

#[tokio::test(start_paused = true)]
async fn items_flow_in_both_directions_before_and_after_the_start() {
    let mut setup = Setup::new().await;
    let (said, items) = channel();
    let mut calling = start(&setup.client, sending(CHAT, items));
    let served = setup.server.accepted().await;
    said.send("hello").unwrap();
    assert_eq!(setup.server.items().await, (0, vec!["hello".into()]));
    assert!((&mut calling).now_or_never().is_none());
    let headers = [("tenant".to_owned(), "a".into())].into_iter().collect();
    served
        .publish(crate::wire::started(headers, &served.label))
        .await;
    served.items(0, &["welcome"]).await;
    let response = calling.await.unwrap().unwrap();
    assert_eq!(response.headers.get_as("tenant"), Some("a"));
    assert_eq!(response.headers.get_as::<i64>("version"), None);
    let mut items = items_of(response);
    assert_eq!(read(&mut items).await, "welcome");
    said.send("bye").unwrap();
    assert_eq!(setup.server.items().await, (1, vec!["bye".into()]));
    served.items(1, &["see you"]).await;
    served.end(2).await;
    assert_eq!(read(&mut items).await, "see you");
    assert!(items.next().await.is_none());
    settle().await;
    assert!(said.is_closed());
    setup.server.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_chat_may_fail_before_its_start() {
    let mut setup = Setup::new().await;
    let calling = start(&setup.client, sending(CHAT, stream::pending()));
    let served = setup.server.accepted().await;
    served.reply("error", b"\x05").await;
    assert!(calling.await.unwrap().unwrap().is_error());
    let calling = start(&setup.client, sending(CHAT, stream::pending()));
    let served = setup.server.accepted().await;
    served.fault(RpcError::new(ErrorKind::Panicked, "oh")).await;
    assert_eq!(failed(calling.await.unwrap()).kind(), ErrorKind::Panicked);
    setup.server.hears_nothing().await;
    // The server is silent.
    let calling = start(&setup.client, sending(CHAT, stream::pending()));
    setup.server.accepted().await;
    let error = failed(calling.await.unwrap());
    assert!(error.to_string().contains("silent for 9s"), "{error}");
    setup.server.is_told_to_stop().await;
    // The server does not say how much it takes.
    let calling = start(&setup.client, sending(CHAT, stream::pending()));
    let (_, served) = setup.server.request().await;
    served.accept_as("rpc.instance.i.1", None).await;
    assert_eq!(failed(calling.await.unwrap()).kind(), ErrorKind::Timeout);
    assert_eq!(setup.dropped(), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_stream_is_opened_again_before_its_first_item() {
    let mut setup = Setup::new().await;
    let (served, mut items) = setup.open(TAIL_AGAIN).await;
    served
        .fail(0, RpcError::new(ErrorKind::Cancelled, "stopping"))
        .await;
    let reading = tokio::spawn(async move {
        let first = read(&mut items).await;
        (first, items)
    });
    let again = setup.server.accepted().await;
    assert_ne!(again.label.correlation_id, served.label.correlation_id);
    again
        .fail(0, RpcError::new(ErrorKind::Overloaded, "full"))
        .await;
    let (_, refused) = setup.server.request().await;
    refused
        .fault(RpcError::new(ErrorKind::Cancelled, "stopping"))
        .await;
    let again = setup.server.accepted().await;
    again.items(0, &["a"]).await;
    let (first, mut items) = reading.await.unwrap();
    assert_eq!(first, "a");
    again
        .fail(1, RpcError::new(ErrorKind::Cancelled, "stopping"))
        .await;
    assert_eq!(last(&mut items).await.kind(), ErrorKind::Cancelled);
    setup.server.gets_no_request().await;
}

#[tokio::test(start_paused = true)]
async fn other_streams_and_other_failures_are_final() {
    let mut setup = Setup::new().await;
    for (method, kind) in [
        (TAIL, ErrorKind::Cancelled),
        (TAIL_AGAIN, ErrorKind::Panicked),
        (TAIL_AGAIN, ErrorKind::BadRequest),
    ] {
        let (served, mut items) = setup.open(method).await;
        served.fail(0, RpcError::new(kind, "no")).await;
        assert_eq!(last(&mut items).await.kind(), kind);
    }
    // A silence has used up the time.
    let (_served, mut items) = setup.open(TAIL_AGAIN).await;
    assert_eq!(last(&mut items).await.kind(), ErrorKind::Timeout);
    setup.server.gets_no_request().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_opened_again_ends_within_its_time() {
    let mut setup = Setup::new().await;
    let (served, mut items) = setup.open(TAIL_AGAIN).await;
    let cancelled = || RpcError::new(ErrorKind::Cancelled, "stopping");
    served.fail(0, cancelled()).await;
    let started = Instant::now();
    let reading = tokio::spawn(async move { last(&mut items).await });
    let error = loop {
        tokio::select! {
            (_, served) = setup.server.request() => served.fault(cancelled()).await,
            () = tokio::time::sleep(2 * SILENCE) => break reading.await.unwrap(),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(error.to_string().contains("the last of"), "{error}");
    assert!(error.may_have_executed());
    assert!(started.elapsed() <= 3 * SILENCE);
}

#[tokio::test(start_paused = true)]
async fn a_chat_is_opened_again_unless_an_item_was_taken() {
    let mut setup = Setup::new().await;
    let (said, items) = channel();
    let calling = start(&setup.client, sending(CHAT_AGAIN, items));
    let cancelled = || RpcError::new(ErrorKind::Cancelled, "stopping");
    let served = setup.server.accepted().await;
    served.fault(cancelled()).await;
    let served = setup.server.accepted().await;
    served
        .publish(crate::wire::started(Headers::new(), &served.label))
        .await;
    let mut items = stream_of(calling).await;
    served.fail(0, cancelled()).await;
    let reading = tokio::spawn(async move {
        let error = last(&mut items).await;
        (error, items)
    });
    let served = setup.server.accepted().await;
    said.send("hello").unwrap();
    assert_eq!(setup.server.items().await, (0, vec!["hello".into()]));
    served
        .publish(crate::wire::started(Headers::new(), &served.label))
        .await;
    served.fail(0, cancelled()).await;
    assert_eq!(reading.await.unwrap().0.kind(), ErrorKind::Cancelled);
    setup.server.gets_no_request().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_items_were_taken_is_not_sent_again() {
    let mut setup = Setup::new().await;
    let (said, items) = channel();
    let call = sending(UPLOAD, items);
    let again = call.clone();
    let calling = start(&setup.client, call);
    let served = setup.server.accepted().await;
    said.send("hello").unwrap();
    setup.server.items().await;
    served
        .fault(RpcError::new(ErrorKind::Cancelled, "stopping"))
        .await;
    assert_eq!(failed(calling.await.unwrap()).kind(), ErrorKind::Cancelled);
    let error = failed(start(&setup.client, again).await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(!error.may_have_executed());
    setup.server.gets_no_request().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_ends_streams_and_opens_idempotent_ones_again() {
    let broker = EmbeddedBroker::named("streams over a lost connection");
    let connection = Connection::open(&broker.url()).await.unwrap();
    let mut setup = Setup::with(&connection).await;
    let (served, mut once) = setup.open(TAIL).await;
    served.items(0, &["a"]).await;
    let (_, mut again) = setup.open(TAIL_AGAIN).await;
    let pending = start(&setup.client, request(TAIL));
    setup.server.request().await;
    let mut state = connection.state();
    state.current();
    broker.drop_connections();
    let error = failed(pending.await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(error.may_have_executed());
    assert_eq!(read(&mut once).await, "a");
    let error = last(&mut once).await;
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(error.may_have_executed());
    let reading = tokio::spawn(async move { read(&mut again).await });
    while connection.state().current() != crate::connection::ConnectionState::Connected {
        state.changed().await;
    }
    setup.server = Server::start(&connection).await;
    let served = setup.server.accepted().await;
    served.items(0, &["b"]).await;
    assert_eq!(reading.await.unwrap(), "b");
    // A request that cannot leave waits for the connection.
    broker.refuse_connections(true);
    broker.drop_connections();
    settle().await;
    let waiting = start(&setup.client, request(TAIL));
    settle().await;
    broker.refuse_connections(false);
    while connection.state().current() != crate::connection::ConnectionState::Connected {
        state.changed().await;
    }
    setup.server = Server::start(&connection).await;
    setup.server.accepted().await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_leave_in_time_was_not_executed() {
    let broker = EmbeddedBroker::named("streams without a connection");
    let connection = Connection::open(&broker.url()).await.unwrap();
    broker.refuse_connections(true);
    broker.drop_connections();
    settle().await;
    let started = Instant::now();
    let error = failed(start(&connection.client(), request(TAIL)).await.unwrap());
    assert_eq!(started.elapsed().as_secs(), SILENCE.as_secs());
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    assert!(
        error.to_string().contains("could not be sent within 9s"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn closing_the_connection_ends_streams() {
    let mut setup = Setup::new().await;
    let (served, mut items) = setup.open(TAIL).await;
    served.items(0, &["a"]).await;
    settle().await;
    let upload = start(&setup.client, sending(UPLOAD, stream::pending()));
    setup.server.accepted().await;
    settle().await;
    setup.connection.close().await;
    assert_eq!(read(&mut items).await, "a");
    assert_eq!(last(&mut items).await.kind(), ErrorKind::Closed);
    assert_eq!(failed(upload.await.unwrap()).kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_stream_keeps_its_requester_when_later_calls_get_another() {
    let mut setup = Setup::new().await;
    let (first, mut items) = setup.open(TAIL).await;
    let requester = setup.connection.live_requester().unwrap();
    // As a handover, after which the requester takes no more calls.
    for _ in 0..8 {
        requester.in_flight.health.failed();
    }
    drop(requester);
    tokio::time::sleep(5 * SECOND).await;
    let calling = start(&setup.client, request(TAIL));
    let second = setup.server.accepted().await;
    assert_ne!(first.reply_to, second.reply_to);
    let _second = stream_of(calling).await;
    first.items(0, &["a"]).await;
    assert_eq!(read(&mut items).await, "a");
    drop(items);
    setup.server.is_told_to_stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_takes_a_place_among_the_calls_in_flight_until_its_end() {
    let mut setup = Setup::new().await;
    setup.client = setup.connection.client_builder().max_in_flight(1).build();
    let (served, mut items) = setup.open(TAIL).await;
    let waiting = start(&setup.client, request(TAIL));
    setup.server.gets_no_request().await;
    served.end(0).await;
    assert!(items.next().await.is_none());
    setup.server.accepted().await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn layers_leave_a_long_upload_its_time() {
    use crate::client::layers::through_layers;

    let mut setup = Setup::new().await;
    let (parts, items) = channel();
    let mut call = sending(UPLOAD, items);
    let layered = call.0.deadline.enter_layers();
    let calling = tokio::spawn(through_layers(layered, setup.client.clone(), call));
    let served = setup.server.accepted().await;
    for _ in 0..10 {
        tokio::time::sleep(SILENCE / 2).await;
        served.send(Frame::Alive).await;
    }
    drop(parts);
    served.reply("result", b"\x05").await;
    calling.await.unwrap().unwrap();
}
