//! Queue options and names at their extremes.

use std::time::Duration;

use rpc_core::{ErrorKind, QueueOptions, ServeError, Server};
use rpc_tests::unique_queue;

use super::queue_options::Bed;
use super::{BenchClient, BenchDispatcher, Probe, client, client_builder, start};

/// The longest time that RabbitMQ counts: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What the broker says of options that it refuses.
async fn refusal(options: QueueOptions) -> String {
    let bed = Bed::new().await;
    match bed.serve(options).await {
        Err(ServeError::QueueRefused { queue, source }) => {
            assert_eq!(queue, bed.queue);
            source.to_string()
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was accepted"),
    }
}

#[tokio::test]
async fn a_time_too_long_for_the_broker_is_refused_with_the_arguments_name() {
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
    let bench = BenchClient::new(client).with_queue(&bed.queue);
    let waiting = tokio::spawn(bench.add(1, 1).into_future());
    bench.note("behind it".to_owned()).await.unwrap();
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
    let bench = bed.bench();
    let mut calls = Vec::new();
    for (n, priority) in [(1, 254), (2, 0), (3, 255)] {
        let call = bench.number(n).priority(priority);
        calls.push(tokio::spawn(call.into_future()));
        bench.note(n.to_string()).await.unwrap();
    }
    bed.probe.release(1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bed.probe.numbers(), [3, 1, 2]);
}

#[tokio::test]
async fn a_queue_for_no_requests_rejects_all() {
    let bed = Bed::new().await;
    let _server = bed
        .serve(QueueOptions::classic().max_length(0))
        .await
        .unwrap();
    let error = bed.bench().add(1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
}

#[tokio::test]
async fn without_time_to_live_a_request_is_served_at_once_or_not_at_all() {
    for options in [QueueOptions::classic(), QueueOptions::quorum()] {
        let bed = Bed::new().await;
        let dead_letters = format!("{}-expired", bed.queue);
        let options = options
            .message_ttl(Duration::from_micros(999)) // Cut to whole milliseconds.
            .dead_letter_queue(&dead_letters);
        let _server = bed.serve(options).await.unwrap();
        let late = Probe::default();
        let dispatcher = BenchDispatcher::new(late.clone()).with_queue(&dead_letters);
        let _late_server = start(&bed.connection, dispatcher).await;
        for n in 1..=5 {
            assert_eq!(bed.bench().add(n, 1).await.unwrap(), n + 1);
        }
        let held = tokio::spawn(bed.bench().hold().into_future());
        bed.probe.until_begun(1).await;
        bed.bench().number(7).await.unwrap();
        assert_eq!(late.numbers(), [7], "it was served by another");
        bed.probe.release(1);
        held.await.unwrap().unwrap();
        bed.bench().number(8).await.unwrap();
        assert_eq!(bed.probe.numbers(), [8]);
    }
}

#[tokio::test]
async fn a_queue_is_used_until_its_last_server_has_gone() {
    let bed = Bed::new().await;
    let options = QueueOptions::classic().expires(Duration::from_secs(1));
    let server = bed.serve(options.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    server.shutdown().await.unwrap();
    let call = tokio::spawn(bed.bench().number(1).into_future());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _server = bed.serve(options).await.unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn names_that_no_queue_can_have_are_refused() {
    let connection = crate::broker().await.connect().await;
    let long = unique_queue("long") + &"x".repeat(256);
    let reserved = unique_queue("amq.reserved");
    for (name, of_calls) in [
        (&*long, ErrorKind::Encode),
        (&*reserved, ErrorKind::Unroutable),
        ("", ErrorKind::Unroutable),
    ] {
        let dispatcher = BenchDispatcher::new(Probe::default()).with_queue(name);
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
        let bench = BenchClient::new(client(&connection)).with_queue(name);
        let errors = [
            bench.add(1, 1).await.unwrap_err(),
            bench.note("confirmed".to_owned()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), of_calls, "{error}");
            assert!(!error.may_have_executed());
        }
    }
}
