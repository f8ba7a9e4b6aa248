//! Dead servers: redelivery, its limits, and dead letters.

use std::time::Duration;

use rpc_core::{Connection, ErrorKind, QueueOptions, Server, ServerBuilder, ServerHandle};

use rpc_tests::{eventually, unique_queue};

use super::queue_options::Bed;
use super::{Probe, SampleClient, SampleDispatcher, Setup, client, serve, start};
use crate::broker;

/// A sample service whose server can be killed and replaced.
struct KillableService {
    sample: SampleClient,
    probe: Probe,
    queue: String,
    connection: Connection,
    server: Option<ServerHandle>,
}

impl KillableService {
    async fn new() -> Self {
        let Setup {
            sample,
            probe,
            server,
            queue,
            connection,
        } = broker().await.sample().await;
        Self {
            sample,
            probe,
            queue,
            connection,
            server: Some(server),
        }
    }

    /// Kills the server without a shutdown, and starts another.
    async fn restart_server(&mut self) {
        self.restart_server_with(|server| server).await;
    }

    async fn restart_server_with(&mut self, options: impl FnOnce(ServerBuilder) -> ServerBuilder) {
        // The broker requeues the deliveries with their channel, before another server could receive them.
        self.server = None;
        self.server = Some(self.serve(options).await);
    }

    /// Waits until the broker has returned a held call from a dead-letter queue and that many have started.
    async fn until_moved_back(&self, dead_letters: &str, begun: usize) {
        let other = SampleClient::new(client(&self.connection)).with_queue(dead_letters);
        eventually("the dead letter comes back", async || {
            // The embedded broker expires messages of a queue when another arrives.
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
async fn a_handler_sees_the_delivery_count() {
    let mut killable = KillableService::new().await;
    let call = tokio::spawn(killable.sample.hold().into_future());
    for begun in 1..=2 {
        killable.probe.until_begun(begun).await;
        killable.restart_server().await;
    }
    killable.probe.until_begun(3).await;
    killable.probe.release(1);
    assert_eq!(call.await.unwrap().unwrap(), 3);
    assert_eq!(killable.probe.deliveries(), [0, 1, 2]);
    assert_eq!(killable.probe.redelivered(), 2);
}

#[tokio::test]
async fn poison_messages_are_quarantined() {
    let mut killable = KillableService::new().await;
    let call = tokio::spawn(killable.sample.hold().into_future());
    for begun in 1..=3 {
        killable.probe.until_begun(begun).await;
        killable.restart_server().await;
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.may_have_executed() && !error.is_retryable());
    let dead_letters = format!("{}.dead", killable.queue);
    assert!(error.to_string().contains(&dead_letters), "{error}");
    assert_eq!(killable.probe.deliveries(), [0, 1, 2]);
    assert_eq!(
        killable.sample.add(1, 1).await.unwrap(),
        2,
        "the service still works"
    );

    // The request is kept: a server of the dead-letter queue receives it.
    let late = Probe::default();
    let _server = serve(&killable.connection, &dead_letters, &late, |server| server).await;
    late.until_begun(1).await;
    assert_eq!(late.deliveries(), [0], "the count starts again");
    assert_eq!(late.redelivered(), 1, "the request may have run before");
}

#[tokio::test]
async fn a_server_of_the_dead_letter_queue_runs_expired_dead_letters() {
    const LIMIT: Duration = Duration::from_secs(3);
    let mut killable = KillableService::new().await;
    let dead_letters = format!("{}.dead", killable.queue);
    let once = |server: ServerBuilder| server.delivery_limit(1).concurrency(1);
    killable.restart_server_with(once).await;
    let sent = tokio::time::Instant::now();
    let call = tokio::spawn(killable.sample.hold().timeout(LIMIT).into_future());
    killable.probe.until_begun(1).await;
    let once_call = tokio::spawn(killable.sample.hold_once().timeout(LIMIT).into_future());
    // No event tells that the request was delivered.
    tokio::time::sleep(Duration::from_millis(300)).await;
    killable.restart_server_with(once).await;
    for (call, kind) in [
        (call, ErrorKind::Panicked),
        (once_call, ErrorKind::Cancelled),
    ] {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), kind);
    }
    tokio::time::sleep_until(sent + LIMIT).await;

    let late = Probe::default();
    let _server = serve(&killable.connection, &dead_letters, &late, |server| server).await;
    late.until_begun(2).await;
    late.release(2);
    assert_eq!(late.deliveries(), [0, 0]);
    assert_eq!(killable.probe.begun(), 1);
}

#[tokio::test]
async fn a_dead_letter_that_is_moved_back_is_attempted_again() {
    const LIMIT: Duration = Duration::from_secs(4);
    let mut killable = KillableService::new().await;
    let dead_letters = format!("{}.dead", killable.queue);
    // Once the deadline has passed, the broker moves dead letters back, as an operator might.
    let back = SampleDispatcher::new(Probe::default())
        .with_queue(&dead_letters)
        .with_queue_options(
            QueueOptions::classic()
                .message_ttl(LIMIT)
                .dead_letter_queue(&killable.queue),
        );
    let declaring = start(&killable.connection, back).await;
    declaring.shutdown().await.unwrap();
    let twice = |server: ServerBuilder| server.delivery_limit(2);
    killable.restart_server_with(twice).await;
    let call = tokio::spawn(killable.sample.hold().timeout(LIMIT).into_future());
    for begun in 1..=2 {
        killable.probe.until_begun(begun).await;
        killable.restart_server_with(twice).await;
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
    killable.until_moved_back(&dead_letters, 3).await;
    for begun in 3..=4 {
        killable.probe.until_begun(begun).await;
        killable.restart_server_with(twice).await;
    }
    // The request is given up again, and moved back again.
    killable.until_moved_back(&dead_letters, 5).await;
    killable.probe.release(1);
    assert_eq!(killable.probe.deliveries(), [0, 1, 0, 1, 0]);
}

#[tokio::test]
async fn a_server_of_the_dead_letter_queue_runs_requests_that_expired_in_their_queue() {
    const LIMIT: Duration = Duration::from_millis(300);
    let bed = Bed::new().await;
    let dead_letters = unique_queue("expired");
    let options = QueueOptions::classic().dead_letter_queue(&dead_letters);
    let server = bed.serve_and_hold(options).await;
    let sample = bed.sample();
    for error in [
        sample.hold().timeout(LIMIT).await.unwrap_err(),
        sample.hold_once().timeout(LIMIT).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
    // The embedded broker expires messages of a queue when another arrives.
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
async fn a_request_refused_by_the_dead_letter_queue_is_dropped_with_a_fault() {
    let mut killable = KillableService::new().await;
    let full = SampleDispatcher::new(Probe::default())
        .with_queue(format!("{}.dead", killable.queue))
        .with_queue_options(QueueOptions::classic().max_length(0));
    let _full = start(&killable.connection, full).await;
    let call = tokio::spawn(killable.sample.hold().into_future());
    for begun in 1..=3 {
        killable.probe.until_begun(begun).await;
        killable.restart_server().await;
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.to_string().contains("it was dropped"), "{error}");
    assert_eq!(killable.sample.add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn deliveries_are_counted_although_the_queue_is_full() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("full");
    let probe = Probe::default();
    let serve = async || {
        let dispatcher = SampleDispatcher::new(probe.clone())
            .with_queue(&queue)
            .with_queue_options(QueueOptions::classic().max_length(1));
        let server = Server::builder(&connection).service(dispatcher);
        server.prefetch(1).build().start().await.unwrap()
    };
    let server = serve().await;
    let sample = SampleClient::new(client(&connection)).with_queue(&queue);
    let deadly = tokio::spawn(sample.hold().into_future());
    probe.until_begun(1).await;
    let waiting = tokio::spawn(sample.add(1, 1).into_future());
    // No event tells that the request is in the queue.
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
async fn a_slow_last_attempt_does_not_delay_other_calls() {
    let mut killable = KillableService::new().await;
    let calls = [(), ()].map(|()| tokio::spawn(killable.sample.hold().into_future()));
    killable.probe.until_begun(2).await;
    killable.restart_server().await;
    killable.probe.until_begun(4).await;
    killable.restart_server().await;
    // First one alone, then the other, although the first still runs.
    killable.probe.until_begun(5).await;
    killable.probe.until_begun(6).await;
    killable.probe.release(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(killable.probe.deliveries()[4..], [2, 2]);
}

#[tokio::test]
async fn requests_beside_a_poison_message_are_not_given_up() {
    let mut killable = KillableService::new().await;
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(killable.sample.hold().into_future()))
        .collect();
    // All five are lost with two servers. Then each runs alone on a server, and the first of them kills its server.
    killable.probe.until_begun(5).await;
    killable.restart_server().await;
    killable.probe.until_begun(10).await;
    killable.restart_server().await;
    killable.probe.until_begun(11).await;
    killable.restart_server().await;
    killable.probe.until_begun(12).await;
    killable.probe.release(4);
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
async fn requests_returned_by_a_stopping_server_are_not_counted_as_delivered() {
    const STOPS: usize = 4; // More than the delivery limit.
    let mut killable = KillableService::new().await;
    killable.server = None;
    let mut server = killable.serve(|server| server.concurrency(1)).await;
    let calls: Vec<_> = (0..=STOPS)
        .map(|_| tokio::spawn(killable.sample.hold().into_future()))
        .collect();
    for begun in 1..=STOPS {
        killable.probe.until_begun(begun).await;
        let stopping = tokio::spawn(server.shutdown());
        killable.probe.release(1);
        stopping.await.unwrap().unwrap();
        server = killable.serve(|server| server.concurrency(1)).await;
    }
    killable.probe.release(1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(killable.probe.deliveries(), [0; STOPS + 1]);
    assert_eq!(killable.probe.redelivered(), 0);
}

#[tokio::test]
async fn the_delivery_limit_can_be_removed() {
    let mut killable = KillableService::new().await;
    killable.server = None;
    killable.server = Some(killable.serve(|server| server.delivery_limit(0)).await);
    let call = tokio::spawn(killable.sample.hold().into_future());
    for begun in 1..=5 {
        killable.probe.until_begun(begun).await;
        killable.server = None;
        killable.server = Some(killable.serve(|server| server.delivery_limit(0)).await);
    }
    killable.probe.until_begun(6).await;
    killable.probe.release(1);
    assert_eq!(call.await.unwrap().unwrap(), 6);
}

#[tokio::test]
async fn an_at_most_once_request_does_not_run_again() {
    let mut killable = KillableService::new().await;
    let call = tokio::spawn(killable.sample.hold_once().into_future());
    killable.probe.until_begun(1).await;
    // The request was acknowledged: no server runs it again, and its caller waits until the deadline.
    killable.restart_server().await;
    assert_eq!(killable.sample.add(1, 1).await.unwrap(), 2);
    assert_eq!(killable.probe.begun(), 1);
    call.abort();
}

#[tokio::test]
async fn an_at_most_once_request_is_given_up_if_its_server_dies_before_the_start() {
    let mut killable = KillableService::new().await;
    killable.server = None;
    killable.server = Some(killable.serve(|server| server.concurrency(1)).await);
    let first = tokio::spawn(killable.sample.hold_once().into_future());
    killable.probe.until_begun(1).await;
    let second = tokio::spawn(killable.sample.hold_once().into_future());
    // No event tells that the request was delivered.
    tokio::time::sleep(Duration::from_millis(300)).await;
    killable.restart_server().await;
    let error = second.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(error.may_have_executed(), "it may have started");
    assert_eq!(killable.probe.begun(), 1);
    first.abort();
}

#[tokio::test]
async fn at_most_once_requests_returned_by_a_stopping_server_run_on_the_next() {
    let killable = KillableService::new().await;
    let KillableService {
        sample,
        probe,
        queue,
        connection,
        server,
    } = killable;
    server.unwrap().shutdown().await.unwrap();
    let server = serve(&connection, &queue, &probe, |server| server.concurrency(1)).await;
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(sample.hold_once().into_future()))
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
