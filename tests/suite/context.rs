//! The context of a handler, and the settings that nested calls inherit.

use std::time::{Duration, Instant};

use rpc_core::{
    Connection, Context, ErrorKind, RpcError, Server, ServerBuilder, ServerHandle, rpc,
};
use rpc_tests::unique_queue;
use tokio::sync::mpsc;

use super::{Description, Probe, SampleClient, SampleDispatcher, Setup, client, client_builder};
use crate::broker;

/// A service that runs the test's closure as its handler.
#[rpc]
trait Front {
    async fn run(#[ctx] cx: Context);
    #[rpc(blocking)]
    fn block(#[ctx] cx: Context);
    /// Replies with a header, in success and in failure.
    async fn answer(succeed: bool, header: String, #[ctx] cx: Context) -> Result<u8, String>;
}

struct Script<F>(F);

impl<F, R> Front for Script<F>
where
    F: Fn(Context) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    async fn run(&self, cx: Context) {
        assert_eq!(Context::current().unwrap().method(), "run");
        (self.0)(cx).await;
    }

    fn block(&self, cx: Context) {
        tokio::runtime::Handle::current().block_on((self.0)(cx));
    }

    async fn answer(&self, succeed: bool, header: String, cx: Context) -> Result<u8, String> {
        cx.set_reply_header(header, 7);
        if succeed { Ok(1) } else { Err("no".to_owned()) }
    }
}

/// A service that runs a script which calls the sample service, and the script's reports.
struct Chain<T> {
    front: FrontClient,
    reports: mpsc::UnboundedReceiver<T>,
    setup: Setup,
    _server: ServerHandle,
}

impl<T: Send + 'static> Chain<T> {
    async fn new<R: Future<Output = T> + Send + 'static>(
        script: impl Fn(Context, SampleClient) -> R + Send + Sync + 'static,
    ) -> Self {
        Self::with(|server| server, script).await
    }

    async fn with<R: Future<Output = T> + Send + 'static>(
        options: impl FnOnce(ServerBuilder) -> ServerBuilder,
        script: impl Fn(Context, SampleClient) -> R + Send + Sync + 'static,
    ) -> Self {
        let setup = broker().await.sample().await;
        let client = setup.sample.clone();
        let (report, reports) = mpsc::unbounded_channel();
        let script = move |cx| {
            let (script, report) = (script(cx, client.clone()), report.clone());
            async move {
                let _ = report.send(script.await); // The test may have ended before its scripts.
            }
        };
        let (front, server) = serve(&setup.connection, options, script).await;
        Self {
            front,
            reports,
            setup,
            _server: server,
        }
    }

    async fn report(&mut self) -> T {
        tokio::time::timeout(Duration::from_secs(20), self.reports.recv())
            .await
            .expect("a report in time")
            .expect("a script")
    }
}

async fn serve<F, R>(
    connection: &Connection,
    options: impl FnOnce(ServerBuilder) -> ServerBuilder,
    script: F,
) -> (FrontClient, ServerHandle)
where
    F: Fn(Context) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let queue = unique_queue("front");
    let dispatcher = FrontDispatcher::new(Script(script)).with_queue(&queue);
    let server = options(Server::builder(connection).service(dispatcher));
    let server = server.build().start().await.unwrap();
    let front = FrontClient::new(client(connection)).with_queue(&queue);
    (front, server)
}

/// An empty script.
async fn nothing(_: Context, _: SampleClient) {}

fn remaining(seen: Result<Description, RpcError>) -> Duration {
    Duration::from_millis(seen.unwrap().remaining_millis.unwrap())
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn the_context_has_the_service_the_method_and_typed_headers() {
    let mut chain = Chain::new(|cx, _| async move {
        (
            format!("{}.{}", cx.service(), cx.method()),
            cx.header_as::<String>("tenant"),
            cx.header_as::<u8>("attempt"),
            cx.header_as::<bool>("dry-run"),
            cx.header_as::<u8>("tenant"),
            cx.headers().iter().count(),
        )
    })
    .await;
    let call = chain.front.run().header("tenant", "a").header("attempt", 2);
    call.header("dry-run", true).await.unwrap();
    assert_eq!(
        chain.report().await,
        (
            "Front.run".to_owned(),
            Some("a".to_owned()),
            Some(2),
            Some(true),
            None,
            3
        )
    );
}

#[tokio::test]
async fn reply_headers_reach_the_caller_with_a_value_and_with_an_error() {
    let chain = Chain::new(nothing).await;
    for succeed in [true, false] {
        let call = chain.front.answer(succeed, "version".to_owned());
        let (answer, headers) = call.with_headers().await;
        assert_eq!(answer.ok(), succeed.then_some(1));
        assert_eq!(headers.get_as("version"), Some(7));
    }
}

#[tokio::test]
async fn an_invalid_reply_header_is_a_fault() {
    let chain = Chain::new(nothing).await;
    for name in ["rpc-redelivered".to_owned(), "x".repeat(256)] {
        let (answer, headers) = chain.front.answer(true, name).with_headers().await;
        let error = answer.unwrap_err();
        let error = error.rpc().unwrap();
        assert_eq!(error.kind(), ErrorKind::BadReply, "{error}");
        assert!(headers.get("version").is_none());
    }
}

#[tokio::test]
async fn a_nested_call_inherits_the_deadline_of_its_handler() {
    let mut chain = Chain::new(|_, sample| async move { sample.describe().await }).await;
    chain.front.run().timeout(8 * SECOND).await.unwrap();
    let left = remaining(chain.report().await);
    assert!(left <= 8 * SECOND && left > SECOND, "{left:?}");
}

#[tokio::test]
async fn a_nested_call_of_a_blocking_handler_inherits_its_deadline() {
    let mut chain = Chain::new(|_, sample| async move { sample.describe().await }).await;
    chain.front.block().timeout(8 * SECOND).await.unwrap();
    let left = remaining(chain.report().await);
    assert!(left <= 8 * SECOND && left > SECOND, "{left:?}");
}

#[tokio::test]
async fn the_earlier_of_own_and_inherited_deadline_applies() {
    let mut chain = Chain::new(|_, sample| async move {
        let sooner = sample.describe().timeout(4 * SECOND).await;
        (sooner, sample.describe().timeout(60 * SECOND).await)
    })
    .await;
    chain.front.run().timeout(8 * SECOND).await.unwrap();
    let (sooner, later) = chain.report().await;
    assert!(remaining(sooner) <= 4 * SECOND);
    assert!(remaining(later) <= 8 * SECOND);
}

#[tokio::test]
async fn an_inherited_deadline_does_not_extend_the_clients_timeout() {
    let setup = broker().await.sample().await;
    let client = client_builder(&setup.connection).timeout(4 * SECOND);
    let sample = SampleClient::new(client.build()).with_queue(&setup.queue);
    let patient = Context::builder().timeout(60 * SECOND).build();
    assert!(remaining(patient.scope(sample.describe()).await) <= 4 * SECOND);
}

#[tokio::test]
async fn a_nested_call_without_time_left_fails_at_once_and_is_not_sent() {
    let setup = broker().await.sample().await;
    let direct = SampleClient::new(SampleDispatcher::new(setup.probe.clone()));
    for late in [Duration::ZERO, SECOND] {
        let cx = Context::builder().deadline(Instant::now() - late).build();
        let patience = 60 * SECOND;
        for answer in [
            cx.scope(setup.sample.hold()).await,
            cx.scope(setup.sample.hold().timeout(patience)).await,
            cx.scope(direct.hold()).await,
        ] {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            assert!(!error.may_have_executed(), "{error}");
        }
    }
    setup.sample.add(1, 1).await.unwrap();
    assert_eq!(setup.probe.begun(), 0);
}

#[tokio::test]
async fn the_error_of_a_call_names_the_inherited_deadline() {
    let setup = broker().await.sample().await;
    let cx = Context::builder().service("Front").method("run");
    let cx = cx.timeout(Duration::from_millis(100)).build();
    let error = cx.scope(setup.sample.hold()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("of Front.run"), "{error}");
    let own = setup.sample.hold().timeout(Duration::from_millis(10));
    let cx = Context::builder().timeout(60 * SECOND).build();
    let error = cx.scope(own).await.unwrap_err();
    assert!(!error.to_string().contains("is inherited"), "{error}");
}

#[tokio::test]
async fn propagating_headers_reach_the_end_of_the_chain_and_others_the_next_service() {
    let mut chain = Chain::new(|cx, sample| async move {
        let local = cx.header_as::<String>("local");
        (local, sample.describe().await.unwrap().tenant)
    })
    .await;
    let next = chain.front.clone();
    let script = move |_| {
        let next = next.clone();
        async move { next.run().await.unwrap() }
    };
    let (first, _server) = serve(&chain.setup.connection, |server| server, script).await;
    let call = first.run().propagating_header("tenant", "a");
    call.header("local", "b").await.unwrap();
    assert_eq!(chain.report().await, (None, Some("a".to_owned())));
}

#[tokio::test]
async fn a_nested_calls_own_header_replaces_the_inherited_one() {
    let mut chain = Chain::new(|cx, sample| async move {
        assert!(cx.is_propagating("tenant"));
        sample
            .describe()
            .header("tenant", "b")
            .await
            .unwrap()
            .tenant
    })
    .await;
    let call = chain.front.run().propagating_header("tenant", "a");
    call.await.unwrap();
    assert_eq!(chain.report().await.as_deref(), Some("b"));
}

#[tokio::test]
async fn a_server_may_mark_headers_as_propagating() {
    let mut chain = Chain::with(
        |server| {
            let server = server.propagate_header("tenant");
            server.propagate_header("rpc-deadline")
        },
        |_, sample| async move { sample.describe().await.unwrap().tenant },
    )
    .await;
    chain.front.run().header("tenant", "a").await.unwrap();
    assert_eq!(chain.report().await.as_deref(), Some("a"));
    chain.front.run().await.unwrap();
    assert_eq!(chain.report().await, None);
}

#[tokio::test]
async fn headers_of_calls_and_contexts_replace_a_clients_default_headers() {
    let setup = broker().await.sample().await;
    let client = client_builder(&setup.connection).header("tenant", "a");
    let sample =
        SampleClient::new(client.priority(1).persistent().build()).with_queue(&setup.queue);
    let tenant = async |call: rpc_core::Call<Result<Description, RpcError>>| {
        call.await.unwrap().tenant.unwrap()
    };
    assert_eq!(tenant(sample.describe()).await, "a");
    let own = sample.describe().header("tenant", "b");
    assert_eq!(tenant(own).await, "b");
    let cx = Context::builder().propagating_header("tenant", "c").build();
    let inheriting = cx.sync_scope(|| sample.describe());
    assert_eq!(tenant(inheriting).await, "c");
}

#[tokio::test]
async fn a_clients_default_header_may_propagate() {
    let mut chain =
        Chain::new(|_, sample| async move { sample.describe().await.unwrap().tenant }).await;
    let connection = &chain.setup.connection;
    let client = client_builder(connection);
    let client = client.propagating_header("tenant", "a").build();
    let script = {
        let next = chain.front.clone();
        move |_| {
            let next = next.clone();
            async move { next.run().await.unwrap() }
        }
    };
    let queue = unique_queue("front");
    let dispatcher = FrontDispatcher::new(Script(script)).with_queue(&queue);
    let _server = super::start(connection, dispatcher).await;
    let first = FrontClient::new(client).with_queue(&queue);
    first.run().await.unwrap();
    assert_eq!(chain.report().await.as_deref(), Some("a"));
}

#[tokio::test]
async fn a_spawned_task_inherits_only_within_a_scope() {
    let mut chain = Chain::new(|cx, sample| async move {
        let call = sample.clone();
        let scoped = tokio::spawn(cx.scope(async move { call.describe().await }));
        let call = sample.clone();
        let alone = tokio::spawn(async move { call.describe().await });
        // The call is made in the handler and inherits from it.
        let spawned = tokio::spawn(sample.describe());
        let blocking = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Handle::current();
            cx.sync_scope(|| runtime.block_on(sample.describe()))
        });
        let mut tenants = Vec::new();
        for task in [scoped, alone, spawned, blocking] {
            let seen = task.await.unwrap().unwrap();
            tenants.push((
                seen.tenant.is_some(),
                seen.remaining_millis.unwrap() <= 8000,
            ));
        }
        tenants
    })
    .await;
    let call = chain.front.run().timeout(8 * SECOND);
    call.propagating_header("tenant", "a").await.unwrap();
    let (inherits, alone) = ((true, true), (false, false));
    assert_eq!(chain.report().await, [inherits, alone, inherits, inherits]);
}

#[tokio::test]
async fn a_call_in_an_empty_scope_inherits_nothing() {
    let mut chain = Chain::new(|_, sample| async move {
        Context::default().scope(sample.describe()).await.unwrap()
    })
    .await;
    let call = chain.front.run().timeout(8 * SECOND);
    call.propagating_header("tenant", "a").await.unwrap();
    let seen = chain.report().await;
    assert_eq!(seen.tenant, None);
    assert!(seen.remaining_millis.unwrap() > 8000);
}

#[tokio::test]
async fn dropping_a_call_cancels_the_whole_chain() {
    let chain = Chain::new(|_, sample| async move { sample.hold().await.map(drop) }).await;
    let next = chain.front.clone();
    let script = move |_| {
        let next = next.clone();
        async move { next.run().await.unwrap() }
    };
    let (first, _server) = serve(&chain.setup.connection, |server| server, script).await;
    let call = tokio::spawn(first.run().into_future());
    chain.setup.probe.until_begun(1).await;
    call.abort();
    chain.setup.probe.until_dropped(1).await;
}

#[tokio::test]
async fn cancelling_a_call_cancels_its_scoped_and_blocking_calls() {
    let mut chain = Chain::new(|cx, sample| async move {
        // The spawned task outlives its handler.
        let scoped = tokio::spawn(cx.scope(sample.hold()));
        scoped.await.unwrap().unwrap_err()
    })
    .await;
    // The script of an asynchronous handler is dropped with the handler.
    let call = tokio::spawn(chain.front.block().into_future());
    chain.setup.probe.until_begun(1).await;
    call.abort();
    let error = chain.report().await;
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(error.to_string().contains("Front.block"), "{error}");
    chain.setup.probe.until_dropped(1).await;
    let cx = Context::builder().cancelled().build();
    let error = cx.scope(chain.setup.sample.hold()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!error.may_have_executed());
}

#[tokio::test]
async fn nested_direct_calls_inherit() {
    let sample = SampleClient::new(SampleDispatcher::new(Probe::default()));
    let (report, mut reports) = mpsc::unbounded_channel();
    let front = FrontClient::new(FrontDispatcher::new(Script(move |cx: Context| {
        let (sample, report) = (sample.clone(), report.clone());
        async move {
            assert_eq!((cx.service(), cx.method()), ("Front", "run"));
            report.send(sample.describe().await.unwrap()).unwrap();
        }
    })));
    let call = front.run().timeout(8 * SECOND);
    call.propagating_header("tenant", "a").await.unwrap();
    let seen = reports.recv().await.unwrap();
    assert_eq!(seen.tenant.as_deref(), Some("a"));
    assert!(seen.remaining_millis.unwrap() <= 8000);
    let (answer, headers) = front
        .answer(false, "version".to_owned())
        .with_headers()
        .await;
    assert_eq!(answer.unwrap_err().app().map(String::as_str), Some("no"));
    assert_eq!(headers.get_as("version"), Some(7));
    assert!(Context::current().is_none());
}

#[tokio::test]
async fn a_handler_can_be_called_with_a_hand_made_context() {
    let cx = Context::builder()
        .service("Front")
        .method("answer")
        .correlation_id("id")
        .app_id("app")
        .user_id("guest")
        .delivery_count(2)
        .timeout(8 * SECOND)
        .header("tenant", "a")
        .build();
    let handler = Script(|_| std::future::ready(()));
    let answer = handler.answer(true, "version".to_owned(), cx.clone()).await;
    assert_eq!(answer, Ok(1));
    assert_eq!(cx.reply_headers().get_as("version"), Some(7));
    assert_eq!(cx.correlation_id(), Some("id"));
    assert_eq!((cx.app_id(), cx.user_id()), (Some("app"), Some("guest")));
    assert_eq!((cx.redelivered(), cx.delivery_count()), (true, 2));
    assert!(!cx.is_cancelled() && cx.remaining().unwrap() <= 8 * SECOND);
}
