//! Calls to all instances while connections are lost.

use std::time::Duration;

use rpc_core::testing::EmbeddedBroker;
use rpc_core::{Connection, ErrorKind};
use rpc_tests::unique_queue;

use crate::suite::fakes::FakeInstance;
use crate::suite::{LONG, SampleClient};

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_the_last_item() {
    let broker = EmbeddedBroker::named(unique_queue("lost"));
    let connection = Connection::open(&broker.url()).await.unwrap();
    let sample = SampleClient::new(connection.client());
    let [mut instance] = FakeInstance::several(&connection, "rpc.all.rpc.Sample").await;
    // An idempotent method: each instance runs the call at most once all the same.
    let call = sample.add(1, 2).to_all_instances().within(LONG);
    let mut answers = call.send().await.unwrap();
    instance.serve("3").await;
    assert_eq!(answers.next().await.unwrap().1.unwrap(), 3);
    broker.drop_connections();
    let (id, result) = answers.next().await.unwrap();
    let error = result.unwrap_err();
    assert_eq!((id.as_str(), error.kind()), ("", ErrorKind::Disconnected));
    assert!(error.may_have_executed());
    assert!(answers.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_sent_waits_for_the_connection() {
    let broker = EmbeddedBroker::named(unique_queue("down"));
    let connection = Connection::open(&broker.url()).await.unwrap();
    let sample = SampleClient::new(connection.client());
    broker.refuse_connections(true);
    broker.drop_connections();
    let call = || sample.add(1, 2).to_all_instances();
    let error = call().send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    assert!(error.to_string().contains("down"), "{error}");
    let query = connection.client().instances("Sample");
    let error = query.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("down"), "{error}");

    let sending = tokio::spawn(call().within(LONG).send());
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.refuse_connections(false);
    // Without an instance, the call is unroutable as soon as the connection is back.
    let error = sending.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
}
