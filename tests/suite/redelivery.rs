//! Servers that die: what is run again, how often, and what is not.

use std::time::Duration;

use rpc_core::{Connection, ErrorKind, QueueOptions, Server, ServerBuilder, ServerHandle};

use rpc_tests::{eventually, unique_queue};

use super::queue_options::Bed;
use super::{BenchClient, BenchDispatcher, Probe, Setup, client, serve, start};
use crate::broker;

/// A bench service whose server dies and is replaced.
struct Mortal {
    bench: BenchClient,
    probe: Probe,
    queue: String,
    connection: Connection,
    server: Option<ServerHandle>,
}

impl Mortal {
    async fn new() -> Self {
        let Setup {
            bench,
            probe,
            server,
            queue,
            connection,
        } = broker().await.bench().await;
        Self {
            bench,
            probe,
            queue,
            connection,
            server: Some(server),
        }
    }

    /// Ends the server where it stands, and starts another.
    async fn die_and_rise(&mut self) {
        self.die_and_rise_with(|server| server).await;
    }

    async fn die_and_rise_with(&mut self, options: impl FnOnce(ServerBuilder) -> ServerBuilder) {
        // What it had is given back with its channel, before another server is there to be given it.
        self.server = None;
        self.server = Some(self.serve(options).await);
    }

    /// Waits until the broker has moved a held call back from a dead-letter queue, and that many have begun.
    async fn until_moved_back(&self, dead_letters: &str, begun: usize) {
        let other = BenchClient::new(client(&self.connection)).with_queue(dead_letters);
        eventually("it comes back", async || {
            // The embedded broker looks at a queue when something happens there.
            other.note("one more".to_owned()).await.unwrap();
            (self.probe.begun() >= begun).then_some(())
        })
        .await;
    }

    async fn serve(&self, options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> ServerHandle {
        serve(&self.connection, &self.queue, &self.probe, options).await
    }
}

#[tokio::test]
async fn a_request_is_told_how_often_it_was_delivered() {
    let mut mortal = Mortal::new().await;
    let call = tokio::spawn(mortal.bench.hold().into_future());
    for begun in 1..=2 {
        mortal.probe.until_begun(begun).await;
        mortal.die_and_rise().await;
    }
    mortal.probe.until_begun(3).await;
    mortal.probe.release(1);
    assert_eq!(call.await.unwrap().unwrap(), 3);
    assert_eq!(mortal.probe.deliveries(), [0, 1, 2]);
    assert_eq!(mortal.probe.redelivered(), 2);
}

#[tokio::test]
async fn a_request_that_keeps_killing_its_server_is_given_up() {
    let mut mortal = Mortal::new().await;
    let call = tokio::spawn(mortal.bench.hold().into_future());
    for begun in 1..=3 {
        mortal.probe.until_begun(begun).await;
        mortal.die_and_rise().await;
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.may_have_executed() && !error.is_retryable());
    let dead_letters = format!("{}.dead", mortal.queue);
    assert!(error.to_string().contains(&dead_letters), "{error}");
    assert_eq!(mortal.probe.deliveries(), [0, 1, 2]);
    assert_eq!(
        mortal.bench.add(1, 1).await.unwrap(),
        2,
        "the service goes on"
    );

    // It has not been lost: a server of the dead-letter queue gets it.
    let late = Probe::default();
    let _server = serve(&mortal.connection, &dead_letters, &late, |server| server).await;
    late.until_begun(1).await;
    assert_eq!(late.deliveries(), [0], "a new life");
    assert_eq!(late.redelivered(), 1, "it may have run before");
}

#[tokio::test]
async fn a_dead_letter_is_run_by_a_server_of_its_queue_although_its_deadline_has_passed() {
    const LIMIT: Duration = Duration::from_secs(3);
    let mut mortal = Mortal::new().await;
    let dead_letters = format!("{}.dead", mortal.queue);
    let once = |server: ServerBuilder| server.delivery_limit(1).concurrency(1);
    mortal.die_and_rise_with(once).await;
    let sent = tokio::time::Instant::now();
    let call = tokio::spawn(mortal.bench.hold().timeout(LIMIT).into_future());
    mortal.probe.until_begun(1).await;
    let once_call = tokio::spawn(mortal.bench.hold_once().timeout(LIMIT).into_future());
    // Nothing tells that it has been delivered.
    tokio::time::sleep(Duration::from_millis(300)).await;
    mortal.die_and_rise_with(once).await;
    for (call, kind) in [
        (call, ErrorKind::Panicked),
        (once_call, ErrorKind::Cancelled),
    ] {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), kind);
    }
    tokio::time::sleep_until(sent + LIMIT).await;

    let late = Probe::default();
    let _server = serve(&mortal.connection, &dead_letters, &late, |server| server).await;
    late.until_begun(2).await;
    late.release(2);
    assert_eq!(late.deliveries(), [0, 0]);
    assert_eq!(mortal.probe.begun(), 1);
}

#[tokio::test]
async fn a_dead_letter_that_comes_back_has_one_more_life() {
    const LIMIT: Duration = Duration::from_secs(4);
    let mut mortal = Mortal::new().await;
    let dead_letters = format!("{}.dead", mortal.queue);
    // The broker moves what is in the dead-letter queue back, as a person might, once the deadline has passed.
    let back = BenchDispatcher::new(Probe::default())
        .with_queue(&dead_letters)
        .with_queue_options(
            QueueOptions::classic()
                .message_ttl(LIMIT)
                .dead_letter_queue(&mortal.queue),
        );
    let declaring = start(&mortal.connection, back).await;
    declaring.shutdown().await.unwrap();
    let twice = |server: ServerBuilder| server.delivery_limit(2);
    mortal.die_and_rise_with(twice).await;
    let call = tokio::spawn(mortal.bench.hold().timeout(LIMIT).into_future());
    for begun in 1..=2 {
        mortal.probe.until_begun(begun).await;
        mortal.die_and_rise_with(twice).await;
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
    mortal.until_moved_back(&dead_letters, 3).await;
    for begun in 3..=4 {
        mortal.probe.until_begun(begun).await;
        mortal.die_and_rise_with(twice).await;
    }
    // It was given up again, and comes back again.
    mortal.until_moved_back(&dead_letters, 5).await;
    mortal.probe.release(1);
    assert_eq!(mortal.probe.deliveries(), [0, 1, 0, 1, 0]);
}

#[tokio::test]
async fn a_request_that_expired_in_its_queue_is_run_by_a_server_of_the_dead_letter_queue() {
    const LIMIT: Duration = Duration::from_millis(300);
    let bed = Bed::new().await;
    let dead_letters = unique_queue("expired");
    let options = QueueOptions::classic().dead_letter_queue(&dead_letters);
    let server = bed.serve_and_hold(options).await;
    let bench = bed.bench();
    for error in [
        bench.hold().timeout(LIMIT).await.unwrap_err(),
        bench.hold_once().timeout(LIMIT).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
    // The embedded broker looks at the queue when something happens there.
    bed.probe.release(1);
    server.shutdown().await.unwrap();
    let late = Probe::default();
    let _server = serve(&bed.connection, &dead_letters, &late, |server| server).await;
    late.until_begun(2).await;
    late.release(2);
    assert_eq!(late.deliveries(), [0, 0]);
    assert_eq!(bed.probe.begun(), 1);
}

#[tokio::test]
async fn a_request_that_no_dead_letter_queue_takes_is_dropped_and_its_caller_told() {
    let mut mortal = Mortal::new().await;
    let full = BenchDispatcher::new(Probe::default())
        .with_queue(format!("{}.dead", mortal.queue))
        .with_queue_options(QueueOptions::classic().max_length(0));
    let _full = start(&mortal.connection, full).await;
    let call = tokio::spawn(mortal.bench.hold().into_future());
    for begun in 1..=3 {
        mortal.probe.until_begun(begun).await;
        mortal.die_and_rise().await;
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.to_string().contains("it was dropped"), "{error}");
    assert_eq!(mortal.bench.add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn a_full_queue_does_not_keep_deliveries_from_being_counted() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("full");
    let probe = Probe::default();
    let serve = async || {
        let dispatcher = BenchDispatcher::new(probe.clone())
            .with_queue(&queue)
            .with_queue_options(QueueOptions::classic().max_length(1));
        let server = Server::builder(&connection).service(dispatcher);
        server.prefetch(1).build().start().await.unwrap()
    };
    let server = serve().await;
    let bench = BenchClient::new(client(&connection)).with_queue(&queue);
    let deadly = tokio::spawn(bench.hold().into_future());
    probe.until_begun(1).await;
    let waiting = tokio::spawn(bench.add(1, 1).into_future());
    // Nothing tells that it is in the queue.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(server);
    let server = serve().await;
    probe.until_begun(2).await;
    drop(server);
    let _server = serve().await;
    probe.until_begun(3).await;
    probe.release(1);
    deadly.await.unwrap().unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
    assert_eq!(probe.deliveries(), [0, 1, 2]);
}

#[tokio::test]
async fn a_last_attempt_that_takes_long_does_not_hold_up_the_others() {
    let mut mortal = Mortal::new().await;
    let calls = [(), ()].map(|()| tokio::spawn(mortal.bench.hold().into_future()));
    mortal.probe.until_begun(2).await;
    mortal.die_and_rise().await;
    mortal.probe.until_begun(4).await;
    mortal.die_and_rise().await;
    // One alone at first, then the other, although the first goes on.
    mortal.probe.until_begun(5).await;
    mortal.probe.until_begun(6).await;
    mortal.probe.release(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(mortal.probe.deliveries()[4..], [2, 2]);
}

#[tokio::test]
async fn what_shared_a_server_with_a_deadly_request_is_not_given_up_with_it() {
    let mut mortal = Mortal::new().await;
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(mortal.bench.hold().into_future()))
        .collect();
    // All five are lost with two servers; then each is alone with one, and the first of them dies with it.
    mortal.probe.until_begun(5).await;
    mortal.die_and_rise().await;
    mortal.probe.until_begun(10).await;
    mortal.die_and_rise().await;
    mortal.probe.until_begun(11).await;
    mortal.die_and_rise().await;
    mortal.probe.until_begun(12).await;
    mortal.probe.release(4);
    let mut given_up = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
                given_up += 1;
            }
        }
    }
    assert_eq!(given_up, 1);
}

#[tokio::test]
async fn what_stopping_servers_give_back_was_not_delivered() {
    const STOPS: usize = 4; // More than the limit of deliveries.
    let mut mortal = Mortal::new().await;
    mortal.server = None;
    let mut server = mortal.serve(|server| server.concurrency(1)).await;
    let calls: Vec<_> = (0..=STOPS)
        .map(|_| tokio::spawn(mortal.bench.hold().into_future()))
        .collect();
    for begun in 1..=STOPS {
        mortal.probe.until_begun(begun).await;
        let stopping = tokio::spawn(server.shutdown());
        mortal.probe.release(1);
        stopping.await.unwrap().unwrap();
        server = mortal.serve(|server| server.concurrency(1)).await;
    }
    mortal.probe.release(1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(mortal.probe.deliveries(), [0; STOPS + 1]);
    assert_eq!(mortal.probe.redelivered(), 0);
}

#[tokio::test]
async fn a_limit_can_be_lifted() {
    let mut mortal = Mortal::new().await;
    mortal.server = None;
    mortal.server = Some(mortal.serve(|server| server.delivery_limit(0)).await);
    let call = tokio::spawn(mortal.bench.hold().into_future());
    for begun in 1..=5 {
        mortal.probe.until_begun(begun).await;
        mortal.server = None;
        mortal.server = Some(mortal.serve(|server| server.delivery_limit(0)).await);
    }
    mortal.probe.until_begun(6).await;
    mortal.probe.release(1);
    assert_eq!(call.await.unwrap().unwrap(), 6);
}

#[tokio::test]
async fn an_at_most_once_request_is_not_run_again() {
    let mut mortal = Mortal::new().await;
    let call = tokio::spawn(mortal.bench.hold_once().into_future());
    mortal.probe.until_begun(1).await;
    // Nothing is left to be given back, so no server runs it again, and its caller is told nothing before its deadline.
    mortal.die_and_rise().await;
    assert_eq!(mortal.bench.add(1, 1).await.unwrap(), 2);
    assert_eq!(mortal.probe.begun(), 1);
    call.abort();
}

#[tokio::test]
async fn an_at_most_once_request_that_a_dead_server_had_not_begun_is_given_up() {
    let mut mortal = Mortal::new().await;
    mortal.server = None;
    mortal.server = Some(mortal.serve(|server| server.concurrency(1)).await);
    let first = tokio::spawn(mortal.bench.hold_once().into_future());
    mortal.probe.until_begun(1).await;
    let second = tokio::spawn(mortal.bench.hold_once().into_future());
    // Nothing tells that it has been delivered.
    tokio::time::sleep(Duration::from_millis(300)).await;
    mortal.die_and_rise().await;
    let error = second.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(
        error.may_have_executed(),
        "nobody can know that it has not begun"
    );
    assert_eq!(mortal.probe.begun(), 1);
    first.abort();
}

#[tokio::test]
async fn at_most_once_requests_that_a_stopping_server_had_not_begun_are_run_by_the_next() {
    let mortal = Mortal::new().await;
    let Mortal {
        bench,
        probe,
        queue,
        connection,
        server,
    } = mortal;
    server.unwrap().shutdown().await.unwrap();
    let server = serve(&connection, &queue, &probe, |server| server.concurrency(1)).await;
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(bench.hold_once().into_future()))
        .collect();
    probe.until_begun(1).await;
    let stopping = tokio::spawn(server.shutdown());
    let _next = serve(&connection, &queue, &probe, |server| server).await;
    probe.release(5);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    stopping.await.unwrap().unwrap();
    assert_eq!(probe.begun(), 5);
}
