//! Spans and metrics of calls. Each test runs clients, servers and subscribers on one thread.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use opentelemetry::trace::{SpanKind, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use rpc_core::middleware::RetryPolicy;
use rpc_core::{Call, ErrorKind, Request, RpcError, Server, ServerBuilder, rpc};
use rpc_tests::unique_queue;
use tower::util::MapRequestLayer;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};
use tracing::{Dispatch, Event};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

use super::fakes::FakeInstance;
use super::{SampleClient, Setup, client, client_builder, coalesce, serve, start, until_late};
use crate::broker;

/// Subscribes to the spans and events of this thread.
pub(crate) fn listen(layer: impl Layer<Registry> + Send + Sync) -> DefaultGuard {
    // With a single subscriber, the first thread that reaches a callsite caches for all threads whether it is enabled.
    static OTHERS: LazyLock<[Dispatch; 2]> =
        LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));
    LazyLock::force(&OTHERS);
    set_default(Registry::default().with(layer))
}

/// A subscriber that records the spans of calls and their fields.
#[derive(Clone, Default)]
pub(crate) struct Spans(Arc<Mutex<Vec<Span>>>);

#[derive(Clone, Default)]
pub(crate) struct Span {
    id: Option<Id>,
    name: &'static str,
    pub(crate) fields: BTreeMap<&'static str, String>,
    threads: HashSet<ThreadId>,
}

impl Spans {
    pub(crate) fn listen(&self) -> DefaultGuard {
        listen(self.clone())
    }

    /// The only span of that name.
    pub(crate) fn only(&self, name: &str) -> Span {
        let spans = self.0.lock().unwrap();
        let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        match found[..] {
            [only] => only.clone(),
            ref found => panic!("{} spans {name}", found.len()),
        }
    }
}

impl Span {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

impl Visit for Span {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut span = Span {
            id: Some(id.clone()),
            name: attributes.metadata().name(),
            ..Span::default()
        };
        attributes.record(&mut span);
        self.0.lock().unwrap().push(span);
    }

    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        let span = spans.iter_mut().rfind(|span| span.id.as_ref() == Some(id));
        if let Some(span) = span {
            span.threads.insert(thread::current().id());
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        let span = spans.iter_mut().rfind(|span| span.id.as_ref() == Some(id));
        if let Some(span) = span {
            values.record(span);
        }
    }

    /// Events within a span are recorded as fields of the span.
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        let current = context.current_span();
        let span = spans
            .iter_mut()
            .rfind(|span| span.id.as_ref() == current.id());
        if let Some(span) = span {
            event.record(span);
        }
    }
}

#[tokio::test]
async fn the_server_span_of_a_call_is_the_child_of_its_client_span() {
    let setup = broker().await.sample().await;
    let spans = Spans::default();
    let _listening = spans.listen();
    setup.sample.add(1, 2).await.unwrap();
    let (client, server) = (spans.only("rpc.client"), spans.only("rpc.server"));
    for (span, kind) in [(&client, "client"), (&server, "server")] {
        assert_eq!(span.field("otel.name"), Some("Sample/add"));
        assert_eq!(span.field("otel.kind"), Some(kind));
        assert_eq!(span.field("otel.status_code"), None);
        assert_eq!(span.field("rpc.system.name"), Some("rpc-core"));
        assert_eq!(span.field("rpc.method"), Some("Sample/add"));
        assert_eq!(span.field("rpc.response.status_code"), Some("result"));
        assert_eq!(span.field("error.type"), None);
        assert_eq!(span.field("messaging.system"), Some("rabbitmq"));
        let destination = span.field("messaging.destination.name");
        assert_eq!(destination, Some(&*setup.queue));
        assert_eq!(span.field("messaging.message.body.size"), Some("7"));
    }
    let id = "messaging.message.conversation_id";
    assert_eq!(client.field(id).unwrap().len(), 36);
    assert_eq!(server.field(id), client.field(id));

    assert_eq!(client.field("trace_id").unwrap().len(), 32);
    assert_eq!(server.field("trace_id"), client.field("trace_id"));
    assert_eq!(server.field("parent_span_id"), client.field("span_id"));
    assert_ne!(server.field("span_id"), client.field("span_id"));
    assert_eq!(client.field("parent_span_id"), None);
}

#[tokio::test]
async fn the_span_of_a_call_to_all_instances_ends_with_its_answers() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("telemetry");
    let topic = format!("rpc.all.{queue}");
    let [mut instance] = FakeInstance::several(&connection, &topic).await;
    let sample = SampleClient::new(client(&connection)).with_queue(&queue);
    let (numbers, _recording) = record();
    let mut spans = Vec::new();
    for reads in [2, 1, 0] {
        let recorded = Spans::default();
        let _listening = recorded.listen();
        let call = sample.add(1, 2).to_all_instances().expect(1);
        let mut answers = call.within(Duration::from_secs(20)).send().await.unwrap();
        let request = instance.serve("3").await;
        let span = recorded.only("rpc.client");
        let sent = request.headers.get_as::<&str>("traceparent").unwrap();
        assert!(sent.contains(span.field("span_id").unwrap()));
        assert_eq!(span.field("rpc.response.status_code"), None);
        let during = numbers.take();
        assert_eq!(during["rpc.client.active_calls Sample/add"], 1.0);
        for _ in 0..reads {
            answers.next().await;
        }
        drop(answers);
        spans.push(recorded.only("rpc.client"));
        let after = numbers.take();
        // A snapshot sets the gauges to zero.
        assert_eq!(after["rpc.client.active_calls Sample/add"], -1.0);
        let outcome = if reads > 0 { "result" } else { "dropped" };
        let ended = format!("rpc.client.call.duration Sample/add {outcome}");
        assert_eq!(after[&ended], 1.0);
    }
    let status = |span: &Span| span.field("rpc.response.status_code").map(str::to_owned);
    let statuses: Vec<_> = spans.iter().map(|span| status(span).unwrap()).collect();
    // A reader who stops after the last answer has not dropped the call.
    assert_eq!(statuses, ["result", "result", "dropped"]);
    assert_eq!(spans[0].field("messaging.destination.name"), Some(&*queue));
    let recorded = Spans::default();
    let _listening = recorded.listen();
    let nowhere = sample.with_queue(unique_queue("nowhere")).add(1, 2);
    nowhere.to_all_instances().send().await.unwrap_err();
    let unroutable = recorded.only("rpc.client");
    assert_eq!(status(&unroutable).as_deref(), Some("unroutable"));
}

#[tokio::test]
async fn the_server_logs_the_message_of_a_panic() {
    let setup = broker().await.sample().await;
    let why = async |panics: Call<Result<(), RpcError>>| {
        let spans = Spans::default();
        let _listening = spans.listen();
        panics.await.unwrap_err();
        let span = spans.only("rpc.server");
        assert_eq!(span.field("message"), Some("the handler panicked"));
        span.field("panic").unwrap().to_owned()
    };
    assert_eq!(why(setup.sample.panic()).await, "as requested");
    assert_eq!(why(setup.sample.block_and_panic()).await, "as requested");
}

#[tokio::test]
async fn spans_record_the_outcome_of_a_call() {
    let setup = broker().await.sample().await;
    let status = async |call: &str| {
        let spans = Spans::default();
        let _listening = spans.listen();
        match call {
            "an application error" => drop(setup.sample.divide(1, 0).await.unwrap_err()),
            "a fault" => drop(setup.sample.panic().await.unwrap_err()),
            _ => {
                let late = setup.sample.hold().timeout(Duration::from_millis(50));
                late.await.unwrap_err();
                setup.probe.until_dropped(1).await;
            }
        }
        ["rpc.client", "rpc.server"].map(|name| {
            let span = spans.only(name);
            let field = |name| span.field(name).unwrap_or_default().to_owned();
            assert_eq!(field("error.type"), field("rpc.response.status_code"));
            (field("error.type"), field("otel.status_code"))
        })
    };
    let is = |kind: &str, status: &str| (kind.to_owned(), status.to_owned());
    assert_eq!(
        status("an application error").await,
        [is("error", "ERROR"), is("error", "")]
    );
    assert_eq!(
        status("a fault").await,
        [is("panicked", "ERROR"), is("panicked", "ERROR")]
    );
    let [client, _] = status("no answer in time").await;
    assert_eq!(client, is("timeout", "ERROR"));
}

#[tokio::test]
async fn blocking_handlers_run_in_the_server_span() {
    let setup = broker().await.sample().await;
    let spans = Spans::default();
    let _listening = spans.listen();
    setup.sample.block(1).await.unwrap();
    assert_eq!(spans.only("rpc.client").threads.len(), 1);
    assert_eq!(spans.only("rpc.server").threads.len(), 2);
}

/// Serves a sample service that records the `traceparent` of its requests.
async fn noting() -> (Setup, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let note = MapRequestLayer::new(move |request: Request| {
        let value = request.headers().get("traceparent");
        let value = value.and_then(|value| value.as_str()).unwrap_or("none");
        noted.lock().unwrap().push(value.to_owned());
        request
    });
    let setup = broker()
        .await
        .sample_with(|server| server.layer(note))
        .await;
    (setup, seen)
}

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[tokio::test]
async fn without_a_subscriber_traces_are_not_started_but_passed_on() {
    let (setup, seen) = noting().await;
    setup.sample.add(1, 2).await.unwrap();
    let call = setup.sample.add(1, 2).header("traceparent", TRACEPARENT);
    call.await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["none", TRACEPARENT]);
}

#[tokio::test]
async fn a_trace_given_as_a_header_continues() {
    let (setup, seen) = noting().await;
    let spans = Spans::default();
    let _listening = spans.listen();
    let call = setup.sample.add(1, 2).header("traceparent", TRACEPARENT);
    call.await.unwrap();
    let (client, server) = (spans.only("rpc.client"), spans.only("rpc.server"));
    assert_eq!(client.field("parent_span_id"), Some("00f067aa0ba902b7"));
    assert_eq!(server.field("parent_span_id"), client.field("span_id"));
    // The parent of the handler's own calls, with the incoming flags.
    let span_id = server.field("span_id").unwrap();
    let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span_id}-00");
    assert_eq!(*seen.lock().unwrap(), [expected]);
}

/// A service that calls another.
#[rpc]
trait Front {
    async fn sum(a: u64, b: u64) -> u64;
}

struct Asking(SampleClient);

impl Front for Asking {
    async fn sum(&self, a: u64, b: u64) -> u64 {
        self.0.add(a, b).await.unwrap()
    }
}

#[tokio::test]
async fn nested_calls_belong_to_the_trace_of_their_handler() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let queue = unique_queue("front");
    let dispatcher = FrontDispatcher::new(Asking(setup.sample.clone())).with_queue(&queue);
    let _server = start(&setup.connection, dispatcher).await;
    let front = FrontClient::new(client(&setup.connection)).with_queue(&queue);
    let spans = Spans::default();
    let _listening = spans.listen();
    assert_eq!(front.sum(1, 2).await.unwrap(), 3);
    let spans = spans.0.lock().unwrap();
    assert_eq!(spans.len(), 4);
    for pair in spans.windows(2) {
        assert_eq!(pair[1].field("parent_span_id"), pair[0].field("span_id"));
        assert_eq!(pair[1].field("trace_id"), pair[0].field("trace_id"));
    }
}

#[tokio::test]
async fn opentelemetry_sees_one_trace_across_services() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let connection = broker.connect().await;
    let queue = unique_queue("front");
    let dispatcher = FrontDispatcher::new(Asking(setup.sample.clone())).with_queue(&queue);
    let _server = start(&connection, dispatcher).await;
    let front = FrontClient::new(client(&broker.connect().await)).with_queue(&queue);

    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let listening = listen(layer);
    assert_eq!(front.sum(1, 2).await.unwrap(), 3);
    assert_eq!(setup.sample.divide(6, 3).await.unwrap(), 2);
    drop(listening);

    let spans = exporter.get_finished_spans().unwrap();
    let find = |name: &str, kind: SpanKind| -> SpanData {
        let mut found = spans
            .iter()
            .filter(|span| span.name == name && span.span_kind == kind);
        found.next().unwrap_or_else(|| panic!("{name}")).clone()
    };
    let chain = [
        find("Front/sum", SpanKind::Client),
        find("Front/sum", SpanKind::Server),
        find("Sample/add", SpanKind::Client),
        find("Sample/add", SpanKind::Server),
    ];
    for pair in chain.windows(2) {
        let (parent, child) = (&pair[0].span_context, &pair[1].span_context);
        assert_eq!(pair[1].parent_span_id, parent.span_id());
        assert_eq!(child.trace_id(), parent.trace_id());
    }
    assert!(chain[1].parent_span_is_remote);
    assert!(chain.iter().all(|span| span.status == Status::Unset));
    let other = find("Sample/divide", SpanKind::Server);
    assert_ne!(
        other.span_context.trace_id(),
        chain[0].span_context.trace_id()
    );
    let attribute = chain[3]
        .attributes
        .iter()
        .find(|attribute| attribute.key.as_str() == "rpc.method");
    assert_eq!(attribute.unwrap().value.as_str(), "Sample/add");
}

/// The values recorded on this thread since the last snapshot; gauges at their present value.
pub(crate) struct Numbers(Snapshotter);

impl Numbers {
    pub(crate) fn take(&self) -> BTreeMap<String, f64> {
        let snapshot = self.0.snapshot().into_vec().into_iter();
        let numbers = snapshot.map(|(key, _, _, value)| {
            let mut labels: Vec<_> = key
                .key()
                .labels()
                .filter(|label| !matches!(label.key(), "rpc.system.name" | "rpc.service"))
                .map(|label| label.value().to_owned())
                .collect();
            labels.dedup(); // A failure has its outcome in two labels.
            labels.insert(0, key.key().name().to_owned());
            let number = match (key.kind(), value) {
                (MetricKind::Counter, DebugValue::Counter(count)) => count as f64,
                (_, DebugValue::Gauge(level)) => level.0,
                (_, DebugValue::Histogram(values)) => values.len() as f64,
                other => panic!("{other:?}"),
            };
            (labels.join(" "), number)
        });
        numbers.collect()
    }
}

/// Records all metrics of this thread.
pub(crate) fn record() -> (Numbers, impl Sized) {
    let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
    let numbers = Numbers(recorder.snapshotter());
    (numbers, metrics::set_default_local_recorder(recorder))
}

#[tokio::test]
async fn calls_are_counted_by_method_and_outcome() {
    let setup = broker().await.sample().await;
    let (numbers, _recording) = record();
    setup.sample.add(1, 2).await.unwrap();
    setup.sample.add(1, 2).await.unwrap();
    setup.sample.divide(1, 0).await.unwrap_err();
    setup.sample.panic().await.unwrap_err();
    let numbers = numbers.take();
    for side in ["client", "server"] {
        let count = |what: &str| numbers.get(&format!("rpc.{side}.{what}")).copied();
        assert_eq!(count("call.duration Sample/add result"), Some(2.0));
        assert_eq!(count("call.duration Sample/divide error"), Some(1.0));
        assert_eq!(count("call.duration Sample/panic panicked"), Some(1.0));
        assert_eq!(count("active_calls Sample/add"), Some(0.0));
    }
    assert_eq!(numbers["rpc.server.queue.duration Sample/add"], 2.0);
    assert_eq!(numbers.get("rpc.server.redeliveries Sample/add"), None);
}

/// The sample service in a client's mistaken version.
#[rpc(name = "Sample")]
trait Misread {
    async fn add(a: u64, b: u64) -> String;
    async fn divide(dividend: i64, divisor: i64) -> i64;
}

#[tokio::test]
async fn an_undecodable_reply_is_counted_as_bad_reply() {
    let setup = broker().await.sample().await;
    let misread = MisreadClient::new(client(&setup.connection)).with_queue(&setup.queue);
    let (numbers, _recording) = record();
    for error in [
        misread.add(1, 2).await.unwrap_err(),
        misread.divide(1, 0).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::BadReply);
    }
    let numbers = numbers.take();
    for method in ["add", "divide"] {
        let of_client = format!("rpc.client.call.duration Sample/{method} bad_reply");
        assert_eq!(numbers.get(&of_client), Some(&1.0), "{numbers:?}");
    }
}

#[tokio::test]
async fn calls_in_flight_and_dropped_calls_are_counted() {
    let setup = broker().await.sample().await;
    let (numbers, _recording) = record();
    let call = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let during = numbers.take();
    assert_eq!(during["rpc.client.active_calls Sample/hold"], 1.0);
    assert_eq!(during["rpc.server.active_calls Sample/hold"], 1.0);
    call.abort();
    setup.probe.until_dropped(1).await;
    rpc_tests::eventually("both sides have ended", async || {
        let after = numbers.take();
        let level = |side: &str| after[&format!("rpc.{side}.active_calls Sample/hold")];
        (level("client") + level("server") == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn dropped_replies_are_counted() {
    let setup = broker().await.sample().await;
    let client = client_builder(&setup.connection)
        .cancellation(false)
        .build();
    let sample = SampleClient::new(client.clone()).with_queue(&setup.queue);
    let (numbers, _recording) = record();
    let call = tokio::spawn(sample.hold().into_future());
    setup.probe.until_begun(1).await;
    call.abort();
    call.await.unwrap_err();
    setup.probe.release(1);
    until_late(&client, 1).await;
    let numbers = numbers.take();
    assert_eq!(numbers["rpc.client.dropped_replies late"], 1.0);
    assert_eq!(numbers["rpc.client.call.duration Sample/hold dropped"], 1.0);
}

#[tokio::test]
async fn redeliveries_are_counted() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let (numbers, _recording) = record();
    let call = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    drop(setup.server);
    let other = broker.connect().await;
    let _server = serve(&other, &setup.queue, &setup.probe, |server| server).await;
    setup.probe.until_begun(2).await;
    setup.probe.release(1);
    call.await.unwrap().unwrap();
    assert_eq!(numbers.take()["rpc.server.redeliveries Sample/hold"], 1.0);
}

#[tokio::test]
async fn given_up_requests_are_counted() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let (numbers, _recording) = record();
    let limited = |server: ServerBuilder| server.delivery_limit(1);
    let call = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    drop(setup.server);
    let other = broker.connect().await;
    let _other = serve(&other, &setup.queue, &setup.probe, limited).await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    let numbers = numbers.take();
    assert_eq!(
        numbers["rpc.server.given_up Sample/hold delivery-limit"],
        1.0
    );
}

/// A service that is always too busy.
#[rpc]
trait Busy {
    #[rpc(idempotent)]
    async fn try_it();
}

struct Idle;

impl Busy for Idle {
    async fn try_it(&self) {}
}

#[tokio::test]
async fn retries_are_counted() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("busy");
    let refuse = tower::filter::FilterLayer::new(|_: Request| {
        Err::<Request, _>(RpcError::new(ErrorKind::Cancelled, "busy"))
    });
    let _server = Server::builder(&connection)
        .service(BusyDispatcher::new(Idle).with_queue(&queue))
        .layer(refuse)
        .build()
        .start()
        .await
        .unwrap();
    let policy = RetryPolicy::new().attempts(3);
    let client = client_builder(&connection).retry(policy).build();
    let (numbers, _recording) = record();
    let busy = BusyClient::new(client).with_queue(&queue);
    busy.try_it().await.unwrap_err();
    let numbers = numbers.take();
    assert_eq!(numbers["rpc.client.retries Busy/try_it"], 2.0);
    assert_eq!(
        numbers["rpc.client.call.duration Busy/try_it cancelled"],
        1.0
    );
}

#[tokio::test]
async fn spans_of_batched_calls_record_the_batch_size() {
    const CALLS: usize = 40;
    let connection = broker().await.connect().await;
    let queue = unique_queue("busy");
    let _server = start(&connection, BusyDispatcher::new(Idle).with_queue(&queue)).await;
    let client = connection.client_builder().coalesce(64).build();
    let busy = BusyClient::new(client).with_queue(&queue);
    let (numbers, _recording) = record();
    let spans = Spans::default();
    let _listening = spans.listen();
    let calls = (0..CALLS).map(|_| busy.try_it().into_future());
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    let numbers = numbers.take();
    for side in ["client", "server"] {
        let messages = numbers[&format!("rpc.{side}.batch.size")];
        assert!(messages < CALLS as f64 / 2.0, "{side}: {messages}");
        let spans = spans.0.lock().unwrap();
        let shared = spans.iter().filter(|span| {
            let count = span.field("messaging.batch.message_count");
            span.name == format!("rpc.{side}") && count.is_some_and(|count| count != "1")
        });
        assert!(shared.count() > CALLS / 2, "{side}");
    }
}

#[tokio::test]
async fn calls_share_messages_as_configured() {
    const CALLS: usize = 40;
    let setup = broker().await.sample().await;
    let (numbers, _recording) = record();
    let calls = (0..CALLS).map(|_| setup.sample.add(1, 2).into_future());
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    let numbers = numbers.take();
    let messages = |side: &str| numbers.get(&format!("rpc.{side}.batch.size")).copied();
    let (requests, replies) = (messages("client"), messages("server"));
    let are_shared = |messages: Option<f64>| messages.is_some_and(|count| count < CALLS as f64);
    match coalesce() {
        None => assert!(requests.is_none() && replies.is_some(), "{numbers:?}"),
        Some(0 | 1) => assert!(requests.is_none() && replies.is_none(), "{numbers:?}"),
        Some(_) => assert!(are_shared(requests) && replies.is_some(), "{numbers:?}"),
    }
}
