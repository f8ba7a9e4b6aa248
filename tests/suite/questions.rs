//! Questions to instances: which there are, what they serve, and how they do.
//!
//! The instances are made by hand, so that they answer with anything.

use std::time::Duration;

use rpc_core::instances::MethodKind;
use rpc_core::testing::PeerMessage;
use rpc_core::{Client, Connection, ErrorKind};
use rpc_tests::unique_queue;
use tokio::time::Instant;

use super::fakes::FakeInstance;
use super::{LONG, client};
use crate::broker;

/// A client, the connection of instances that are made by hand, and the name of a service that only they serve.
struct Setup {
    client: Client,
    instances: Connection,
    service: String,
}

impl Setup {
    async fn new() -> Self {
        let broker = broker().await;
        Self {
            client: client(&broker.connect().await),
            instances: broker.connect().await,
            service: unique_queue("Fib"),
        }
    }

    fn topic(&self) -> String {
        format!("rpc.instances.{}", self.service)
    }

    async fn several<const N: usize>(&self) -> [FakeInstance; N] {
        FakeInstance::several(&self.instances, &self.topic()).await
    }

    /// An answer to `rpc.ping`: the id, the contract, and the second of the start.
    fn ping(&self, id: &str, contract: &str, started: u64) -> String {
        self.ping_of(&self.service, id, contract, started)
    }

    fn ping_of(&self, service: &str, id: &str, contract: &str, started: u64) -> String {
        format!(
            r#"{{"id":"{id}","name":"{id}'s","service":"{service}","version":"1.2.3","queues":["q"],"started":{{"secs_since_epoch":{started},
            "nanos_since_epoch":0}},"crate_version":"0.1.0","protocol":1,"contract":"{contract}","later":true}}"#
        )
    }

    fn description(&self, version: &str, contract: &str) -> String {
        let service = &self.service;
        format!(
            r#"{{"name":"{service}","version":"{version}","docs":null,"queue":"rpc.Fib","contract":"{contract}","methods":[{{"name":"fib",
            "docs":"The n-th.","kind":"Unary","queue":null,"arguments":[{{"name":"n","ty":{{"rust":"u64","schema":null}},"optional":false,
            "stream":false}}],"result":{{"rust":"u64","schema":null}},"error":null,"item_error":null,"idempotent":true,"at_most_once":false,
            "persistent":false,"default":false,"priority":null,"timeout":null}}]}}"#
        )
    }
}

fn list(entries: &[String]) -> String {
    format!("[{}]", entries.join(","))
}

/// Has an instance answer `rpc.ping`.
async fn answer_ping(instance: &mut FakeInstance, entries: &[String]) -> PeerMessage {
    let request = instance.serve(&list(entries)).await;
    assert_eq!(request.kind.as_deref(), Some("rpc.ping"));
    request
}

#[tokio::test]
async fn instances_are_sorted_and_their_round_trips_measured() {
    let setup = Setup::new().await;
    let mut instances = setup.several::<3>().await;
    let query = setup.client.instances(&setup.service);
    let asking = tokio::spawn(query.within(LONG).expect(3).into_future());
    for instance in instances.iter_mut().rev() {
        let request = instance.next().await;
        assert_eq!(request.kind.as_deref(), Some("rpc.ping"));
        assert_eq!(request.content_type.as_deref(), Some("application/msgpack"));
        // The clock of the instance may differ from the client's.
        assert_eq!(request.deadline, None);
        assert!(!request.batches);
        assert!(request.headers.is_empty());
        let expected = [b"\x81\xa7service", text(&setup.service).as_slice()].concat();
        assert_eq!(&request.body[..], expected);
        let entries = [
            setup.ping_of("Other", &instance.id, "c", 1),
            setup.ping(&instance.id, "c", 1),
        ];
        let answer = instance.answer(&request, list(&entries));
        if instance.id == "a" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        instance.send(&request, answer).await;
    }
    let infos = asking.await.unwrap().unwrap();
    let ids: Vec<_> = infos.iter().map(|info| info.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert!(infos.iter().all(|info| info.service == setup.service));
    assert!(infos[0].round_trip >= Duration::from_millis(50));
    assert!(infos.iter().all(|info| info.round_trip < LONG));
    assert_eq!(infos[0].version, "1.2.3");
}

/// Short text in MessagePack.
fn text(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).unwrap();
    let head = match len {
        0..=31 => vec![0xa0 | len],
        _ => vec![0xd9, len],
    };
    [&head, text.as_bytes()].concat()
}

#[tokio::test]
async fn without_instances_the_list_is_empty_at_once() {
    let setup = Setup::new().await;
    let begun = Instant::now();
    let query = setup.client.instances(&setup.service).within(LONG);
    assert_eq!(query.await.unwrap(), []);
    let query = setup.client.stats(&setup.service).within(LONG);
    assert_eq!(query.await.unwrap(), []);
    assert!(begun.elapsed() < LONG / 2);
    let query = setup.client.instances("x".repeat(300));
    assert_eq!(query.await.unwrap_err().kind(), ErrorKind::Encode);
    let query = setup.client.all_instances().within(Duration::ZERO);
    assert_eq!(query.await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn malformed_answers_are_left_out() {
    let setup = Setup::new().await;
    let [mut good, mut broken, mut refusing] = setup.several().await;
    let query = setup.client.instances(&setup.service);
    let asking = tokio::spawn(query.within(LONG).expect(3).into_future());
    broken.serve(r#"[{"id":7}]"#).await;
    let request = refusing.next().await;
    let mut fault = refusing.answer(&request, r#"{"code":"permission_denied","message":"no"}"#);
    fault.kind = Some("fault".to_owned());
    refusing.send(&request, fault).await;
    answer_ping(&mut good, &[setup.ping("a", "c", 1)]).await;
    let infos = asking.await.unwrap().unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!(infos[0].id, "a");
}

#[tokio::test]
async fn all_instances_have_an_entry_for_each_service() {
    let setup = Setup::new().await;
    let topics = ["rpc.instances".to_owned()];
    let mut instance = FakeInstance::start(&setup.instances, "a", &topics).await;
    // Servers of other tests may answer as well.
    let query = setup.client.all_instances().within(Duration::from_secs(2));
    let asking = tokio::spawn(query.into_future());
    let entries = ["Z", "A"].map(|service| setup.ping_of(service, &setup.service, "c", 1));
    let request = answer_ping(&mut instance, &entries).await;
    assert_eq!(&request.body[..], [0x80]);
    let infos = asking.await.unwrap().unwrap();
    let own = infos.iter().filter(|info| info.id == setup.service);
    let services: Vec<_> = own.map(|info| info.service.as_str()).collect();
    assert_eq!(services, ["A", "Z"]);
}

#[tokio::test]
async fn statistics_of_all_instances_are_sorted() {
    let setup = Setup::new().await;
    let mut instances = setup.several::<2>().await;
    let query = setup.client.stats(&setup.service);
    let asking = tokio::spawn(query.within(LONG).expect(2).into_future());
    for instance in instances.iter_mut().rev() {
        let (id, service) = (&instance.id, &setup.service);
        let time = r#"{"secs":0,"nanos":5}"#;
        let body = format!(
            r#"[{{"id":"{id}","name":"n","service":"{service}","since":{{"secs_since_epoch":1,"nanos_since_epoch":0}},"methods":[{{"name":"fib",
            "calls":3,"results":1,"errors":1,"faults":{{"panicked":1}},"in_flight":1,"streams":0,"mean":{time},"p50":{time},"p90":{time},
            "p99":{time},"max":{time}}}],"oldest":[{{"method":"fib","age":{time},"correlation_id":"x"}}]}}]"#
        );
        let request = instance.serve(&body).await;
        assert_eq!(request.kind.as_deref(), Some("rpc.stats"));
    }
    let stats = asking.await.unwrap().unwrap();
    let ids: Vec<_> = stats.iter().map(|stats| stats.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(stats[0].methods[0].faults["panicked"], 1);
    assert_eq!(stats[0].oldest[0].age, Duration::from_nanos(5));
}

#[tokio::test]
async fn the_description_is_that_of_the_contract_with_the_most_instances() {
    let setup = Setup::new().await;
    let mut instances = setup.several::<3>().await;
    let query = setup.client.describe(&setup.service);
    let asking = tokio::spawn(query.within(Duration::from_secs(2)).into_future());
    for (instance, contract) in instances.iter_mut().zip(["old", "new", "old"]) {
        let ping = setup.ping(&instance.id, contract, 1);
        answer_ping(instance, &[ping]).await;
    }
    // One instance of each contract is asked, by its name.
    for (asked, contract, version) in [(0, "old", "1.0.0"), (1, "new", "2.0.0")] {
        let body = list(&[setup.description(version, contract)]);
        let request = instances[asked].serve(&body).await;
        assert_eq!(request.kind.as_deref(), Some("rpc.describe"));
        assert_eq!(request.topic, None);
    }
    let description = asking.await.unwrap().unwrap();
    assert_eq!(description.version, "1.0.0");
    assert_eq!(description.methods[0].kind, MethodKind::Unary);
}

#[tokio::test]
async fn among_equals_the_contract_that_started_last_is_described() {
    let setup = Setup::new().await;
    let mut instances = setup.several::<2>().await;
    let query = setup.client.describe(&setup.service);
    let asking = tokio::spawn(query.within(Duration::from_secs(2)).into_future());
    for (instance, contract, started) in [(0, "old", 1), (1, "new", 2)] {
        let ping = setup.ping("x", contract, started);
        answer_ping(&mut instances[instance], &[ping]).await;
    }
    for (instance, contract, version) in [(0, "old", "1.0.0"), (1, "new", "2.0.0")] {
        let body = list(&[setup.description(version, contract)]);
        instances[instance].serve(&body).await;
    }
    assert_eq!(asking.await.unwrap().unwrap().version, "2.0.0");
}

#[tokio::test]
async fn the_number_of_contracts_that_are_asked_for_is_limited() {
    let setup = Setup::new().await;
    let [mut instance] = setup.several().await;
    let query = setup.client.describe(&setup.service);
    let asking = tokio::spawn(query.within(Duration::from_secs(2)).into_future());
    let request = instance.next().await;
    // The instance itself has the oldest of 65 contracts. The others cannot be asked.
    for number in 0..65 {
        let (id, started) = match number {
            0 => (instance.id.clone(), 1),
            _ => (format!("forged-{number}"), 1 + number),
        };
        let ping = setup.ping(&id, &format!("contract {number}"), started);
        let mut answer = instance.answer(&request, list(&[ping]));
        answer.headers.insert("rpc-instance", id.as_str());
        instance.send(&request, answer).await;
    }
    tokio::select! {
        biased;
        request = instance.next() => panic!("{request:?}"),
        described = asking => {
            let error = described.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unroutable, "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_description_that_is_too_long_is_not_read() {
    let setup = Setup::new().await;
    let [mut instance] = setup.several().await;
    let query = setup.client.describe(&setup.service);
    let asking = tokio::spawn(query.within(Duration::from_secs(5)).into_future());
    let ping = setup.ping(&instance.id, "c", 1);
    answer_ping(&mut instance, &[ping]).await;
    let long = setup.description(&"1".repeat(5 << 20), "c");
    instance.serve(&list(&[long])).await;
    let error = asking.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
}

#[tokio::test]
async fn an_instance_that_is_gone_is_replaced_by_another_with_the_same_contract() {
    let setup = Setup::new().await;
    let [mut gone, mut other, mut stranger] = setup.several().await;
    let query = setup.client.describe(&setup.service);
    let asking = tokio::spawn(query.within(Duration::from_secs(2)).into_future());
    // The one that started last is asked first.
    let secret = unique_queue("secret");
    let request = stranger.next().await;
    let mut answer = stranger.answer(&request, list(&[setup.ping("c", "same", 3)]));
    answer.reply_to = Some(secret);
    stranger.send(&request, answer).await;
    answer_ping(&mut gone, &[setup.ping("a", "same", 2)]).await;
    drop(gone);
    answer_ping(&mut other, &[setup.ping("b", "same", 1)]).await;
    let body = list(&[setup.description("1.0.0", "same")]);
    other.serve(&body).await;
    assert_eq!(asking.await.unwrap().unwrap().version, "1.0.0");
}

#[tokio::test]
async fn a_service_without_instances_has_no_description() {
    let setup = Setup::new().await;
    let error = setup.client.describe(&setup.service).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    let told = error.to_string();
    assert!(
        told.contains(&setup.service) && told.contains("running"),
        "{told}"
    );
}

#[tokio::test]
async fn a_queue_that_is_not_of_the_instance_gets_nothing() {
    let setup = Setup::new().await;
    let [mut instance] = setup.several().await;
    let mut victim = FakeInstance::start(&setup.instances, "victim", &[]).await;
    let query = setup.client.describe(&setup.service);
    let asking = tokio::spawn(query.within(Duration::from_millis(500)).into_future());
    let request = instance.next().await;
    let mut answer = instance.answer(&request, list(&[setup.ping("a", "same", 3)]));
    answer.reply_to = Some(victim.private_queue.clone());
    instance.send(&request, answer).await;
    let error = asking.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    // The next message in the queue is this one.
    let own = PeerMessage {
        kind: Some("own".to_owned()),
        reply_to: Some(victim.private_queue.clone()),
        ..PeerMessage::default()
    };
    instance.send(&own, own.clone()).await;
    assert_eq!(victim.next().await.kind.as_deref(), Some("own"));
}
