//! Calls to all instances: one request, the answers of every instance, until a time limit or a number of answers.
//!
//! The instances are made by hand, so that they answer late, twice or wrongly.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_core::middleware::{RetryLayer, RetryPolicy};
use rpc_core::testing::PeerMessage;
use rpc_core::{
    CallError, Client, ClientBuilder, Connection, Context, ErrorKind, Request, Response, RpcError,
    rpc,
};
use rpc_tests::{eventually, unique_queue};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower::util::service_fn;
use tower::{Layer, ServiceBuilder, ServiceExt};

use super::fakes::FakeInstance;
use super::{LONG, client, client_builder, start};
use crate::broker;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum CacheError {
    Locked { by: String },
}

/// A service whose servers each have a state of their own.
#[rpc]
pub(crate) trait Cache {
    async fn clear(prefix: String) -> u64;
    #[rpc(idempotent, persistent)]
    async fn lock(name: String) -> Result<u64, CacheError>;
    /// Runs until it is stopped.
    async fn hold() -> u64;
    #[rpc(oneway)]
    async fn forget();
}

struct Shelf {
    stopped: Arc<AtomicUsize>,
}

impl Cache for Shelf {
    async fn clear(&self, prefix: String) -> u64 {
        prefix.len() as u64
    }

    async fn lock(&self, name: String) -> Result<u64, CacheError> {
        Err(CacheError::Locked { by: name })
    }

    async fn hold(&self) -> u64 {
        struct Stopped(Arc<AtomicUsize>);
        impl Drop for Stopped {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let _stopped = Stopped(self.stopped.clone());
        std::future::pending().await
    }

    async fn forget(&self) {}
}

/// A client and the connection of instances that are made by hand.
struct Setup {
    cache: CacheClient,
    client: Client,
    queue: String,
    connection: Connection,
    /// The connection of the instances.
    instances: Connection,
}

impl Setup {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(options: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Self {
        let broker = broker().await;
        let connection = broker.connect().await;
        let client = options(client_builder(&connection)).build();
        let queue = unique_queue("cache");
        Self {
            cache: CacheClient::new(client.clone()).with_queue(&queue),
            client,
            queue,
            instances: broker.connect().await,
            connection,
        }
    }

    async fn several<const N: usize>(&self) -> [FakeInstance; N] {
        FakeInstance::several(&self.instances, &format!("rpc.all.{}", self.queue)).await
    }

    async fn until_dropped(&self, late: u64, malformed: u64) {
        eventually("dropped answers are counted", async || {
            let dropped = self.client.dropped_replies();
            (dropped.late >= late && dropped.malformed >= malformed).then_some(())
        })
        .await;
        let dropped = self.client.dropped_replies();
        assert_eq!((dropped.late, dropped.malformed), (late, malformed));
    }
}

#[tokio::test]
async fn every_instance_gets_the_request_and_answers_for_itself() {
    let setup = Setup::new().await;
    let mut instances = setup.several::<3>().await;
    let lock = setup.cache.lock("x".to_owned());
    let call = lock.header("tenant", "a").priority(3);
    let gather = call.to_all_instances().within(LONG).expect(3);
    let mut answers = gather.send().await.unwrap();
    let mut ids = Vec::new();
    for (n, instance) in instances.iter_mut().enumerate() {
        let request = instance.next().await;
        assert_eq!(request.kind.as_deref(), Some("lock"));
        assert_eq!(request.content_type.as_deref(), Some("application/msgpack"));
        assert_eq!(request.headers.get_as("tenant"), Some("a"));
        assert_eq!(request.priority, Some(3));
        assert_eq!(&request.body[..], b"\x81\xa4name\xa1x");
        assert!(request.deadline.is_some() && !request.batches && !request.persistent);
        let topic = format!("rpc.all.{}", setup.queue);
        assert_eq!(request.topic, Some(topic));
        ids.push(request.correlation_id.clone());
        let mut answer = instance.answer(&request, ["7", r#"{"Locked":{"by":"y"}}"#, ""][n]);
        answer.kind = Some(["result", "error", "fault"][n].to_owned());
        if n == 2 {
            answer.body = r#"{"code":"permission_denied","message":"no"}"#.into();
        }
        instance.send(&request, answer).await;
        let (id, result) = answers.next().await.unwrap();
        assert_eq!(id, instance.id);
        match (n, result) {
            (0, Ok(7)) => {}
            (1, Err(CallError::App(CacheError::Locked { by }))) => assert_eq!(by, "y"),
            (2, Err(CallError::Rpc(error))) => {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            }
            (n, other) => panic!("{n}: {other:?}"),
        }
    }
    assert!(answers.next().await.is_none());
    assert!(ids.iter().all(|id| id.is_some() && *id == ids[0]));
    setup.until_dropped(0, 0).await;
}

#[tokio::test]
async fn a_call_without_instances_is_unroutable_at_once() {
    let setup = Setup::new().await;
    let begun = Instant::now();
    let call = setup.cache.clear(String::new()).to_all_instances();
    let error = call.within(LONG).send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    assert!(!error.may_have_executed());
    assert!(begun.elapsed() < LONG / 2);
    let text = error.to_string();
    assert!(
        text.contains(&setup.queue) && text.contains("Cache"),
        "{text}"
    );
    // Instances of another queue hear nothing.
    let other = format!("rpc.all.other.{}", setup.queue);
    let _others = FakeInstance::several::<1>(&setup.instances, &other).await;
    let call = setup.cache.clear(String::new()).to_all_instances();
    let error = call.within(LONG).send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
}

#[tokio::test]
async fn answers_after_the_expected_number_are_late() {
    let setup = Setup::new().await;
    let mut instances = setup.several::<3>().await;
    let call = setup.cache.clear(String::new()).to_all_instances();
    let mut answers = call.within(LONG).expect(2).send().await.unwrap();
    for instance in &mut instances[..2] {
        instance.serve("1").await;
        let (id, cleared) = answers.next().await.unwrap();
        assert_eq!((id, cleared.unwrap()), (instance.id.clone(), 1));
    }
    instances[2].serve("1").await;
    setup.until_dropped(1, 0).await;
    assert_eq!(answers.next().await.map(|(id, _)| id), None);
}

#[tokio::test]
async fn the_time_limit_ends_the_stream_and_is_the_deadline_of_the_request() {
    let setup = Setup::new().await;
    let [mut instance, mut slow] = setup.several().await;
    let limit = Duration::from_secs(1); // The default.
    let begun = Instant::now();
    let call = setup.cache.clear(String::new()).to_all_instances();
    let mut answers = call.send().await.unwrap();
    instance.serve("1").await;
    let request = slow.next().await;
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_millis()).unwrap();
    let deadline = request.deadline.unwrap();
    assert!((now - 500..=now + 1_000).contains(&deadline));
    assert_eq!(answers.next().await.unwrap().0, "a");
    assert!(answers.next().await.is_none());
    assert!(begun.elapsed() >= limit);
    assert!(answers.next().await.is_none());
    slow.send(&request, slow.answer(&request, "1")).await;
    setup.until_dropped(1, 0).await;
}

#[tokio::test]
async fn the_deadline_of_the_call_ends_the_stream_if_it_is_earlier() {
    let setup = Setup::new().await;
    let _instances = setup.several::<1>().await;
    // Opens the reply queue before the timed calls.
    let call = setup.cache.clear(String::new()).to_all_instances();
    drop(call.send().await.unwrap());
    let short = Duration::from_millis(200);
    let impatient = client_builder(&setup.connection).timeout(short).build();
    let impatient = CacheClient::new(impatient).with_queue(&setup.queue);
    for call in [
        setup.cache.clear(String::new()).timeout(short),
        impatient.clear(String::new()),
    ] {
        let begun = Instant::now();
        let mut answers = call.to_all_instances().within(LONG).send().await.unwrap();
        assert!(answers.next().await.is_none());
        assert!((short..LONG / 2).contains(&begun.elapsed()));
    }
    let call = setup.cache.clear(String::new()).to_all_instances();
    let error = call.within(Duration::ZERO).send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
}

#[tokio::test]
async fn an_instance_is_heard_once_and_answers_without_an_id_are_malformed() {
    let setup = Setup::new().await;
    let [mut instance, mut other] = setup.several().await;
    let call = setup.cache.clear(String::new()).to_all_instances();
    let mut answers = call.within(LONG).expect(2).send().await.unwrap();
    let request = instance.next().await;
    let answer = |body: &str| instance.answer(&request, body);
    instance.send(&request, answer("1")).await;
    instance.send(&request, answer("2")).await;
    let mut nameless = answer("3");
    nameless.headers.remove("rpc-instance");
    instance.send(&request, nameless.clone()).await;
    nameless.headers.insert("rpc-instance", "x".repeat(256));
    instance.send(&request, nameless).await;
    setup.until_dropped(1, 2).await;
    other.serve("4").await;
    let mut heard = Vec::new();
    while let Some((id, cleared)) = answers.next().await {
        heard.push((id, cleared.unwrap()));
    }
    assert_eq!(heard, [("a".to_owned(), 1), ("b".to_owned(), 4)]);
}

#[tokio::test]
async fn an_answer_that_cannot_be_decoded_fails_alone() {
    let setup = Setup::new().await;
    let [mut instance, mut other] = setup.several().await;
    let call = setup.cache.clear(String::new()).to_all_instances();
    let mut answers = call.within(LONG).expect(2).send().await.unwrap();
    instance.serve("\"seven\"").await;
    let (id, result) = answers.next().await.unwrap();
    assert_eq!(id, "a");
    assert_eq!(result.unwrap_err().kind(), ErrorKind::BadReply);
    other.serve("7").await;
    assert_eq!(answers.next().await.unwrap().1.unwrap(), 7);
}

#[tokio::test]
async fn dropping_the_answers_cancels_the_call() {
    let setup = Setup::new().await;
    let topics = ["all", "cancel"].map(|kind| format!("rpc.{kind}.{}", setup.queue));
    let mut instance = FakeInstance::start(&setup.instances, "a", &topics).await;
    let send = async || {
        let call = setup.cache.hold().to_all_instances();
        call.within(LONG).expect(1).send().await.unwrap()
    };
    // A stream that has ended is not cancelled.
    let mut ended = send().await;
    instance.serve("1").await;
    assert_eq!(ended.next().await.unwrap().1.unwrap(), 1);
    drop(ended);

    let dropped = send().await;
    let request = instance.next().await;
    assert_eq!(request.kind.as_deref(), Some("hold"));
    drop(dropped);
    let notice = instance.next().await;
    assert_eq!(notice.kind.as_deref(), Some("cancel"));
    assert_eq!(notice.reply_to, request.reply_to);
    let id = request.correlation_id.clone().unwrap();
    let body = String::from_utf8_lossy(&notice.body).into_owned();
    assert!(body.contains(&id), "{body}");
    // The answers of a dropped call are late.
    instance
        .send(&request, instance.answer(&request, "1"))
        .await;
    setup.until_dropped(1, 0).await;
}

#[tokio::test]
async fn a_client_may_disable_the_cancellation_of_calls_to_all_instances() {
    let setup = Setup::with(|builder| builder.cancellation(false)).await;
    let topics = ["all", "cancel"].map(|kind| format!("rpc.{kind}.{}", setup.queue));
    let mut instance = FakeInstance::start(&setup.instances, "a", &topics).await;
    let call = || setup.cache.hold().to_all_instances().within(LONG);
    drop(call().send().await.unwrap());
    let first = instance.next().await;
    assert_eq!(first.kind.as_deref(), Some("hold"));
    // The notice would come before this request, which uses the same channel.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _answers = call().send().await.unwrap();
    assert_eq!(instance.next().await.kind.as_deref(), Some("hold"));
}

#[tokio::test]
async fn a_call_takes_one_place_of_the_limit_until_its_end() {
    let setup = Setup::with(|builder| builder.max_in_flight(1)).await;
    let mut instances = setup.several::<2>().await;
    let send = async |within: Duration| {
        let call = setup.cache.clear(String::new()).to_all_instances();
        call.within(within).expect(1).send().await
    };
    let mut first = send(LONG).await.unwrap();
    let error = send(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("limit of 1"), "{error}");
    instances[0].serve("1").await;
    first.next().await.unwrap().1.unwrap();
    // The stream has ended, although it exists.
    let second = send(LONG).await.unwrap();
    drop(second);
    drop(send(LONG).await.unwrap());
    drop(first);
}

#[tokio::test]
async fn closing_the_connection_is_the_last_item() {
    let setup = Setup::new().await;
    let mut instances = setup.several::<2>().await;
    let call = setup.cache.clear(String::new()).to_all_instances();
    let mut answers = call.within(LONG).send().await.unwrap();
    instances[0].serve("1").await;
    assert_eq!(answers.next().await.unwrap().0, "a");
    instances[1].next().await;
    setup.connection.close().await;
    let (id, result) = answers.next().await.unwrap();
    assert_eq!(id, "");
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.may_have_executed());
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_json_client_calls_all_instances_in_json() {
    let setup = Setup::with(ClientBuilder::json).await;
    let [mut instance] = setup.several().await;
    let call = setup.cache.clear("a".to_owned()).to_all_instances();
    let mut answers = call.within(LONG).send().await.unwrap();
    let request = instance.serve("1").await;
    assert_eq!(request.content_type.as_deref(), Some("application/json"));
    assert_eq!(&request.body[..], br#"{"prefix":"a"}"#);
    assert_eq!(answers.next().await.unwrap().1.unwrap(), 1);
}

#[tokio::test]
async fn calls_that_cannot_have_answers_are_refused() {
    let setup = Setup::new().await;
    let [mut instance] = setup.several().await;
    let error = setup.cache.forget().to_all_instances().send().await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(error.to_string().contains("Cache.forget"), "{error}");
    let plain = client_builder(&setup.connection).plain().build();
    let plain = CacheClient::new(plain).with_queue(&setup.queue);
    let error = plain.clear(String::new()).to_all_instances().send().await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(error.to_string().contains("plain"), "{error}");
    let bad = setup.cache.clear(String::new()).header("rpc-x", 1);
    let error = bad.to_all_instances().send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    // Nothing was sent.
    let call = setup.cache.clear(String::new()).to_all_instances();
    let _answers = call.within(LONG).send().await.unwrap();
    assert_eq!(instance.next().await.kind.as_deref(), Some("clear"));
}

#[tokio::test]
async fn a_call_in_a_handler_inherits_its_deadline_and_headers() {
    let setup = Setup::new().await;
    let [mut instance] = setup.several().await;
    let context = Context::builder()
        .propagating_header("tenant", "a")
        .deadline(std::time::Instant::now() + Duration::from_millis(500))
        .build();
    let begun = Instant::now();
    let call = setup.cache.clear(String::new()).to_all_instances();
    let mut answers = context.scope(call.within(LONG).send()).await.unwrap();
    let request: PeerMessage = instance.next().await;
    assert_eq!(request.headers.get_as("tenant"), Some("a"));
    assert!(answers.next().await.is_none());
    assert!(begun.elapsed() < LONG / 2);
}

/// A service whose handler calls all caches, in a task of its own, and keeps the last item.
#[rpc]
trait Front {
    async fn hold();
}

struct Caller {
    cache: CacheClient,
    last: tokio::sync::mpsc::UnboundedSender<(String, ErrorKind)>,
}

impl Front for Caller {
    async fn hold(&self) {
        let call = self.cache.hold().to_all_instances().within(LONG);
        let last = self.last.clone();
        let context = Context::current().unwrap();
        tokio::spawn(context.scope(async move {
            let mut answers = call.send().await.unwrap();
            while let Some((id, result)) = answers.next().await {
                last.send((id, result.unwrap_err().kind())).unwrap();
            }
        }));
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn a_call_in_a_handler_ends_when_the_caller_drops_its_own() {
    let setup = Setup::new().await;
    let topics = ["all", "cancel"].map(|kind| format!("rpc.{kind}.{}", setup.queue));
    let mut instance = FakeInstance::start(&setup.instances, "a", &topics).await;
    let (last, mut items) = tokio::sync::mpsc::unbounded_channel();
    let caller = Caller {
        cache: setup.cache.clone(),
        last,
    };
    let queue = unique_queue("front");
    let dispatcher = FrontDispatcher::new(caller).with_queue(&queue);
    let _server = start(&setup.instances, dispatcher).await;
    let front = FrontClient::new(setup.client.clone()).with_queue(&queue);
    let call = tokio::spawn(front.hold());
    assert_eq!(instance.next().await.kind.as_deref(), Some("hold"));
    call.abort();
    let item = items.recv().await.unwrap();
    assert_eq!(item, (String::new(), ErrorKind::Cancelled));
    assert_eq!(instance.next().await.kind.as_deref(), Some("cancel"));
}

#[tokio::test]
async fn layers_see_one_request_and_one_empty_response() {
    let setup = Setup::new().await;
    let mut instances = setup.several::<2>().await;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = {
        let seen = seen.clone();
        move |inner: Client| {
            let seen = seen.clone();
            service_fn(move |mut request: Request| {
                let (seen, inner) = (seen.clone(), inner.clone());
                request.headers_mut().insert("layer", "was here");
                async move {
                    let method = request.method().map(str::to_owned);
                    let response = inner.oneshot(request).await?;
                    seen.lock().unwrap().push((method, response.body().clone()));
                    Ok::<_, RpcError>(response)
                }
            })
        }
    };
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new()))
        .layer(tower::layer::layer_fn(record))
        .service(setup.client.clone());
    let cache = CacheClient::new(service).with_queue(&setup.queue);
    let call = cache.clear(String::new()).to_all_instances();
    let mut answers = call.within(LONG).expect(2).send().await.unwrap();
    for instance in &mut instances {
        let request = instance.serve("1").await;
        assert_eq!(request.headers.get_as("layer"), Some("was here"));
        assert_eq!(answers.next().await.unwrap().1.unwrap(), 1);
    }
    assert!(answers.next().await.is_none());
    let seen = seen.lock().unwrap();
    let nil = Response::result(rpc_core::ContentType::MessagePack, &()).unwrap();
    assert_eq!(*seen, [(Some("clear".to_owned()), nil.body().clone())]);
}

#[tokio::test]
async fn a_layer_that_fails_after_the_request_was_sent_cancels_the_call() {
    let setup = Setup::new().await;
    let topics = ["all", "cancel"].map(|kind| format!("rpc.{kind}.{}", setup.queue));
    let mut instance = FakeInstance::start(&setup.instances, "a", &topics).await;
    let inner = setup.client.clone();
    let failing = service_fn(move |request: Request| {
        let inner = inner.clone();
        async move {
            inner.oneshot(request).await?;
            Err::<Response, _>(RpcError::new(ErrorKind::Overloaded, "too much"))
        }
    });
    // The layer's error may be retried, but the request may not.
    let service = RetryLayer::new(RetryPolicy::new()).layer(failing);
    let cache = CacheClient::new(service).with_queue(&setup.queue);
    let call = cache.lock(String::new()).to_all_instances();
    let error = call.within(LONG).send().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Overloaded), "{error:?}");
    assert_eq!(instance.next().await.kind.as_deref(), Some("lock"));
    assert_eq!(instance.next().await.kind.as_deref(), Some("cancel"));
}

#[tokio::test]
async fn a_layer_that_answers_alone_gives_the_only_answer() {
    let answering =
        service_fn(
            |request: Request| async move { Response::result(request.content_type(), &5_u64) },
        );
    let cache = CacheClient::new(answering);
    let call = cache.clear(String::new()).to_all_instances();
    let mut answers = call.send().await.unwrap();
    let (id, cleared) = answers.next().await.unwrap();
    assert_eq!((id.as_str(), cleared.unwrap()), ("", 5));
    assert!(answers.next().await.is_none());
}

fn direct() -> (CacheClient<CacheDispatcher<Shelf>>, Arc<AtomicUsize>) {
    let stopped = Arc::new(AtomicUsize::new(0));
    let shelf = Shelf {
        stopped: stopped.clone(),
    };
    (CacheClient::new(CacheDispatcher::new(shelf)), stopped)
}

#[tokio::test]
async fn the_direct_form_gives_one_answer() {
    let (cache, _) = direct();
    let call = cache.clear("abc".to_owned()).to_all_instances();
    let mut answers = call.send().await.unwrap();
    let (id, cleared) = answers.next().await.unwrap();
    assert_eq!((id.as_str(), cleared.unwrap()), ("direct", 3));
    assert!(answers.next().await.is_none());
    let locked = cache.lock("me".to_owned()).to_all_instances().send().await;
    let (_, locked) = locked.unwrap().next().await.unwrap();
    match locked.unwrap_err() {
        CallError::App(CacheError::Locked { by }) => assert_eq!(by, "me"),
        CallError::Rpc(error) => panic!("{error:?}"),
    }
    let error = cache.forget().to_all_instances().send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
}

#[tokio::test]
async fn the_direct_form_ends_at_the_time_limit_and_when_it_is_dropped() {
    let (cache, stopped) = direct();
    let hold = |within| cache.hold().to_all_instances().within(within).send();
    let mut answers = hold(Duration::from_millis(50)).await.unwrap();
    let (id, result) = answers.next().await.unwrap();
    assert_eq!(id, "direct");
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(answers.next().await.is_none());
    assert_eq!(stopped.load(Ordering::SeqCst), 1);
    let answers = hold(LONG).await.unwrap();
    tokio::task::yield_now().await;
    drop(answers);
    eventually("the handler is stopped", async || {
        (stopped.load(Ordering::SeqCst) == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn futures_and_streams_of_answers_are_send() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    fn is_stream<T: futures_util::stream::FusedStream + Unpin + Send>(_: &T) {}
    let (cache, _) = direct();
    let answers = is_send(cache.clear(String::new()).to_all_instances().send());
    is_stream(&answers.await.unwrap());
    let connection = broker().await.connect().await;
    let cache = CacheClient::new(client(&connection));
    drop(is_send(
        cache.clear(String::new()).to_all_instances().send(),
    ));
}
