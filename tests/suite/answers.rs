//! Calls that succeed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use rpc_core::{Connection, rpc};
use rpc_tests::unique_queue;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::{client, client_builder, start};
use crate::broker;

#[tokio::test]
async fn a_call_gets_its_response() {
    let setup = broker().await.sample().await;
    assert_eq!(setup.sample.add(2, 3).await.unwrap(), 5);
    assert_eq!(setup.sample.add(u64::MAX, 0).await.unwrap(), u64::MAX);
}

#[tokio::test]
async fn concurrent_calls_get_their_own_responses() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let other = broker.connect().await;
    let mut calls = JoinSet::new();
    for task in 0..20_u64 {
        let client = if task % 2 == 0 {
            client(&setup.connection)
        } else {
            client(&other)
        };
        let sample = super::SampleClient::new(client).with_queue(&setup.queue);
        calls.spawn(async move {
            for n in 0..50 {
                assert_eq!(sample.add(task * 1000, n).await.unwrap(), task * 1000 + n);
            }
        });
    }
    while let Some(finished) = calls.join_next().await {
        finished.unwrap();
    }
}

#[tokio::test]
async fn waiting_calls_do_not_delay_other_calls() {
    let setup = broker().await.sample().await;
    let held = tokio::spawn(setup.sample.hold().into_future());
    setup.probe.until_begun(1).await;
    assert_eq!(setup.sample.add(1, 1).await.unwrap(), 2);
    setup.probe.release(1);
    assert_eq!(held.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_blocking_handler_does_not_delay_other_calls() {
    let setup = broker().await.sample().await;
    let blocked = tokio::spawn(setup.sample.block(300).into_future());
    let started = std::time::Instant::now();
    setup.sample.add(1, 1).await.unwrap();
    assert!(!blocked.is_finished(), "{:?}", started.elapsed());
    assert_eq!(blocked.await.unwrap().unwrap(), 300);
}

#[tokio::test]
async fn bodies_of_every_size_arrive_unchanged() {
    let setup = broker().await.sample().await;
    for size in [0, 1, 4087, 131_064, 131_072, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        assert!(
            setup.sample.echo(bytes.clone()).await.unwrap() == bytes,
            "{size} bytes"
        );
    }
}

#[tokio::test]
async fn a_default_method_body_runs_on_the_server() {
    let setup = broker().await.sample().await;
    assert_eq!(setup.sample.double(21).await.unwrap(), 42);
}

#[tokio::test]
async fn a_method_may_have_a_different_name_on_the_wire() {
    let setup = broker().await.sample().await;
    assert_eq!(setup.sample.renamed().await.unwrap(), "renamed");
}

#[tokio::test]
async fn a_oneway_call_resolves_once_the_broker_has_accepted_it() {
    let setup = broker().await.sample().await;
    setup.sample.note("remember".to_owned()).await.unwrap();
    setup.probe.until_noted("remember").await;
}

#[tokio::test]
async fn confirmed_and_persistent_calls_get_responses() {
    let setup = broker().await.sample().await;
    let confirmed =
        super::SampleClient::new(client_builder(&setup.connection).confirms(true).build())
            .with_queue(&setup.queue);
    for n in 0..20 {
        assert_eq!(confirmed.add(n, 1).await.unwrap(), n + 1);
    }
    assert_eq!(
        setup
            .sample
            .add(1, 2)
            .persistent()
            .priority(3)
            .await
            .unwrap(),
        3
    );
}

#[tokio::test]
async fn a_handler_sees_the_context_of_its_call() {
    let broker = broker().await;
    let setup = broker.sample().await;
    let connection = Connection::builder(&broker.url)
        .name("the caller")
        .open()
        .await
        .unwrap();
    let sample = super::SampleClient::new(client(&connection)).with_queue(&setup.queue);
    let description = sample
        .describe()
        .header("tenant", "a")
        .timeout(std::time::Duration::from_secs(9))
        .await
        .unwrap();
    assert_eq!(description.tenant.as_deref(), Some("a"));
    assert_eq!(description.app_id.as_deref(), Some("the caller"));
    assert!(
        (5000..=9000).contains(&description.remaining_millis.unwrap()),
        "{description:?}"
    );
    assert!(!description.redelivered);
    let id = description.correlation_id.unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(id.as_bytes()[14], b'4', "a UUID of version 4: {id}");
}

#[tokio::test]
async fn correlation_ids_are_unique() {
    let setup = broker().await.sample().await;
    let mut ids = HashSet::new();
    for _ in 0..100 {
        ids.insert(setup.sample.describe().await.unwrap().correlation_id);
    }
    assert_eq!(ids.len(), 100);
}

#[rpc]
trait Shelf<T>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    async fn put(item: T);
    async fn first() -> Option<T>;
}

struct MemoryShelf<T>(Mutex<Vec<T>>);

impl<T> Shelf<T> for MemoryShelf<T>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    async fn put(&self, item: T) {
        self.0.lock().unwrap().push(item);
    }

    async fn first(&self) -> Option<T> {
        self.0.lock().unwrap().first().cloned()
    }
}

#[tokio::test]
async fn a_generic_service_is_served_and_called() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("shelf");
    let shelf =
        ShelfDispatcher::new(MemoryShelf(Mutex::new(Vec::<String>::new()))).with_queue(&queue);
    let _server = start(&connection, shelf).await;
    let shelf = ShelfClient::<String>::new(client(&connection)).with_queue(&queue);
    assert_eq!(shelf.first().await.unwrap(), None);
    shelf.put("book".to_owned()).await.unwrap();
    assert_eq!(shelf.first().await.unwrap().as_deref(), Some("book"));
}

#[tokio::test]
async fn clients_and_calls_move_between_threads() {
    fn assert_send<T: Send + 'static>(value: T) -> T {
        value
    }
    let setup = broker().await.sample().await;
    let sample = Arc::new(setup.sample.clone());
    let call = assert_send(sample.add(1, 2));
    assert_eq!(tokio::spawn(call).await.unwrap().unwrap(), 3);
}

#[tokio::test]
async fn a_call_is_a_future() {
    fn assert_unpin<T: Unpin>(value: T) -> T {
        value
    }
    let setup = broker().await.sample().await;
    let sample = &setup.sample;
    let spawned = tokio::spawn(sample.add(1, 2));
    assert_eq!(spawned.await.unwrap().unwrap(), 3);
    let sums = futures_util::future::join_all((0..9).map(|n| sample.add(n, n))).await;
    let sums: Vec<_> = sums.into_iter().map(Result::unwrap).collect();
    assert_eq!(sums, (0..9).map(|n| 2 * n).collect::<Vec<_>>());
    let mut held = assert_unpin(sample.hold());
    tokio::select! {
        answer = &mut held => panic!("{answer:?}"),
        sum = sample.add(2, 2) => assert_eq!(sum.unwrap(), 4),
    }
    setup.probe.until_begun(1).await;
    setup.probe.release(1);
    assert_eq!(held.await.unwrap(), 1);
    let spawned = tokio::spawn(sample.add(1, 2).with_headers());
    assert_eq!(spawned.await.unwrap().0.unwrap(), 3);
    assert_eq!(sample.add(1, 2).into_future().await.unwrap(), 3);
}

#[tokio::test]
async fn setters_of_a_call_apply_at_its_first_poll() {
    let setup = broker().await.sample().await;
    let mut call = setup.sample.hold();
    assert!(futures_util::poll!(&mut call).is_pending());
    // A timeout of zero would fail at once.
    let call = call.timeout(std::time::Duration::ZERO).with_headers();
    let call = tokio::spawn(call);
    setup.probe.until_begun(1).await;
    setup.probe.release(1);
    assert_eq!(call.await.unwrap().0.unwrap(), 1);
}
