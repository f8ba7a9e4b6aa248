//! Extreme queue options and names.

use std::time::Duration;

use rpc_core::{ErrorKind, QueueOptions, ServeError, Server};
use rpc_tests::unique_queue;

use super::queue_options::Bed;
use super::{Probe, SampleClient, SampleDispatcher, client, client_builder, start};

/// The longest time that RabbitMQ accepts: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The broker's reason for the refusal of options.
async fn refusal(options: QueueOptions) -> String {
    let bed = Bed::new().await;
    match bed.serve(options).await {
        Err(ServeError::QueueRefused { queue, source }) => {
            assert_eq!(queue, bed.queue);
            source.to_string()
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the broker accepted the options"),
    }
}

#[tokio::test]
async fn a_time_too_long_for_the_broker_is_refused_by_argument_name() {
    for time in [LONGEST + Duration::from_millis(1), Duration::MAX] {
        let reason = refusal(QueueOptions::classic().message_ttl(time)).await;
        assert!(reason.contains("x-message-ttl"), "{reason}");
        let reason = refusal(QueueOptions::classic().expires(time)).await;
        assert!(reason.contains("x-expires"), "{reason}");
    }
}

#[tokio::test]
async fn the_longest_times_are_accepted() {
    let bed = Bed::new().await;
    let options = QueueOptions::classic()
        .message_ttl(LONGEST)
        .expires(LONGEST);
    let _server = bed.serve_and_hold(options).await;
    let client = client_builder(&bed.connection).expiration(false).build();
    let sample = SampleClient::new(client).with_queue(&bed.queue);
    let waiting = tokio::spawn(sample.add(1, 1).into_future());
    sample.note("behind it".to_owned()).await.unwrap();
    bed.probe.release(1);
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn a_quorum_queue_refuses_priorities() {
    let reason = refusal(QueueOptions::quorum().max_priority(5)).await;
    assert!(reason.contains("x-max-priority"), "{reason}");
}

#[tokio::test]
async fn the_highest_priority_is_served_first() {
    let bed = Bed::new().await;
    let _server = bed
        .serve_and_hold(QueueOptions::classic().max_priority(u8::MAX))
        .await;
    let sample = bed.sample();
    let mut calls = Vec::new();
    for (n, priority) in [(1, 254), (2, 0), (3, 255)] {
        let call = sample.number(n).priority(priority);
        calls.push(tokio::spawn(call.into_future()));
        bed.until_waiting(n).await;
    }
    bed.probe.release(1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bed.probe.numbers(), [3, 1, 2]);
}

#[tokio::test]
async fn a_queue_of_length_zero_rejects_all_requests() {
    let bed = Bed::new().await;
    let _server = bed
        .serve(QueueOptions::classic().max_length(0))
        .await
        .unwrap();
    let error = bed.sample().add(1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
}

#[tokio::test]
async fn requests_with_a_ttl_of_zero_are_served_at_once_or_never() {
    for options in [QueueOptions::classic(), QueueOptions::quorum()] {
        let bed = Bed::new().await;
        let dead_letters = format!("{}-expired", bed.queue);
        let options = options
            .message_ttl(Duration::from_micros(999)) // Truncated to whole milliseconds.
            .dead_letter_queue(&dead_letters);
        let _server = bed.serve(options).await.unwrap();
        let late = Probe::default();
        let dispatcher = SampleDispatcher::new(late.clone()).with_queue(&dead_letters);
        let _late_server = start(&bed.connection, dispatcher).await;
        for n in 1..=5 {
            assert_eq!(bed.sample().add(n, 1).await.unwrap(), n + 1);
        }
        let held = tokio::spawn(bed.sample().hold().into_future());
        bed.probe.until_begun(1).await;
        bed.sample().number(7).await.unwrap();
        assert_eq!(late.numbers(), [7], "another server ran the request");
        bed.probe.release(1);
        held.await.unwrap().unwrap();
        bed.sample().number(8).await.unwrap();
        assert_eq!(bed.probe.numbers(), [8]);
    }
}

#[tokio::test]
async fn a_queue_expires_only_after_its_last_server_is_gone() {
    let bed = Bed::new().await;
    let options = QueueOptions::classic().expires(Duration::from_secs(1));
    let server = bed.serve(options.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    server.shutdown().await.unwrap();
    let call = tokio::spawn(bed.sample().number(1).into_future());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _server = bed.serve(options).await.unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn invalid_queue_names_are_refused() {
    let connection = crate::broker().await.connect().await;
    let long = unique_queue("long") + &"x".repeat(256);
    let reserved = unique_queue("amq.reserved");
    for (name, of_calls) in [
        (&*long, ErrorKind::Encode),
        (&*reserved, ErrorKind::Unroutable),
        ("", ErrorKind::Unroutable),
    ] {
        let dispatcher = SampleDispatcher::new(Probe::default()).with_queue(name);
        let server = Server::builder(&connection).service(dispatcher).build();
        let refused = server.start().await.map(drop).unwrap_err();
        assert!(
            matches!(
                &refused,
                ServeError::QueueRefused { queue, .. } | ServeError::InvalidQueue { queue, .. }
                    if queue == name
            ),
            "{refused:?}"
        );
        let sample = SampleClient::new(client(&connection)).with_queue(name);
        let errors = [
            sample.add(1, 1).await.unwrap_err(),
            sample.note("confirmed".to_owned()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), of_calls, "{error}");
            assert!(!error.may_have_executed());
        }
    }
}
