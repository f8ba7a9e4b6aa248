//! Servers with several services, and queues with several servers.

use rpc_core::{Server, rpc};
use rpc_tests::unique_queue;
use tokio::task::JoinSet;

use super::{Probe, SampleClient, SampleDispatcher, client, serve};
use crate::broker;

#[rpc]
trait Greeter {
    async fn greet(name: String) -> String;
}

struct Polite;

impl Greeter for Polite {
    async fn greet(&self, name: String) -> String {
        format!("Good day, {name}")
    }
}

#[tokio::test]
async fn several_services_share_a_server() {
    let connection = broker().await.connect().await;
    let (sample_queue, greeter_queue) = (unique_queue("sample"), unique_queue("greeter"));
    let server = Server::builder(&connection)
        .service(SampleDispatcher::new(Probe::default()).with_queue(&sample_queue))
        .service(GreeterDispatcher::new(Polite).with_queue(&greeter_queue))
        .build()
        .start()
        .await
        .unwrap();
    let sample = SampleClient::new(client(&connection)).with_queue(&sample_queue);
    let greeter = GreeterClient::new(client(&connection)).with_queue(&greeter_queue);
    assert_eq!(sample.add(1, 2).await.unwrap(), 3);
    assert_eq!(
        greeter.greet("Ada".to_owned()).await.unwrap(),
        "Good day, Ada"
    );
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn servers_of_a_queue_share_its_requests() {
    let broker = broker().await;
    let setup = broker.sample_with(|server| server.prefetch(1)).await;
    let other = Probe::default();
    let _other = serve(&broker.connect().await, &setup.queue, &other, |server| {
        server.prefetch(1)
    })
    .await;
    let calls = [(); 2].map(|()| tokio::spawn(setup.sample.hold().into_future()));
    // With a prefetch of one each, two calls cannot be at the same server.
    setup.probe.until_begun(1).await;
    other.until_begun(1).await;
    setup.probe.release(1);
    other.release(1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_prefetch_limits_concurrent_handlers() {
    let setup = broker()
        .await
        .sample_with(|server| server.prefetch(3))
        .await;
    let mut calls = JoinSet::new();
    for _ in 0..12 {
        calls.spawn(setup.sample.hold().into_future());
    }
    setup.probe.until_begun(3).await;
    setup.probe.release(12);
    while let Some(call) = calls.join_next().await {
        call.unwrap().unwrap();
    }
    assert_eq!(setup.probe.most_running(), 3);
    assert_eq!(setup.probe.begun(), 12);
}

#[tokio::test]
async fn a_prefetch_of_zero_counts_as_one() {
    let setup = broker()
        .await
        .sample_with(|server| server.prefetch(0))
        .await;
    let calls = [(); 2].map(|()| tokio::spawn(setup.sample.hold().into_future()));
    setup.probe.until_begun(1).await;
    setup.probe.release(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(setup.probe.most_running(), 1);
}
