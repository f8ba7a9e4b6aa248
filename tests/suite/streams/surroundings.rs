//! Everything around a call works around a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rpc_core::instances::MethodKind;
use rpc_core::testing::{Peer, PeerMessage};
use rpc_core::{
    CallError, Connection, Context, ErrorKind, Request, RpcService, Server, Stream, rpc,
};
use rpc_tests::{eventually, unique_queue};
use tower::util::MapRequestLayer;
use tower::{Layer, ServiceBuilder};

use super::super::client_builder;
use super::{FeedClient, FeedDispatcher, LONG, Probe, Setup, all, next};

#[tokio::test]
async fn a_stream_has_the_context_of_its_call_and_headers_before_its_first_item() {
    let setup = Setup::new().await;
    let tenant = || setup.feed.tenants(3).header("tenant", "a");
    let items = tenant().await.unwrap();
    assert_eq!(items.headers().get_as("tenant"), Some("a"));
    let (read, error) = all(items).await;
    assert!(error.is_none());
    assert_eq!(read, vec![Some("a".to_owned()); 3]);
    let (items, headers) = tenant().with_headers().await;
    assert_eq!(headers.get_as("tenant"), Some("a"));
    assert_eq!(all(items.unwrap()).await.0.len(), 3);
}

/// A service whose streams call the feed.
#[rpc]
trait Relay {
    async fn relay(to: u64) -> impl Stream<Item = Option<String>>;
    async fn hold() -> impl Stream<Item = u64>;
}

struct Relaying(FeedClient);

impl Relay for Relaying {
    async fn relay(&self, to: u64) -> impl Stream<Item = Option<String>> {
        // The calls are made while the stream is driven.
        stream::iter(0..to).then(async |_| {
            let mut items = self.0.tenants(1).await.ok()?;
            items.next().await?.ok()?
        })
    }

    async fn hold(&self) -> impl Stream<Item = u64> {
        let items = self.0.held().await.expect("a stream");
        items.filter_map(async |number| number.ok())
    }
}

async fn relay(setup: &Setup) -> (RelayClient, rpc_core::ServerHandle) {
    let queue = unique_queue("relay");
    let relaying = Relaying(setup.feed.clone());
    let dispatcher = RelayDispatcher::new(relaying).with_queue(&queue);
    let server = super::super::start(&setup.serving, dispatcher).await;
    let client = client_builder(&setup.connection).build();
    (RelayClient::new(client).with_queue(queue), server)
}

#[tokio::test]
async fn calls_of_a_stream_inherit_headers_and_deadline() {
    let setup = Setup::new().await;
    let (relay, _server) = relay(&setup).await;
    let items = relay.relay(2).propagating_header("tenant", "b").await;
    let (read, error) = all(items.unwrap()).await;
    assert!(error.is_none());
    assert_eq!(read, vec![Some("b".to_owned()); 2]);

    let deadline = std::time::Instant::now() + Duration::from_millis(700);
    let mut items = relay.hold().deadline(deadline).await.unwrap();
    assert_eq!(next(&mut items).await.unwrap().unwrap(), 0);
    assert!(all(items).await.1.is_some());
    // The inner stream ends with the outer one.
    setup.probe.until_dropped(1).await;
    let mut items = relay.hold().await.unwrap();
    next(&mut items).await.unwrap().unwrap();
    drop(items);
    setup.probe.until_dropped(2).await;
}

#[tokio::test]
async fn a_stream_in_a_handler_ends_with_the_handlers_context() {
    let setup = Setup::new().await;
    let deadline = std::time::Instant::now() + Duration::from_millis(500);
    let cx = Context::builder().deadline(deadline).build();
    let items = cx.scope(setup.feed.held()).await.unwrap();
    let error = all(items).await.1.expect("a deadline is no end");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    setup.probe.until_dropped(1).await;
}

/// Counts the requests and the answers that a layer sees.
#[derive(Clone, Default)]
struct Seen(Arc<AtomicUsize>);

impl Seen {
    fn layer<S: RpcService>(&self, service: S) -> impl RpcService + use<S> {
        let requests = self.0.clone();
        let answers = self.0.clone();
        ServiceBuilder::new()
            .map_request(move |request: Request| {
                requests.fetch_add(1, Ordering::SeqCst);
                request
            })
            .map_response(move |response: rpc_core::Response| {
                answers.fetch_add(100, Ordering::SeqCst);
                assert!(response.body().is_empty());
                response
            })
            .service(service)
    }
}

#[tokio::test]
async fn layers_see_a_stream_as_one_request_and_its_first_answer() {
    let setup = Setup::new().await;
    let seen = Seen::default();
    let client = seen.layer(client_builder(&setup.connection).build());
    let feed = FeedClient::new(client).with_queue(&setup.queue);
    assert_eq!(all(feed.count(2_000).await.unwrap()).await.0.len(), 2_000);
    assert_eq!(seen.0.load(Ordering::SeqCst), 101);

    let queue = unique_queue("feed");
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let layer = MapRequestLayer::new(move |request: Request| {
        count.fetch_add(1, Ordering::SeqCst);
        request
    });
    let layered = layer.layer(FeedDispatcher::new(Probe::default()).with_queue(&queue));
    let server = Server::builder(&setup.serving).service(layered).build();
    let _server = server.start().await.unwrap();
    let feed = FeedClient::new(client_builder(&setup.connection).build()).with_queue(&queue);
    assert_eq!(all(feed.count(2_000).await.unwrap()).await.0.len(), 2_000);
    assert_eq!(feed.sum(stream::iter(0..3)).await.unwrap(), 3);
    let said = stream::iter(["a".to_owned()]);
    assert_eq!(all(feed.echo(said).await.unwrap()).await.0, ["a"]);
    assert_eq!(served.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_number_of_open_streams_is_limited() {
    let setup = Setup::with(|server| server.max_streams(2), |client| client).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(setup.feed.held().await.unwrap());
    }
    let error = setup.feed.held().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(!error.may_have_executed());
    let error = setup.feed.sum(stream::iter(0..3)).await.unwrap_err();
    assert!(matches!(error, CallError::Rpc(error) if error.kind() == ErrorKind::Overloaded));
    assert_eq!(setup.feed.single(1).await.unwrap(), 1);
    open.pop();
    let again = eventually("a place is free", async || setup.feed.held().await.ok());
    drop(again.await);
}

#[tokio::test]
async fn a_stream_takes_a_place_of_the_clients_limit_until_its_end() {
    let setup = Setup::with(|server| server, |client| client.max_in_flight(1)).await;
    let items = setup.feed.held().await.unwrap();
    let short = Duration::from_millis(300);
    let error = setup.feed.single(1).timeout(short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    drop(items);
    assert_eq!(setup.feed.single(1).await.unwrap(), 1);
}

#[tokio::test]
async fn items_beyond_the_message_limit_are_refused() {
    let broker = crate::broker().await;
    let small = Connection::builder(&broker.url).max_message_size(10_000);
    let small = small.open().await.unwrap();
    let (queue, probe) = (unique_queue("feed"), Probe::default());
    let _server = super::serve(&small, &queue, &probe, |server| server).await;
    let feed = FeedClient::new(client_builder(&small).build()).with_queue(&queue);
    let mut items = feed.endless(5_000).await.unwrap();
    assert_eq!(next(&mut items).await.unwrap().unwrap().len(), 5_000);
    let (_, error) = all(feed.endless(20_000).await.unwrap()).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::TooLarge);
    let long = stream::iter(["x".repeat(20_000)]).chain(stream::pending());
    // The item may be refused before the handler has returned its stream.
    let error = match feed.echo(long).await {
        Ok(heard) => all(heard).await.1.expect("no end"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn a_stream_cannot_go_to_all_instances() {
    let setup = Setup::new().await;
    let error = setup.feed.count(1).to_all_instances().send().await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(error.to_string().contains("stream"), "{error}");
}

#[tokio::test]
async fn plain_clients_and_plain_requests_get_a_reason() {
    let setup = Setup::new().await;
    let plain = client_builder(&setup.connection).plain().build();
    let error = FeedClient::new(plain)
        .with_queue(&setup.queue)
        .count(1)
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    assert!(!error.may_have_executed());

    let reply_to = unique_queue("rpc.reply.");
    let mut peer = Peer::open(&setup.connection, &reply_to, &[]).await.unwrap();
    let request = PeerMessage {
        kind: Some("count".to_owned()),
        correlation_id: Some("1".to_owned()),
        reply_to: Some(reply_to),
        body: "3".into(),
        ..PeerMessage::default()
    };
    peer.publish(&setup.queue, request).await.unwrap();
    let fault = tokio::time::timeout(LONG, peer.next()).await.unwrap();
    let fault = fault.expect("an answer");
    assert_eq!(fault.kind.as_deref(), Some("fault"));
    let text = String::from_utf8_lossy(&fault.body).into_owned();
    assert!(
        text.contains("bad_request") && text.contains("stream"),
        "{text}"
    );
}

#[tokio::test]
async fn descriptions_name_the_shapes() {
    let setup = Setup::new().await;
    let info = setup
        .connection
        .client()
        .describe("Feed")
        .on_queue(&setup.queue);
    let info = info.await.unwrap();
    let method = |name: &str| {
        info.methods
            .iter()
            .find(|method| method.name == name)
            .unwrap()
    };
    for (name, kind) in [
        ("count", MethodKind::ServerStreaming),
        ("sum", MethodKind::ClientStreaming),
        ("echo", MethodKind::Bidirectional),
        ("single", MethodKind::Unary),
    ] {
        assert_eq!(method(name).kind, kind, "{name}");
    }
    assert_eq!(method("count").result.rust, "u64");
    let [n, numbers] = &method("take").arguments[..] else {
        panic!("{:?}", method("take").arguments);
    };
    assert!(!n.stream && numbers.stream);
    assert_eq!(numbers.ty.rust, "u64");
    let failing = method("open_and_fail");
    assert_eq!(failing.error.as_ref().unwrap().rust, "FeedError");
    assert_eq!(failing.item_error.as_ref().unwrap().rust, "String");
}

#[tokio::test]
async fn statistics_count_open_streams_and_their_ends() {
    let setup = Setup::new().await;
    let client = setup.connection.client();
    let id = setup.server.instance_id().to_owned();
    let stats = async |name: &str| {
        let all = client.stats("Feed").await.unwrap();
        let own = all.into_iter().find(|stats| stats.id == id);
        let mut methods = own.expect("the server answers").methods.into_iter();
        methods.find(|method| method.name == name).unwrap()
    };
    let held = setup.feed.held().await.unwrap();
    let held_stats = stats("held").await;
    assert_eq!((held_stats.streams, held_stats.calls), (1, 0));
    drop(held);
    eventually("the stream has ended", async || {
        let held = stats("held").await;
        (held.streams == 0 && held.calls == 1).then_some(())
    })
    .await;
    all(setup.feed.count(3).await.unwrap()).await;
    all(setup.feed.fail_at(3).await.unwrap()).await;
    all(setup.feed.panic_at(3).await.unwrap()).await;
    setup.feed.sum(stream::iter(0..3)).await.unwrap();
    eventually("the streams are counted", async || {
        let (count, failed) = (stats("count").await, stats("fail_at").await);
        let (panicked, sum) = (stats("panic_at").await, stats("sum").await);
        let all = count.results == 1 && failed.errors == 1 && sum.results == 1;
        (all && panicked.faults.get("panicked") == Some(&1)).then_some(())
    })
    .await;
}
