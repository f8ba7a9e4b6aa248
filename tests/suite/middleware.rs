//! tower layers on both sides.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_core::middleware::{RetryLayer, RetryPolicy};
use rpc_core::{
    CallError, Connection, ErrorKind, Request, Response, RpcError, ServerBuilder, ServerHandle, rpc,
};
use rpc_tests::unique_queue;
use tower::layer::layer_fn;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower::util::MapRequestLayer;
use tower::{ServiceBuilder, ServiceExt};

use super::{SampleClient, SampleError, client, client_builder};
use crate::broker;

#[tokio::test]
async fn a_server_layer_sees_requests_and_may_refuse_them() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let count = tower::filter::FilterLayer::new(move |request: Request| {
        counted.fetch_add(1, Ordering::SeqCst);
        match request.headers().get("tenant") {
            Some(_) => Ok(request),
            None => Err(RpcError::new(ErrorKind::BadRequest, "no tenant")),
        }
    });
    let setup = broker()
        .await
        .sample_with(|server| server.layer(count))
        .await;
    let error = setup.sample.add(1, 2).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::BadRequest, "no tenant".to_owned())
    );
    assert_eq!(
        setup.sample.add(1, 2).header("tenant", "a").await.unwrap(),
        3
    );
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

/// A layer that appends to the header `tenant`.
fn append(
    text: &'static str,
) -> MapRequestLayer<impl Fn(Request) -> Request + Clone + Send + Sync + 'static> {
    MapRequestLayer::new(move |mut request: Request| {
        let so_far = request
            .headers()
            .get("tenant")
            .and_then(|value| value.as_str())
            .unwrap_or_default()
            .to_owned();
        request.headers_mut().insert("tenant", so_far + text);
        request
    })
}

#[tokio::test]
async fn server_layers_run_in_the_order_of_their_addition() {
    let setup = broker()
        .await
        .sample_with(|server| server.layer(append("a")).layer(append("b")))
        .await;
    assert_eq!(
        setup.sample.describe().await.unwrap().tenant.as_deref(),
        Some("ab")
    );
}

#[tokio::test]
async fn a_panicking_layer_is_a_fault() {
    let panicking = MapRequestLayer::new(|_: Request| -> Request { panic!("as requested") });
    let setup = broker()
        .await
        .sample_with(|server| server.layer(panicking))
        .await;
    assert_eq!(
        setup.sample.add(1, 2).await.unwrap_err().kind(),
        ErrorKind::Panicked
    );
}

#[tokio::test]
async fn tower_layers_wrap_a_client() {
    let setup = broker().await.sample().await;
    // Opens the reply queue before the timed call.
    setup.sample.add(1, 2).await.unwrap();
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_millis(100)))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(client(&setup.connection));
    let sample = SampleClient::new(service).with_queue(&setup.queue);
    assert_eq!(sample.add(1, 2).await.unwrap(), 3);
    let error = sample.hold().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.to_string(), "the time limit of a layer passed");
    assert!(error.may_have_executed());
    let error = sample
        .hold()
        .timeout(Duration::from_millis(10))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn the_first_layer_around_a_client_is_the_outermost() {
    let setup = broker().await.sample().await;
    let service = ServiceBuilder::new()
        .layer(append("a"))
        .layer(append("b"))
        .service(client(&setup.connection));
    let sample = SampleClient::new(service).with_queue(&setup.queue);
    assert_eq!(
        sample.describe().await.unwrap().tenant.as_deref(),
        Some("ab")
    );
}

#[tokio::test]
async fn a_client_sheds_load() {
    let setup = broker().await.sample().await;
    let service = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(client(&setup.connection));
    let sample = SampleClient::new(service).with_queue(&setup.queue);
    let held = tokio::spawn(sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let error = sample.add(1, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(!error.may_have_executed());
    assert!(error.is_retryable());
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.is::<tower::load_shed::error::Overloaded>());
    setup.probe.release(1);
    held.await.unwrap().unwrap();
    assert_eq!(sample.add(1, 2).await.unwrap(), 3);
}

#[tokio::test]
async fn a_server_layer_sees_the_callers_identity() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let look = MapRequestLayer::new(move |request: Request| {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let ids = [
            request.correlation_id(),
            request.app_id(),
            request.user_id(),
        ];
        seen.send((ids.map(text), request.redelivered())).unwrap();
        request
    });
    let client_side = look.clone();
    let setup = broker()
        .await
        .sample_with(|server| server.layer(look))
        .await;
    let service = ServiceBuilder::new()
        .layer(client_side)
        .service(client(&setup.connection));
    let sample = SampleClient::new(service).with_queue(&setup.queue);
    let seen_by_handler = sample.describe().await.unwrap();
    let none = [const { None::<String> }; 3];
    assert_eq!(requests.recv().await.unwrap(), (none, false));
    let ([correlation_id, app_id, user_id], redelivered) = requests.recv().await.unwrap();
    assert_eq!(correlation_id, seen_by_handler.correlation_id);
    assert_eq!(app_id, seen_by_handler.app_id);
    assert!(correlation_id.is_some() && app_id.is_some());
    assert_eq!((user_id, redelivered), (None, false));
}

/// Minimum wait of the third call at a rate of two calls per 200 ms.
const RATE_PERIOD: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_rate_limit_around_a_client_is_shared_through_a_buffer() {
    let setup = broker().await.sample().await;
    let service = ServiceBuilder::new()
        .buffer(8)
        .rate_limit(2, RATE_PERIOD)
        .service(client(&setup.connection));
    let sample = SampleClient::new(service).with_queue(&setup.queue);
    assert_rate_is_limited(&sample.clone(), &sample).await;
}

#[tokio::test]
async fn a_rate_limit_around_a_server_is_shared_through_a_buffer() {
    let limit = || ServiceBuilder::new().buffer(8).rate_limit(2, RATE_PERIOD);
    let setup = broker()
        .await
        .sample_with(|server| server.layer(limit().into_inner()))
        .await;
    assert_rate_is_limited(&setup.sample, &setup.sample).await;
}

async fn assert_rate_is_limited<S: rpc_core::RpcService>(
    first: &SampleClient<S>,
    second: &SampleClient<S>,
) {
    let started = std::time::Instant::now();
    assert_eq!(first.add(1, 2).await.unwrap(), 3);
    assert_eq!(second.add(1, 2).await.unwrap(), 3);
    assert_eq!(second.add(1, 2).await.unwrap(), 3);
    assert!(
        started.elapsed() >= RATE_PERIOD / 2,
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_concurrency_limit_around_a_server_applies_to_all_its_calls() {
    let setup = broker()
        .await
        .sample_with(|server| server.layer(ConcurrencyLimitLayer::new(2)))
        .await;
    let calls: Vec<_> = (0..6)
        .map(|_| tokio::spawn(setup.sample.hold().into_future()))
        .collect();
    setup.probe.until_begun(2).await;
    setup.probe.release(6);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(setup.probe.most_running(), 2);
}

#[tokio::test]
async fn a_timeout_around_a_server_stops_its_handlers() {
    let limit = TimeoutLayer::new(Duration::from_millis(100));
    let setup = broker()
        .await
        .sample_with(|server| server.layer(limit))
        .await;
    let error = setup.sample.hold().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(error.to_string(), "the time limit of a layer passed");
    assert!(error.may_have_executed());
    setup.probe.until_dropped(1).await;
}

#[tokio::test]
async fn a_server_sheds_load() {
    let shed = |server: ServerBuilder| {
        server
            .layer(LoadShedLayer::new())
            .layer(ConcurrencyLimitLayer::new(1))
    };
    let setup = broker().await.sample_with(shed).await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let error = setup.sample.add(1, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(!error.may_have_executed());
    setup.probe.release(1);
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_layer_may_respond_with_an_application_error() {
    let refuse = layer_fn(|service| {
        tower::service_fn(move |request: Request| {
            let service: tower::util::BoxCloneSyncService<Request, Response, RpcError> =
                Clone::clone(&service);
            async move {
                match request.headers().get("tenant") {
                    Some(_) => service.oneshot(request).await,
                    None => Response::error(
                        request.content_type(),
                        &SampleError::DivisionByZero { dividend: -1 },
                    ),
                }
            }
        })
    });
    let setup = broker()
        .await
        .sample_with(|server| server.layer(refuse))
        .await;
    match setup.sample.divide(6, 3).await {
        Err(CallError::App(SampleError::DivisionByZero { dividend: -1 })) => {}
        other => panic!("{other:?}"),
    }
    let answer = setup.sample.divide(6, 3).header("tenant", "a").await;
    assert_eq!(answer.unwrap(), 2);
    // A method without an application error cannot decode one.
    let error = setup.sample.add(1, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadReply);
}

#[rpc]
trait Store {
    #[rpc(idempotent)]
    async fn get() -> u64;
    async fn put(n: u64);
}

struct Full;

impl Store for Full {
    async fn get(&self) -> u64 {
        7
    }

    async fn put(&self, _: u64) {}
}

/// Serves a store whose layer refuses every request. Returns its queue and the number of requests.
async fn refusing(
    connection: &Connection,
    refusal: impl Fn() -> RpcError + Clone + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>, ServerHandle) {
    let queue = unique_queue("store");
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let refuse = tower::filter::FilterLayer::new(move |_: Request| {
        counted.fetch_add(1, Ordering::SeqCst);
        Err::<Request, _>(refusal())
    });
    let server = rpc_core::Server::builder(connection)
        .service(StoreDispatcher::new(Full).with_queue(&queue))
        .layer(refuse)
        .build()
        .start()
        .await
        .unwrap();
    (queue, attempts, server)
}

#[tokio::test]
async fn calls_without_permission_are_not_retried() {
    let connection = broker().await.connect().await;
    let refusal = || RpcError::new(ErrorKind::PermissionDenied, "no token");
    let (queue, attempts, _server) = refusing(&connection, refusal).await;
    let client = client_builder(&connection).retry(RetryPolicy::new());
    let store = StoreClient::new(client.build()).with_queue(&queue);
    let error = store.get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.to_string(), "no token");
    assert!(!error.is_retryable() && !error.may_have_executed());
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn calls_refused_because_of_load_are_retried() {
    let connection = broker().await.connect().await;
    let refusal = || RpcError::new(ErrorKind::Overloaded, "too many calls");
    let (queue, attempts, _server) = refusing(&connection, refusal).await;
    let client = client_builder(&connection).retry(RetryPolicy::new().attempts(3));
    let store = StoreClient::new(client.build()).with_queue(&queue);
    let error = store.get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(error.is_retryable() && !error.may_have_executed());
    assert_eq!(attempts.swap(0, Ordering::SeqCst), 3);
    store.put(1).await.unwrap_err();
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refusal_after_the_handler_says_that_it_may_have_run() {
    let late = tower::util::ThenLayer::new(|_: Result<Response, RpcError>| async {
        Err::<Response, _>(RpcError::new(ErrorKind::PermissionDenied, "not for you"))
    });
    let setup = broker()
        .await
        .sample_with(|server| server.layer(late))
        .await;
    let error = setup.sample.add(1, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.may_have_executed());
}

#[tokio::test]
async fn a_client_layer_may_refuse_calls() {
    let setup = broker().await.sample().await;
    let refuse = tower::filter::FilterLayer::new(|_: Request| {
        let refusal = RpcError::new(ErrorKind::PermissionDenied, "not from here");
        Err::<Request, _>(refusal)
    });
    let service = ServiceBuilder::new()
        .layer(refuse)
        .service(client(&setup.connection));
    let sample = SampleClient::new(service).with_queue(&setup.queue);
    let error = sample.add(1, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.to_string(), "not from here");
    assert!(!error.may_have_executed());
}

#[tokio::test]
async fn a_timeout_inside_a_retry_layer_leaves_time_for_another_attempt() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("store");
    let _server = serve_hanging_once(&connection, &queue).await;
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new()))
        .timeout(Duration::from_millis(200))
        .service(client(&connection));
    let store = StoreClient::new(service).with_queue(&queue);
    assert_eq!(store.get().await.unwrap(), 7);
}

#[tokio::test]
async fn idempotent_calls_are_retried_according_to_the_policy() {
    let connection = broker().await.connect().await;
    let refusal = || RpcError::new(ErrorKind::Cancelled, "busy");
    let (queue, attempts, _server) = refusing(&connection, refusal).await;
    let client = |policy| client_builder(&connection).retry(policy).build();

    let store = StoreClient::new(client(RetryPolicy::new().attempts(3))).with_queue(&queue);
    let error = store.get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let text = error.to_string();
    assert!(
        text.starts_with("busy (the last of 3 attempts in "),
        "{text}"
    );
    assert_eq!(attempts.swap(0, Ordering::SeqCst), 3);
    store.put(1).await.unwrap_err();
    assert_eq!(attempts.swap(0, Ordering::SeqCst), 1);

    let never = client(RetryPolicy::never());
    let store = StoreClient::new(never.clone()).with_queue(&queue);
    store.get().await.unwrap_err();
    assert_eq!(attempts.swap(0, Ordering::SeqCst), 1);

    let layered = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new().attempts(4)))
        .service(never);
    let store = StoreClient::new(layered).with_queue(&queue);
    store.get().await.unwrap_err();
    assert_eq!(attempts.swap(0, Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_retried_call_that_times_out_reports_its_attempts() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("store");
    let attempts = Arc::new(AtomicUsize::new(0));
    let refuse_then_hang = tower::util::ThenLayer::new(move |_: Result<Response, RpcError>| {
        let is_first = attempts.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if !is_first {
                pending::<()>().await;
            }
            Err::<Response, _>(RpcError::new(ErrorKind::Overloaded, "too many calls"))
        }
    });
    let _server = rpc_core::Server::builder(&connection)
        .service(StoreDispatcher::new(Full).with_queue(&queue))
        .layer(refuse_then_hang)
        .build()
        .start()
        .await
        .unwrap();
    let client = client_builder(&connection).retry(RetryPolicy::new());
    let store = StoreClient::new(client.build()).with_queue(&queue);
    let limit = Duration::from_millis(500);
    let error = store.get().timeout(limit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = error.to_string();
    assert!(
        text.starts_with("no response within 500ms: is a server of Store running"),
        "{text}"
    );
    assert!(text.contains("the last of 2 attempts in "), "{text}");
    assert!(text.contains("the first failed: too many calls"), "{text}");
}

/// Serves a store whose first reply is never sent.
async fn serve_hanging_once(connection: &Connection, queue: &str) -> ServerHandle {
    let attempts = Arc::new(AtomicUsize::new(0));
    let hang_once = tower::util::ThenLayer::new(move |answer: Result<Response, RpcError>| {
        let is_first = attempts.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if is_first {
                pending::<()>().await;
            }
            answer
        }
    });
    rpc_core::Server::builder(connection)
        .service(StoreDispatcher::new(Full).with_queue(queue))
        .layer(hang_once)
        .build()
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_hanging_attempt_is_replaced_by_another() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("store");
    let _server = serve_hanging_once(&connection, &queue).await;
    let policy = RetryPolicy::new().attempt_timeout(Duration::from_millis(200));
    let client = client_builder(&connection).retry(policy).build();
    let store = StoreClient::new(client).with_queue(&queue);
    assert_eq!(store.get().await.unwrap(), 7);
}

#[tokio::test]
async fn cancelling_a_call_releases_requests_held_by_server_layers() {
    let closed = layer_fn(|_| tower::service_fn(|_| pending::<Result<Response, RpcError>>()));
    let setup = broker()
        .await
        .sample_with(|server| server.layer(closed).prefetch(1))
        .await;
    // Each call has the server to itself: the second is only cancelled because the first was.
    let briefly = Duration::from_millis(100);
    for _ in 0..2 {
        let error = setup.sample.add(1, 2).timeout(briefly).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
    }
    let patient = setup.sample.add(1, 2).timeout(Duration::from_secs(60));
    let dropped = tokio::time::timeout(briefly, patient.into_future());
    dropped.await.unwrap_err();
    let stopping = tokio::time::timeout(Duration::from_secs(20), setup.server.shutdown());
    stopping.await.expect("the server stops in time").unwrap();
}
