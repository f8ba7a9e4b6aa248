//! Layers around one of a server's services.

use std::task::{Context, Poll};
use std::time::Duration;

use rpc_core::{
    BoxError, Connection, ErrorKind, QueueOptions, Request, Response, RpcError, Serve, ServeError,
    Server, ServerHandle, Service, rpc,
};
use rpc_tests::unique_queue;
use tower::filter::FilterLayer;
use tower::layer::layer_fn;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceBuilder, ServiceExt};

use super::{BenchClient, BenchDispatcher, Probe, client};
use crate::broker;

/// A layer that lets through what has a token.
fn authenticate()
-> FilterLayer<impl Fn(Request) -> Result<Request, RpcError> + Clone + Send + Sync + 'static> {
    FilterLayer::new(|request: Request| match request.headers().get("token") {
        Some(_) => Ok(request),
        None => Err(RpcError::new(ErrorKind::PermissionDenied, "no token")),
    })
}

/// A bench service with layers around its dispatcher.
struct Bed {
    connection: Connection,
    queue: String,
    probe: Probe,
    bench: BenchClient,
}

impl Bed {
    async fn new() -> Self {
        let connection = broker().await.connect().await;
        let queue = unique_queue("layered");
        let bench = BenchClient::new(client(&connection)).with_queue(&queue);
        Self {
            connection,
            queue,
            probe: Probe::default(),
            bench,
        }
    }

    fn dispatcher(&self) -> BenchDispatcher<Probe> {
        BenchDispatcher::new(self.probe.clone()).with_queue(&self.queue)
    }

    async fn serve(&self, service: impl Serve) -> ServerHandle {
        let server = Server::builder(&self.connection).service(service).build();
        server.start().await.unwrap()
    }

    /// Calls with and without a token.
    async fn assert_guarded(&self) {
        let error = self.bench.add(1, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.to_string(), "no token");
        assert!(!error.may_have_executed());
        let answer = self.bench.add(1, 2).header("token", "a").await;
        assert_eq!(answer.unwrap(), 3);
    }
}

#[tokio::test]
async fn a_layer_goes_around_one_service_of_a_server() {
    let bed = Bed::new().await;
    let guarded = ServiceBuilder::new()
        .layer(authenticate())
        .concurrency_limit(8)
        .service(bed.dispatcher());
    let open = unique_queue("open");
    let _server = Server::builder(&bed.connection)
        .service(guarded)
        .service(OpenDispatcher::new(Door).with_queue(&open))
        .build()
        .start()
        .await
        .unwrap();
    bed.assert_guarded().await;
    let door = OpenClient::new(client(&bed.connection)).with_queue(&open);
    door.knock().await.unwrap();
}

#[rpc]
trait Open {
    async fn knock();
}

struct Door;

impl Open for Door {
    async fn knock(&self) {}
}

/// A service of the user's own.
#[derive(Clone)]
struct Own<S>(S);

impl<S> Service<Request> for Own<S>
where
    S: Service<Request, Response = Response, Error: Into<BoxError>>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = futures_util::future::MapErr<S::Future, fn(S::Error) -> BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        futures_util::TryFutureExt::map_err(self.0.call(request), Into::into)
    }
}

#[tokio::test]
async fn whatever_the_layers_are_the_dispatcher_in_them_is_found() {
    let bed = Bed::new().await;
    let closure = layer_fn(|service: BenchDispatcher<Probe>| {
        tower::service_fn(move |request| service.clone().oneshot(request))
    });
    let server = bed
        .serve(authenticate().layer(closure.layer(bed.dispatcher())))
        .await;
    bed.assert_guarded().await;
    server.shutdown().await.unwrap();
    let boxed = BoxCloneSyncService::new(authenticate().layer(bed.dispatcher()));
    let server = bed.serve(boxed).await;
    bed.assert_guarded().await;
    server.shutdown().await.unwrap();
    let server = bed
        .serve(Own(authenticate().layer(Own(bed.dispatcher()))))
        .await;
    bed.assert_guarded().await;
    server.shutdown().await.unwrap();
    let buffered = ServiceBuilder::new()
        .buffer(8)
        .rate_limit(100, Duration::from_millis(1))
        .layer(authenticate())
        .into_inner();
    let server = Server::builder(&bed.connection)
        .layered_service(bed.dispatcher(), buffered)
        .build();
    let server = server.start().await.unwrap();
    bed.assert_guarded().await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_layer_that_hides_its_dispatcher_is_an_error_with_a_remedy() {
    let bed = Bed::new().await;
    let hiding = ServiceBuilder::new().buffer(8).service(bed.dispatcher());
    let server = Server::builder(&bed.connection).service(hiding).build();
    let error = server.start().await.unwrap_err();
    assert!(matches!(error, ServeError::InvalidService { .. }));
    assert!(error.to_string().contains("layered_service"), "{error}");

    let two = tower::util::Either::<_, BenchDispatcher<Probe>>::Left(Both(
        bed.dispatcher(),
        OpenDispatcher::new(Door),
    ));
    let server = Server::builder(&bed.connection).service(two).build();
    let error = server.start().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("Bench") && text.contains("Open"), "{text}");
}

/// Calls the first of two.
#[derive(Clone)]
struct Both<A, B>(A, #[allow(dead_code)] B);

impl<A: Service<Request>, B> Service<Request> for Both<A, B> {
    type Response = A::Response;
    type Error = A::Error;
    type Future = A::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> A::Future {
        self.0.call(request)
    }
}

#[tokio::test]
async fn the_options_of_a_layered_service_are_its_dispatchers() {
    let bed = Bed::new().await;
    let options = QueueOptions::classic().max_priority(5);
    let layer = authenticate();
    let layered = || layer.layer(bed.dispatcher().with_queue_options(options.clone()));
    let server = bed.serve(layered()).await;
    // A queue with these options is another one.
    let plain = Server::builder(&bed.connection).service(bed.dispatcher());
    let error = plain.build().start().await.unwrap_err();
    assert!(matches!(error, ServeError::QueueRefused { .. }), "{error}");

    let call = bed.bench.hold_once().header("token", "a");
    let call = tokio::spawn(call);
    bed.probe.until_begun(1).await;
    // It was acknowledged before it ran.
    drop(server);
    let _server = bed.serve(layered()).await;
    let blocked = bed.bench.block(0).header("token", "a").await;
    assert_eq!(blocked.unwrap(), 0);
    assert_eq!(bed.probe.begun(), 1);
    call.abort();
}

#[rpc]
trait Larger {
    async fn add(a: u64, b: u64) -> u64;
    async fn subtract(a: u64, b: u64) -> u64;
}

#[tokio::test]
async fn a_layered_service_refuses_methods_that_it_does_not_have() {
    let bed = Bed::new().await;
    let service = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(8)
        .service(bed.dispatcher());
    let _server = bed.serve(service).await;
    let larger = LargerClient::new(client(&bed.connection)).with_queue(&bed.queue);
    assert_eq!(larger.add(1, 2).await.unwrap(), 3);
    let error = larger.subtract(1, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    assert!(!error.may_have_executed());
}

#[tokio::test]
async fn a_limit_around_one_service_counts_its_calls_alone() {
    let bed = Bed::new().await;
    let limit = tower::limit::ConcurrencyLimitLayer::new(1);
    let _server = bed.serve(limit.layer(bed.dispatcher())).await;
    let calls: Vec<_> = (0..4).map(|_| tokio::spawn(bed.bench.hold())).collect();
    bed.probe.until_begun(1).await;
    bed.probe.release(4);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bed.probe.most_running(), 1);
}
