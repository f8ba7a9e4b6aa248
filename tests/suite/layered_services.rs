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

use super::{Probe, SampleClient, SampleDispatcher, client};
use crate::broker;

/// A layer that lets requests with a token pass.
fn authenticate()
-> FilterLayer<impl Fn(Request) -> Result<Request, RpcError> + Clone + Send + Sync + 'static> {
    FilterLayer::new(|request: Request| match request.headers().get("token") {
        Some(_) => Ok(request),
        None => Err(RpcError::new(ErrorKind::PermissionDenied, "no token")),
    })
}

/// A sample service with layers around its dispatcher.
struct Bed {
    connection: Connection,
    queue: String,
    probe: Probe,
    sample: SampleClient,
}

impl Bed {
    async fn new() -> Self {
        let connection = broker().await.connect().await;
        let queue = unique_queue("layered");
        let sample = SampleClient::new(client(&connection)).with_queue(&queue);
        Self {
            connection,
            queue,
            probe: Probe::default(),
            sample,
        }
    }

    fn dispatcher(&self) -> SampleDispatcher<Probe> {
        SampleDispatcher::new(self.probe.clone()).with_queue(&self.queue)
    }

    async fn serve(&self, service: impl Serve) -> ServerHandle {
        let server = Server::builder(&self.connection).service(service).build();
        server.start().await.unwrap()
    }

    /// Calls with a token, and without one.
    async fn assert_guarded(&self) {
        let error = self.sample.add(1, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.to_string(), "no token");
        assert!(!error.may_have_executed());
        let answer = self.sample.add(1, 2).header("token", "a").await;
        assert_eq!(answer.unwrap(), 3);
    }
}

#[tokio::test]
async fn a_layer_may_wrap_one_service_of_a_server() {
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

/// A tower service written by a user.
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
async fn the_dispatcher_is_found_in_layers_of_every_kind() {
    let bed = Bed::new().await;
    let closure = layer_fn(|service: SampleDispatcher<Probe>| {
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
async fn a_layer_that_hides_its_dispatcher_is_an_error_with_advice() {
    let bed = Bed::new().await;
    let hiding = ServiceBuilder::new().buffer(8).service(bed.dispatcher());
    let server = Server::builder(&bed.connection).service(hiding).build();
    let error = server.start().await.unwrap_err();
    assert!(matches!(error, ServeError::InvalidService { .. }));
    assert!(error.to_string().contains("layered_service"), "{error}");

    let two = tower::util::Either::<_, SampleDispatcher<Probe>>::Left(Both(
        bed.dispatcher(),
        OpenDispatcher::new(Door),
    ));
    let server = Server::builder(&bed.connection).service(two).build();
    let error = server.start().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("Sample") && text.contains("Open"), "{text}");
}

/// A service that passes calls to the first of two.
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
async fn a_layered_service_has_the_options_of_its_dispatcher() {
    let bed = Bed::new().await;
    let options = QueueOptions::classic().max_priority(5);
    let layer = authenticate();
    let layered = || layer.layer(bed.dispatcher().with_queue_options(options.clone()));
    let server = bed.serve(layered()).await;
    // A queue declared with different options would be refused.
    let plain = Server::builder(&bed.connection).service(bed.dispatcher());
    let error = plain.build().start().await.unwrap_err();
    assert!(matches!(error, ServeError::QueueRefused { .. }), "{error}");

    let call = bed.sample.hold_once().header("token", "a");
    let call = tokio::spawn(call);
    bed.probe.until_begun(1).await;
    // The request was acknowledged before its handler ran.
    drop(server);
    let _server = bed.serve(layered()).await;
    let blocked = bed.sample.block(0).header("token", "a").await;
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
async fn a_layered_service_refuses_unknown_methods() {
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
async fn a_limit_around_one_service_counts_only_its_calls() {
    let bed = Bed::new().await;
    let limit = tower::limit::ConcurrencyLimitLayer::new(1);
    let _server = bed.serve(limit.layer(bed.dispatcher())).await;
    let calls: Vec<_> = (0..4).map(|_| tokio::spawn(bed.sample.hold())).collect();
    bed.probe.until_begun(1).await;
    bed.probe.release(4);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bed.probe.most_running(), 1);
}
