//! Declaration of request queues.

use std::error::Error;
use std::time::Duration;

use rpc_core::{Connection, ErrorKind, QueueOptions, ServeError, Server, ServerHandle};
use rpc_tests::{eventually, unique_queue};

use super::{Probe, SampleClient, SampleDispatcher, client, client_builder};
use crate::broker;

/// A test's own queue, served with options of the test.
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
        let dispatcher = SampleDispatcher::new(self.probe.clone()).with_queue(&self.queue);
        Server::builder(&self.connection)
            .service(dispatcher.with_queue_options(options))
            .prefetch(1)
            .build()
            .start()
            .await
    }

    /// Serves the queue and occupies the server with a call, so that all other requests wait in the queue.
    pub(super) async fn serve_and_hold(&self, options: QueueOptions) -> ServerHandle {
        let server = self.serve(options).await.unwrap();
        tokio::spawn(self.sample().hold().into_future());
        self.probe.until_begun(1).await;
        server
    }

    /// Waits until this number of requests waits in the queue.
    pub(super) async fn until_waiting(&self, requests: u64) {
        eventually("the requests are in the queue", async || {
            let status = self.connection.queue_status(&self.queue).await.unwrap();
            (u64::from(status.unwrap().messages) == requests).then_some(())
        })
        .await;
    }

    /// A client with confirms, which sees refusals of the broker.
    pub(super) fn sample(&self) -> SampleClient {
        let client = client_builder(&self.connection).confirms(true).build();
        SampleClient::new(client).with_queue(&self.queue)
    }
}

#[tokio::test]
async fn a_full_queue_rejects_at_once() {
    let bed = Bed::new().await;
    let _server = bed
        .serve_and_hold(QueueOptions::classic().max_length(2))
        .await;
    let sample = bed.sample();
    let mut waiting = Vec::new();
    let rejected = eventually("a call is rejected", async || {
        let mut call = tokio::spawn(sample.add(1, 1).into_future());
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
    let oneway = SampleClient::new(client(&bed.connection)).with_queue(&bed.queue);
    let error = oneway.note("one more".to_owned()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    bed.probe.release(1);
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap(), 2);
    }
}

#[tokio::test]
async fn a_mismatched_queue_argument_is_named_with_both_values() {
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
    // The first server continues.
    assert_eq!(bed.sample().add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn a_mismatched_queue_type_is_named_with_both_types_and_advice() {
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
async fn an_existing_queue_of_any_type_is_used_as_it_is() {
    for there in [
        QueueOptions::classic(),
        QueueOptions::quorum(),
        QueueOptions::classic().max_length(5).max_priority(3),
    ] {
        let bed = Bed::new().await;
        let first = bed.serve(there).await.unwrap();
        let second = bed.serve(QueueOptions::existing()).await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(bed.sample().add(1, 1).await.unwrap(), 2);
        second.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_missing_queue_is_declared_as_classic() {
    let bed = Bed::new().await;
    let options = QueueOptions::existing().max_length(5);
    let _server = bed.serve(options).await.unwrap();
    assert_eq!(bed.sample().add(1, 1).await.unwrap(), 2);
    let error = bed.serve(QueueOptions::classic()).await.unwrap_err();
    assert!(error.to_string().contains("x-max-length '5'"), "{error}");
    let same = QueueOptions::classic().max_length(5);
    let _second = bed.serve(same).await.unwrap();
}

#[tokio::test]
async fn deliveries_of_a_quorum_queue_declared_by_others_are_counted() {
    let bed = Bed::new().await;
    let first = bed.serve(QueueOptions::quorum()).await.unwrap();
    first.shutdown().await.unwrap();
    let mut server = bed.serve(QueueOptions::existing()).await.unwrap();
    let call = bed.sample().hold().timeout(Duration::from_secs(60));
    let call = tokio::spawn(call.into_future());
    for begun in 1..=3 {
        bed.probe.until_begun(begun).await;
        drop(server);
        server = bed.serve(QueueOptions::existing()).await.unwrap();
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
    assert_eq!(bed.probe.deliveries(), [0, 1, 2]);
    assert_eq!(bed.sample().add(1, 1).await.unwrap(), 2);
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
    let unroutable = bed.sample().add(1, 1).await.unwrap_err();
    assert_eq!(unroutable.kind(), ErrorKind::Unroutable);
    bed.serve(QueueOptions::classic().max_length(5))
        .await
        .unwrap()
        .shutdown()
        .await
        .unwrap();
    // A passive server accepts every argument of the queue.
    let _server = bed.serve(QueueOptions::passive()).await.unwrap();
    assert_eq!(bed.sample().add(1, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn a_quorum_queue_serves_and_counts_deliveries() {
    let bed = Bed::new().await;
    let call = tokio::spawn(
        bed.sample()
            .hold()
            .timeout(Duration::from_secs(60))
            .into_future(),
    );
    // The queue is not declared yet.
    assert_eq!(
        call.await.unwrap().unwrap_err().kind(),
        ErrorKind::Unroutable
    );
    let mut server = bed.serve(QueueOptions::quorum()).await.unwrap();
    let call = tokio::spawn(
        bed.sample()
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
    let patient = tokio::spawn(bed.sample().hold().into_future());
    // RabbitMQ expires messages at the head of a queue; the embedded broker does so when the next message arrives.
    let late = Probe::default();
    let dispatcher = SampleDispatcher::new(late.clone()).with_queue(&dead_letters);
    let _late_server = super::start(&bed.connection, dispatcher).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    bed.probe.release(1);
    late.until_begun(1).await;
    late.release(1);
    assert_eq!(patient.await.unwrap().unwrap(), 1);
    assert_eq!(bed.probe.begun(), 1, "another server ran the request");
}

#[tokio::test]
async fn higher_priorities_are_served_first() {
    let bed = Bed::new().await;
    let server = bed
        .serve_and_hold(QueueOptions::classic().max_priority(5))
        .await;
    let sample = bed.sample();
    let mut calls = Vec::new();
    for (n, priority) in [(1, 0), (2, 3), (3, 5), (4, 3), (5, 9)] {
        let call = sample.number(n).priority(priority);
        calls.push(tokio::spawn(call.into_future()));
        bed.until_waiting(n).await;
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
    let sample = bed.sample();
    assert_eq!(sample.add(1, 1).await.unwrap(), 2);
    server.shutdown().await.unwrap();
    for queue in [bed.queue.clone(), format!("{}.retry", bed.queue)] {
        let sample = SampleClient::new(client(&bed.connection)).with_queue(queue);
        eventually("the queue has expired", async || {
            let call = sample.add(1, 1).timeout(Duration::from_millis(100));
            let error = call.await.unwrap_err();
            (error.kind() == ErrorKind::Unroutable).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_existing_last_attempt_queue_is_used_as_it_is() {
    let bed = Bed::new().await;
    let retries = format!("{}.retry", bed.queue);
    let dispatcher = SampleDispatcher::new(bed.probe.clone()).with_queue(&retries);
    let declaring = super::start(&bed.connection, dispatcher).await;
    declaring.shutdown().await.unwrap();
    let options = QueueOptions::classic().expires(Duration::from_secs(60));
    let _server = bed.serve(options).await.unwrap();
    assert_eq!(bed.sample().add(1, 1).await.unwrap(), 2);
}
