//! How request queues are declared.

use std::error::Error;
use std::time::Duration;

use rpc_core::{Connection, ErrorKind, QueueOptions, ServeError, Server, ServerHandle};
use rpc_tests::{eventually, unique_queue};

use super::{BenchClient, BenchDispatcher, Probe, client, client_builder};
use crate::broker;

/// A queue of its own, to be served with options.
pub(super) struct Bed {
    pub(super) connection: Connection,
    pub(super) queue: String,
    pub(super) probe: Probe,
}

impl Bed {
    pub(super) async fn new() -> Self {
        Self {
            connection: broker().await.connect().await,
            queue: unique_queue("options"),
            probe: Probe::default(),
        }
    }

    pub(super) async fn serve(&self, options: QueueOptions) -> Result<ServerHandle, ServeError> {
        let dispatcher = BenchDispatcher::new(self.probe.clone()).with_queue(&self.queue);
        Server::builder(&self.connection)
            .service(dispatcher.with_queue_options(options))
            .prefetch(1)
            .build()
            .start()
            .await
    }

    /// Serves, and holds up the server with a call, so that everything else waits in the queue.
    pub(super) async fn serve_and_hold(&self, options: QueueOptions) -> ServerHandle {
        let server = self.serve(options).await.unwrap();
        tokio::spawn(self.bench().hold().into_future());
        self.probe.until_begun(1).await;
        server
    }

    /// A client that is told what the broker refuses.
    pub(super) fn bench(&self) -> BenchClient {
        let client = client_builder(&self.connection).confirms(true).build();
        BenchClient::new(client).with_queue(&self.queue)
    }
}

#[tokio::test]
async fn a_full_queue_rejects_at_once() {
    let bed = Bed::new().await;
    let _server = bed
        .serve_and_hold(QueueOptions::classic().max_length(2))
        .await;
    let bench = bed.bench();
    let mut waiting = Vec::new();
    let rejected = eventually("a call is rejected", async || {
        let mut call = tokio::spawn(bench.add(1, 1).into_future());
        match tokio::time::timeout(Duration::from_secs(1), &mut call).await {
            Ok(answer) => Some(answer.unwrap().unwrap_err()),
            Err(_) => {
                waiting.push(call);
                None
            }
        }
    })
    .await;
    assert_eq!(rejected.kind(), ErrorKind::Rejected);
    assert!(!rejected.may_have_executed() && rejected.is_retryable());
    let oneway = BenchClient::new(client(&bed.connection)).with_queue(&bed.queue);
    let error = oneway.note("one more".to_owned()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    bed.probe.release(1);
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap(), 2);
    }
}

#[tokio::test]
async fn a_queue_that_exists_with_other_arguments_is_named_with_the_argument() {
    let bed = Bed::new().await;
    let _server = bed
        .serve(QueueOptions::classic().max_length(5))
        .await
        .unwrap();
    let error = bed
        .serve(QueueOptions::classic().max_length(6))
        .await
        .unwrap_err();
    let ServeError::QueueRefused { queue, source } = &error else {
        panic!("{error}");
    };
    assert_eq!(*queue, bed.queue);
    let reason = source.to_string();
    for part in ["x-max-length", "5", "6"] {
        assert!(reason.contains(part), "{reason}");
    }
    let told = format!(
        "the broker refused queue '{}': it exists with x-max-length '5', and this server declares '6'; declare it with the same options, use it as it is with `QueueOptions::existing()`, or delete it once it is empty",
        bed.queue
    );
    assert_eq!(error.to_string(), told);
    let whole = format!("{error:?}");
    assert_eq!(whole, format!("{told}: {reason}"));
    assert_eq!(whole.matches("PRECONDITION").count(), 1, "{whole}");
    assert!(error.source().is_some());
    // The first server goes on.
    assert_eq!(bed.bench().add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn a_queue_of_another_type_is_told_with_both_and_the_remedy() {
    for (there, wanted, told) in [
        (
            QueueOptions::quorum(),
            QueueOptions::classic(),
            "x-queue-type 'quorum', and this server declares 'classic'; declare it with `QueueOptions::quorum()`",
        ),
        (
            QueueOptions::classic(),
            QueueOptions::quorum(),
            "x-queue-type 'classic', and this server declares 'quorum'; declare it with `QueueOptions::classic()`",
        ),
    ] {
        let bed = Bed::new().await;
        let _server = bed.serve(there).await.unwrap();
        let error = bed.serve(wanted).await.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert!(error.contains("`QueueOptions::existing()`"), "{error}");
    }
}

#[tokio::test]
async fn a_queue_that_exists_is_used_as_it_is_whatever_its_type() {
    for there in [
        QueueOptions::classic(),
        QueueOptions::quorum(),
        QueueOptions::classic().max_length(5).max_priority(3),
    ] {
        let bed = Bed::new().await;
        let first = bed.serve(there).await.unwrap();
        let second = bed.serve(QueueOptions::existing()).await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(bed.bench().add(1, 1).await.unwrap(), 2);
        second.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_declared_as_a_classic_one() {
    let bed = Bed::new().await;
    let options = QueueOptions::existing().max_length(5);
    let _server = bed.serve(options).await.unwrap();
    assert_eq!(bed.bench().add(1, 1).await.unwrap(), 2);
    let error = bed.serve(QueueOptions::classic()).await.unwrap_err();
    assert!(error.to_string().contains("x-max-length '5'"), "{error}");
    let same = QueueOptions::classic().max_length(5);
    let _second = bed.serve(same).await.unwrap();
}

#[tokio::test]
async fn deliveries_of_a_quorum_queue_that_others_have_declared_are_counted() {
    let bed = Bed::new().await;
    let first = bed.serve(QueueOptions::quorum()).await.unwrap();
    first.shutdown().await.unwrap();
    let mut server = bed.serve(QueueOptions::existing()).await.unwrap();
    let call = bed.bench().hold().timeout(Duration::from_secs(60));
    let call = tokio::spawn(call.into_future());
    for begun in 1..=3 {
        bed.probe.until_begun(begun).await;
        drop(server);
        server = bed.serve(QueueOptions::existing()).await.unwrap();
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
    assert_eq!(bed.probe.deliveries(), [0, 1, 2]);
    assert_eq!(bed.bench().add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn a_passive_server_declares_nothing() {
    let bed = Bed::new().await;
    let error = bed.serve(QueueOptions::passive()).await.unwrap_err();
    assert!(
        matches!(&error, ServeError::QueueRefused { queue, .. } if *queue == bed.queue),
        "{error}"
    );
    assert!(error.to_string().contains("it does not exist"), "{error}");
    let unroutable = bed.bench().add(1, 1).await.unwrap_err();
    assert_eq!(unroutable.kind(), ErrorKind::Unroutable);
    bed.serve(QueueOptions::classic().max_length(5))
        .await
        .unwrap()
        .shutdown()
        .await
        .unwrap();
    // Whatever its arguments are.
    let _server = bed.serve(QueueOptions::passive()).await.unwrap();
    assert_eq!(bed.bench().add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn a_quorum_queue_serves_and_counts_deliveries() {
    let bed = Bed::new().await;
    let call = tokio::spawn(
        bed.bench()
            .hold()
            .timeout(Duration::from_secs(60))
            .into_future(),
    );
    // Nobody has declared the queue.
    assert_eq!(
        call.await.unwrap().unwrap_err().kind(),
        ErrorKind::Unroutable
    );
    let mut server = bed.serve(QueueOptions::quorum()).await.unwrap();
    let call = tokio::spawn(
        bed.bench()
            .hold()
            .timeout(Duration::from_secs(60))
            .into_future(),
    );
    for begun in 1..=3 {
        bed.probe.until_begun(begun).await;
        drop(server);
        server = bed.serve(QueueOptions::quorum()).await.unwrap();
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
    assert_eq!(bed.probe.deliveries(), [0, 1, 2]);
}

#[tokio::test]
async fn a_request_waits_no_longer_than_the_queue_allows() {
    let bed = Bed::new().await;
    let dead_letters = format!("{}-expired", bed.queue);
    let options = QueueOptions::classic()
        .message_ttl(Duration::from_millis(50))
        .dead_letter_queue(&dead_letters);
    let _server = bed.serve_and_hold(options).await;
    let patient = tokio::spawn(bed.bench().hold().into_future());
    // The broker looks at the head of a queue; the embedded one when it has something to do there.
    let late = Probe::default();
    let dispatcher = BenchDispatcher::new(late.clone()).with_queue(&dead_letters);
    let _late_server = super::start(&bed.connection, dispatcher).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    bed.probe.release(1);
    late.until_begun(1).await;
    late.release(1);
    assert_eq!(patient.await.unwrap().unwrap(), 1);
    assert_eq!(bed.probe.begun(), 1, "it was served by another");
}

#[tokio::test]
async fn higher_priorities_are_served_first() {
    let bed = Bed::new().await;
    let server = bed
        .serve_and_hold(QueueOptions::classic().max_priority(5))
        .await;
    let bench = bed.bench();
    let mut calls = Vec::new();
    for (n, priority) in [(1, 0), (2, 3), (3, 5), (4, 3), (5, 9)] {
        let call = bench.number(n).priority(priority);
        calls.push(tokio::spawn(call.into_future()));
        // A confirmed one behind it shows that it is in the queue.
        bench.note(n.to_string()).await.unwrap();
    }
    bed.probe.release(1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bed.probe.numbers(), [3, 5, 2, 4, 1]);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_unused_queue_expires() {
    let bed = Bed::new().await;
    let options = QueueOptions::classic().expires(Duration::from_millis(100));
    let server = bed.serve(options).await.unwrap();
    let bench = bed.bench();
    assert_eq!(bench.add(1, 1).await.unwrap(), 2);
    server.shutdown().await.unwrap();
    for queue in [bed.queue.clone(), format!("{}.retry", bed.queue)] {
        let bench = BenchClient::new(client(&bed.connection)).with_queue(queue);
        eventually("it has expired", async || {
            let call = bench.add(1, 1).timeout(Duration::from_millis(100));
            let error = call.await.unwrap_err();
            (error.kind() == ErrorKind::Unroutable).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_queue_of_last_attempts_that_exists_is_used_as_it_is() {
    let bed = Bed::new().await;
    let retries = format!("{}.retry", bed.queue);
    let dispatcher = BenchDispatcher::new(bed.probe.clone()).with_queue(&retries);
    let declaring = super::start(&bed.connection, dispatcher).await;
    declaring.shutdown().await.unwrap();
    let options = QueueOptions::classic().expires(Duration::from_secs(60));
    let _server = bed.serve(options).await.unwrap();
    assert_eq!(bed.bench().add(1, 1).await.unwrap(), 2);
}
