//! Calls that are watched from outside, from end to end.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use rpc_core::instances::{
    TapAnswer, TapEvent, TapEventKind, TapItems, TapOutcome, TapRequest, TappedCall,
};
use rpc_core::{
    CallError, Client, Connection, ErrorKind, Server, ServerBuilder, ServerHandle, Stream, Tap,
    TapQuery, rpc,
};
use rpc_tests::{eventually, unique_queue};

use super::{Broker, LONG, Probe, SampleClient, SampleDispatcher, Setup, client};
use crate::{broker, fragile_broker};

/// Time in which instances that can answer do so. Tests with one service share a broker, so no test knows the number of instances.
const WHILE: Duration = Duration::from_secs(2);

/// A served sample service that allows to be watched.
async fn watched() -> Setup {
    broker().await.sample_with(|server| server.tap(true)).await
}

/// Selects the calls of one server.
fn query(client: &Client, server: &ServerHandle) -> TapQuery {
    let query = client.tap("Sample").instance(server.instance_id());
    query.within(WHILE)
}

impl Setup {
    fn query(&self) -> TapQuery {
        query(&client(&self.connection), &self.server)
    }

    async fn tap(&self) -> Tap {
        self.query().await.unwrap()
    }
}

async fn next(tap: &mut Tap) -> TapEvent {
    let event = tokio::time::timeout(LONG, tap.next()).await;
    event.expect("an event in time").expect("an event")
}

/// All events of a method's call: the request, those in between, and the answer.
struct Seen {
    call: TappedCall,
    request: TapRequest,
    between: Vec<TapEventKind>,
    answer: TapAnswer,
}

/// Reads the events of the next call, which runs alone.
async fn seen(tap: &mut Tap) -> Seen {
    let first = next(tap).await;
    let call = first.call.expect("a call");
    let TapEventKind::Request(request) = first.kind else {
        panic!("no request: {:?}", first.kind);
    };
    let mut between = Vec::new();
    loop {
        let event = next(tap).await;
        assert_eq!(event.call.as_ref(), Some(&call));
        assert_eq!(event.instance, first.instance);
        match event.kind {
            TapEventKind::Answer(answer) => {
                return Seen {
                    call,
                    request,
                    between,
                    answer,
                };
            }
            kind => between.push(kind),
        }
    }
}

/// Asserts that an instance has ended, and that it was the last; returns the reason.
async fn ended(tap: &mut Tap) -> Option<String> {
    loop {
        match next(tap).await.kind {
            TapEventKind::Ended { error } => {
                assert!(tap.next().await.is_none());
                return error;
            }
            TapEventKind::Skipped { .. } => {}
            kind => panic!("not the end: {kind:?}"),
        }
    }
}

/// Numbers of the events that were shown and skipped until both together are the expected number.
async fn counted(tap: &mut Tap, expected: u64) -> (u64, u64) {
    let (mut shown, mut skipped) = (0, 0);
    while shown + skipped < expected {
        match next(tap).await.kind {
            TapEventKind::Request(_) | TapEventKind::Answer(_) => shown += 1,
            TapEventKind::Skipped { events } => skipped += events,
            kind => panic!("{kind:?}"),
        }
    }
    assert_eq!(shown + skipped, expected);
    (shown, skipped)
}

async fn assert_next_is(tap: &mut Tap, method: &str) {
    let seen = seen(tap).await;
    assert_eq!(seen.call.method.as_deref(), Some(method));
}

#[tokio::test]
async fn a_watcher_sees_requests_and_results() {
    let setup = watched().await;
    let mut tap = setup.tap().await;
    assert_eq!(tap.instances().len(), 1);
    assert!(tap.refused().is_empty());
    let call = setup.sample.add(1, 2).header("tenant", "a");
    let call = call.header("Authorization", "s3cret").header("attempt", 2);
    assert_eq!(call.timeout(LONG).await.unwrap(), 3);
    let Seen {
        call,
        request,
        between,
        answer,
    } = seen(&mut tap).await;
    assert_eq!(call.method.as_deref(), Some("add"));
    assert!(call.correlation_id.is_some());
    assert_eq!(request.method, call.method);
    assert_eq!(request.queue, setup.queue);
    assert_eq!(request.app_id.as_deref(), Some(setup.connection.name()));
    assert!(!request.redelivered && !request.to_all);
    let left = request.remaining.unwrap();
    assert!(left <= LONG && left > LONG / 2, "{left:?}");
    let headers = &request.headers;
    assert_eq!(headers.left_out, 0);
    let header = |name: &str| headers.values.get(name).map(String::as_str);
    assert_eq!(header("tenant"), Some("a"));
    assert_eq!(header("attempt"), Some("2"));
    assert_eq!(header("Authorization"), Some("<hidden>"));
    assert!(!headers.values.keys().any(|name| name.starts_with("rpc-")));
    let content_type = Some("application/msgpack".to_owned());
    assert_eq!(request.body.content_type, content_type);
    assert_eq!(request.body.bytes, b"\x82\xa1a\x01\xa1b\x02");
    assert_eq!(request.body.len, request.body.bytes.len() as u64);
    assert!(!request.body.is_cut() && between.is_empty());
    let arguments = request.body.encoded().unwrap();
    assert_eq!(arguments.to_json().unwrap(), r#"{"a":1,"b":2}"#);
    assert_eq!(answer.outcome, TapOutcome::Result);
    assert!(answer.duration < LONG && answer.fault.is_none() && answer.items.is_none());
    let body = answer.body.unwrap();
    assert_eq!(
        (&*body.bytes, body.content_type),
        (&b"\x03"[..], content_type)
    );
}

#[tokio::test]
async fn a_watcher_sees_every_outcome() {
    let setup = watched().await;
    let mut tap = setup.tap().await;
    let sample = &setup.sample;
    let error = sample.divide(1, 0).await.unwrap_err();
    assert!(matches!(error, CallError::App(_)));
    let answer = seen(&mut tap).await.answer;
    assert_eq!(answer.outcome, TapOutcome::Error);
    let body = answer.body.unwrap();
    assert!(body.bytes.windows(8).any(|part| part == b"dividend"));

    assert_eq!(
        sample.panic().await.unwrap_err().kind(),
        ErrorKind::Panicked
    );
    let answer = seen(&mut tap).await.answer;
    assert_eq!((answer.outcome, &answer.body), (TapOutcome::Fault, &None));
    assert_eq!(answer.fault.unwrap().code, "panicked");

    sample.note("oneway".to_owned()).await.unwrap();
    let noted = seen(&mut tap).await;
    assert_eq!(noted.call.method.as_deref(), Some("note"));
    assert_eq!(noted.answer.outcome, TapOutcome::Result);

    // A request that the server refuses.
    let other = OtherSampleClient::new(client(&setup.connection)).with_queue(&setup.queue);
    let error = other.missing().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownMethod);
    let Seen {
        call,
        request,
        answer,
        ..
    } = seen(&mut tap).await;
    assert_eq!(call.method, None);
    assert_eq!(request.method.as_deref(), Some("missing"));
    assert_eq!(answer.fault.unwrap().code, "unknown_method");

    // A call that its caller drops.
    let held = tokio::spawn(sample.hold().into_future());
    setup.probe.until_begun(1).await;
    held.abort();
    let answer = seen(&mut tap).await.answer;
    assert_eq!(answer.outcome, TapOutcome::Fault);
    assert_eq!(answer.fault.unwrap().code, "cancelled");

    // A call to all instances.
    let mut answers = sample
        .add(1, 1)
        .to_all_instances()
        .within(WHILE)
        .send()
        .await
        .unwrap();
    while answers.next().await.is_some() {}
    assert!(seen(&mut tap).await.request.to_all);
}

/// A client of a service with the same name, and of another contract.
#[rpc]
trait OtherSample {
    async fn missing() -> u64;
}

#[tokio::test]
async fn a_watcher_sees_the_calls_that_it_selects() {
    let setup = watched().await;
    let (query, sample) = (|| setup.query(), &setup.sample);
    let [
        of_method,
        with_header,
        with_value,
        with_secret,
        errors,
        faults,
    ] = [
        query().method("add"),
        query().header("tenant"),
        query().header_value("tenant", "b"),
        query().header_value("token", "s3cret"),
        query().outcome(TapOutcome::Error),
        query().outcome(TapOutcome::Fault).method("panic"),
    ];
    let taps = [
        of_method,
        with_header,
        with_value,
        with_secret,
        errors,
        faults,
    ];
    let taps = join_all(taps.map(IntoFuture::into_future)).await;
    let taps: Vec<_> = taps.into_iter().map(Result::unwrap).collect();
    let Ok(
        [
            mut of_method,
            mut with_header,
            mut with_value,
            mut with_secret,
            mut errors,
            mut faults,
        ],
    ) = <[Tap; 6]>::try_from(taps)
    else {
        panic!("six taps");
    };
    sample.renamed().header("token", "s3cret").await.unwrap();
    sample.divide(1, 0).await.unwrap_err();
    sample.panic().await.unwrap_err();
    sample.echo(vec![]).header("tenant", "a").await.unwrap();
    sample.describe().header("tenant", "b").await.unwrap();
    sample.add(1, 2).await.unwrap();
    assert_next_is(&mut of_method, "add").await;
    assert_next_is(&mut with_header, "echo").await;
    assert_next_is(&mut with_header, "describe").await;
    assert_next_is(&mut with_value, "describe").await;
    for (tap, method, outcome) in [
        (&mut errors, "divide", TapOutcome::Error),
        (&mut faults, "panic", TapOutcome::Fault),
    ] {
        let seen = seen(tap).await;
        assert_eq!(seen.call.method.as_deref(), Some(method));
        assert!(seen.request.body.encoded().is_some());
        assert_eq!(seen.answer.outcome, outcome);
    }
    // Nothing else was shown.
    setup.server.shutdown().await.unwrap();
    for tap in [
        &mut of_method,
        &mut with_header,
        &mut with_value,
        &mut with_secret,
        &mut errors,
        &mut faults,
    ] {
        assert!(ended(tap).await.is_some());
    }
}

#[tokio::test]
async fn servers_show_no_calls_unless_they_are_told_to() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let error = setup.query().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(
        error.to_string().contains("`ServerBuilder::tap(true)`"),
        "{error}"
    );
    let silent = |server: ServerBuilder| server.tap(true).introspection(false);
    let setup = broker.sample_with(silent).await;
    let error = setup.query().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    let id = setup.server.instance_id();
    assert!(error.to_string().contains(id), "{error}");
    assert_eq!(setup.sample.add(1, 2).await.unwrap(), 3);
}

#[tokio::test]
async fn questions_of_other_shapes_are_refused() {
    let setup = watched().await;
    let long = "x".repeat(5000);
    let error = setup.query().method(long).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(!error.may_have_executed());
}

#[tokio::test]
async fn long_bodies_and_headers_are_cut() {
    let setup = watched().await;
    let mut tap = setup.tap().await;
    let long = vec![7; 100_000];
    let call = setup.sample.echo(long.clone());
    let call = call.header("a", "x".repeat(16 << 10)).header("b", "y");
    assert_eq!(call.await.unwrap(), long);
    let Seen {
        request, answer, ..
    } = seen(&mut tap).await;
    for body in [request.body, answer.body.unwrap()] {
        assert_eq!(body.bytes.len(), 16 << 10);
        assert!(body.len > 100_000 && body.is_cut());
        assert!(body.encoded().is_none());
    }
    assert!(request.headers.values.is_empty());
    assert_eq!(request.headers.left_out, 2);
}

#[tokio::test]
async fn the_rate_of_events_is_limited_and_the_others_are_counted() {
    const CALLS: u64 = 300;
    let setup = watched().await;
    let mut tap = setup.tap().await;
    // More than the 1 MiB that an instance shows in a second, many times over.
    for _ in 0..CALLS {
        assert_eq!(
            setup.sample.echo(vec![7; 16 << 10]).await.unwrap().len(),
            16 << 10
        );
    }
    let (shown, skipped) = counted(&mut tap, 2 * CALLS).await;
    assert!(shown >= 60 && skipped > 0, "{shown} {skipped}");
}

#[tokio::test]
async fn a_watcher_that_does_not_read_delays_no_call_and_learns_the_number_of_events() {
    const CALLS: u64 = 1000;
    let setup = watched().await;
    let mut tap = setup.tap().await;
    for n in 0..CALLS {
        assert_eq!(setup.sample.add(n, 1).await.unwrap(), n + 1);
    }
    let (shown, skipped) = counted(&mut tap, 2 * CALLS).await;
    // The window of the watcher and the events that wait for it at the server are fewer than all.
    assert!(shown > 500 && skipped > 0, "{shown} {skipped}");
    setup.sample.double(1).await.unwrap();
    assert_next_is(&mut tap, "double").await;
}

#[tokio::test]
async fn a_tap_ends_after_its_time() {
    let setup = watched().await;
    let query = setup.query().duration(Duration::from_millis(300));
    let mut tap = query.await.unwrap();
    assert_eq!(ended(&mut tap).await, None);
    setup.sample.add(1, 2).await.unwrap();
    assert!(tap.next().await.is_none());
}

#[tokio::test]
async fn eight_programs_watch_an_instance_and_a_dropped_one_leaves_its_place() {
    let setup = watched().await;
    let taps = join_all((0..8).map(|_| setup.tap())).await;
    let error = setup.query().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert_eq!(setup.sample.add(1, 2).await.unwrap(), 3);
    drop(taps);
    eventually("the places of all dropped watchers are free", async || {
        let taps = join_all((0..8).map(|_| setup.query().into_future())).await;
        taps.iter().all(Result::is_ok).then_some(())
    })
    .await;
}

#[tokio::test]
async fn watchers_take_no_place_of_streams_and_calls_and_count_nowhere() {
    let options = |server: ServerBuilder| server.tap(true).max_streams(0);
    let setup = broker().await.sample_with(options).await;
    let narrow = setup.connection.client_builder().max_in_flight(1).build();
    let mut taps = join_all([0, 1].map(|_| query(&narrow, &setup.server).into_future())).await;
    let sample = SampleClient::new(narrow.clone()).with_queue(&setup.queue);
    assert_eq!(sample.add(1, 2).await.unwrap(), 3);
    for tap in &mut taps {
        assert_next_is(tap.as_mut().unwrap(), "add").await;
    }
    let stats = narrow.stats("Sample").within(WHILE).await.unwrap();
    let mut own = stats.iter();
    let own = own
        .find(|stats| stats.id == setup.server.instance_id())
        .unwrap();
    let counted: u64 = own
        .methods
        .iter()
        .map(|method| method.calls + method.streams)
        .sum();
    assert_eq!(counted, 1);
    assert!(own.oldest.is_empty());
}

#[tokio::test]
async fn a_stopping_server_shows_the_last_answers_and_ends_the_tap() {
    let setup = watched().await;
    let mut tap = setup.tap().await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    let probe = setup.probe.clone();
    let stopping = tokio::spawn(setup.server.shutdown());
    probe.release(1);
    assert_eq!(held.await.unwrap().unwrap(), 1);
    let answer = seen(&mut tap).await.answer;
    assert_eq!(answer.outcome, TapOutcome::Result);
    let error = ended(&mut tap).await.unwrap();
    assert!(error.contains("the server is stopping"), "{error}");
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lost_connection_ends_the_tap_with_its_reason() {
    let (broker, cut) = fragile_broker().await;
    let setup = broker.sample_with(|server| server.tap(true)).await;
    let mut tap = setup.tap().await;
    cut().await;
    assert!(ended(&mut tap).await.is_some());
    // The server forgets the watcher, and shows its calls again.
    let mut again = eventually("the server can be watched again", async || {
        setup.query().await.ok()
    })
    .await;
    setup.sample.add(1, 2).await.unwrap();
    assert_next_is(&mut again, "add").await;
}

/// Serves the sample service from a queue on a connection of its own.
async fn member(broker: &Broker, queue: &str, allows: bool) -> (ServerHandle, Connection) {
    let connection = broker.connect().await;
    let dispatcher = SampleDispatcher::new(Probe::default()).with_queue(queue);
    let server = Server::builder(&connection).service(dispatcher).tap(allows);
    (server.build().start().await.unwrap(), connection)
}

#[tokio::test]
async fn several_instances_are_watched_together_and_one_that_refuses_is_named() {
    let broker = broker().await;
    let queue = unique_queue("watched");
    let (first, _open) = member(&broker, &queue, true).await;
    let (second, _open) = member(&broker, &queue, true).await;
    let (third, _open) = member(&broker, &queue, false).await;
    let client = client(&broker.connect().await);
    // Other tests have instances of the service, which may come and go.
    let mut tap = client
        .tap("Sample")
        .method("add")
        .within(WHILE)
        .await
        .unwrap();
    let watched = |server: &ServerHandle| {
        let mut instances = tap.instances().iter();
        instances.any(|instance| instance.id == server.instance_id())
    };
    assert!(watched(&first) && watched(&second) && !watched(&third));
    let mut refused = tap.refused().iter();
    let refused = refused.find(|(instance, _)| instance.id == third.instance_id());
    assert_eq!(refused.unwrap().1.kind(), ErrorKind::PermissionDenied);
    let sample = SampleClient::new(client).with_queue(&queue);
    let call = sample.add(40, 2).to_all_instances().within(WHILE).expect(3);
    let mut answers = call.send().await.unwrap();
    while answers.next().await.is_some() {}
    let ids = [first.instance_id(), second.instance_id()].map(|id| vec![id.to_owned(); 2]);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let event = next(&mut tap).await;
        if ids.concat().contains(&event.instance) {
            seen.push(event.instance);
        }
    }
    seen.sort_unstable();
    let mut expected = ids.concat();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[rpc]
trait Ticker {
    async fn ticks(n: u64) -> impl Stream<Item = Result<u64, String>>;
    async fn sum(numbers: impl Stream<Item = u64>) -> u64;
}

struct Clock;

impl Ticker for Clock {
    async fn ticks(&self, n: u64) -> impl Stream<Item = Result<u64, String>> {
        let end = (n > 3).then(|| Err("tired".to_owned()));
        stream::iter((0..n.min(3)).map(Ok).chain(end))
    }

    async fn sum(&self, numbers: rpc_core::Incoming<u64>) -> u64 {
        numbers
            .map(Result::unwrap)
            .fold(0, async |sum, n| sum + n)
            .await
    }
}

#[tokio::test]
async fn the_begin_and_the_end_of_streams_are_shown() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("ticker");
    let dispatcher = TickerDispatcher::new(Clock).with_queue(&queue);
    let server = Server::builder(&connection).service(dispatcher).tap(true);
    let server = server.build().start().await.unwrap();
    let client = client(&connection);
    let tap = client.tap("Ticker").instance(server.instance_id());
    let mut tap = tap.within(WHILE).await.unwrap();
    let ticker = TickerClient::new(client).with_queue(&queue);
    let items = |received, sent| {
        move |items: Option<TapItems>| {
            let items = items.unwrap();
            assert_eq!((items.received, items.sent), (received, sent));
        }
    };
    for (n, sent, outcome) in [(3, 3, TapOutcome::Result), (4, 3, TapOutcome::Error)] {
        let ticks: Vec<_> = ticker.ticks(n).await.unwrap().collect().await;
        assert_eq!(ticks.len() as u64, n);
        let seen = seen(&mut tap).await;
        assert_eq!(seen.between, [TapEventKind::StreamOpened]);
        assert_eq!(seen.answer.outcome, outcome);
        items(0, sent)(seen.answer.items);
    }
    assert_eq!(ticker.sum(stream::iter([1, 2, 3])).await.unwrap(), 6);
    let summed = seen(&mut tap).await;
    assert_eq!(summed.between, [TapEventKind::StreamOpened]);
    assert_eq!(summed.answer.body.unwrap().bytes, b"\x06");
    items(3, 0)(summed.answer.items);
    // A reader that goes away.
    let mut ticks = ticker.ticks(3).window(1).await.unwrap();
    ticks.next().await.unwrap().unwrap();
    drop(ticks);
    let left = seen(&mut tap).await.answer;
    assert_eq!(left.outcome, TapOutcome::Fault);
    assert_eq!(left.fault.unwrap().code, "cancelled");
    assert!(left.items.unwrap().sent < 3);
}

#[tokio::test]
async fn watched_calls_are_redelivered_as_others_are() {
    let (broker, cut) = fragile_broker().await;
    let setup = broker.sample_with(|server| server.tap(true)).await;
    let mut tap = setup.tap().await;
    let held = tokio::spawn(setup.sample.hold().timeout(LONG).into_future());
    setup.probe.until_begun(1).await;
    assert!(matches!(
        next(&mut tap).await.kind,
        TapEventKind::Request(_)
    ));
    cut().await;
    setup.probe.until_begun(2).await;
    held.abort();
    assert_eq!(setup.probe.redelivered(), 1);
    setup.probe.release(2);
}
