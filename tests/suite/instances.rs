//! Instances from end to end: clients that ask and call real servers, which come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rpc_core::instances::{Contract, InstanceInfo, InstanceStats, ServiceClient};
use rpc_core::testing::Peer;
use rpc_core::{
    Answers, CallError, Client, Connection, ErrorKind, Health, Request, RpcError, Server,
    ServerBuilder, ServerHandle, rpc,
};
use rpc_tests::{eventually, unique_queue};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tower::util::MapRequestLayer;

use super::warnings::Warnings;
use super::{
    Broker, Description, LONG, Probe, SampleClient, SampleDispatcher, client, client_builder,
    of_method, serve, start, until_late,
};
use crate::{broker, fragile_broker};

/// Time in which instances that can answer do so. Tests that look for missing answers wait for all of it.
const WHILE: Duration = Duration::from_secs(2);

/// Client and queue of a sample service.
struct Fleet {
    broker: Broker,
    client: Client,
    sample: SampleClient,
    queue: String,
}

/// One server of a fleet, with a connection of its own.
struct Member {
    server: ServerHandle,
    probe: Probe,
    connection: Connection,
}

impl Fleet {
    async fn new() -> Self {
        let broker = broker().await;
        let client = client(&broker.connect().await);
        let queue = unique_queue("fleet");
        Self {
            broker,
            sample: SampleClient::new(client.clone()).with_queue(&queue),
            client,
            queue,
        }
    }

    async fn of_two() -> (Self, Member, Member) {
        let fleet = Self::new().await;
        let (a, b) = (fleet.member().await, fleet.member().await);
        (fleet, a, b)
    }

    async fn member(&self) -> Member {
        self.member_with(|server| server).await
    }

    async fn member_with(&self, options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Member {
        let connection = self.broker.connect().await;
        let probe = Probe::default();
        Member {
            server: serve(&connection, &self.queue, &probe, options).await,
            probe,
            connection,
        }
    }

    /// Holds a call on these members.
    async fn hold(&self, within: Duration, members: &[&Member]) -> Answers<Held> {
        let call = self.sample.hold().to_all_instances();
        let answers = call.within(within).send().await.unwrap();
        for member in members {
            member.probe.until_begun(1).await;
        }
        answers
    }

    /// Calls all instances, and gives the ids of those that answered.
    async fn answering(&self) -> Vec<String> {
        let call = self.sample.add(1, 2).to_all_instances().within(WHILE);
        let answers = gathered(call.send().await.unwrap()).await;
        assert!(answers.values().all(|sum| matches!(sum, Ok(3))));
        answers.into_keys().collect()
    }

    /// The listed instances of this fleet. Other tests have servers of the same service.
    async fn listed(&self) -> Vec<InstanceInfo> {
        let query = self.client.instances("Sample").within(WHILE);
        let mut infos = query.await.unwrap();
        infos.retain(|info| info.queues == [self.queue.as_str()]);
        infos
    }

    async fn listed_ids(&self) -> Vec<String> {
        let infos = self.listed().await.into_iter();
        infos.map(|info| info.id).collect()
    }

    async fn stats<const N: usize>(&self, members: [&Member; N]) -> [InstanceStats; N] {
        stats_of(&self.client, members.map(|member| &member.server)).await
    }
}

type Held = Result<usize, RpcError>;

/// Sorted ids of servers.
fn ids<const N: usize>(servers: [&ServerHandle; N]) -> Vec<String> {
    let mut ids = servers.map(|server| server.instance_id().to_owned());
    ids.sort_unstable();
    ids.into()
}

/// Statistics of servers of the sample service.
async fn stats_of<const N: usize>(
    client: &Client,
    servers: [&ServerHandle; N],
) -> [InstanceStats; N] {
    let all = client.stats("Sample").within(WHILE).await.unwrap();
    servers.map(|server| {
        let mut all = all.iter();
        let own = all.find(|stats| stats.id == server.instance_id());
        own.expect("an answer of the server").clone()
    })
}

/// All answers, by the ids of their instances.
async fn gathered<R>(mut answers: Answers<R>) -> BTreeMap<String, R> {
    let mut gathered = BTreeMap::new();
    while let Some((id, answer)) = answers.next().await {
        let earlier = gathered.insert(id, answer);
        assert!(earlier.is_none(), "an instance answered twice");
    }
    gathered
}

/// A service with a queue for one of its methods.
#[rpc(version = "1.4", queue = "garden")]
trait Garden {
    async fn water(litres: u64) -> u64;
    #[rpc(queue = "garden.slow", idempotent, timeout = "5s")]
    async fn grow(plant: String, #[serde(default)] weeks: u64) -> Result<u64, Withered>;
}

#[derive(Debug, Serialize, Deserialize)]
struct Withered;

struct Gardener;

impl Garden for Gardener {
    async fn water(&self, litres: u64) -> u64 {
        litres
    }

    async fn grow(&self, _: String, weeks: u64) -> Result<u64, Withered> {
        Ok(weeks)
    }
}

/// Asserts that no instance of the garden answers.
async fn assert_no_garden(client: &Client) {
    assert_eq!(client.instances("Garden").within(LONG).await.unwrap(), []);
    assert_eq!(client.stats("Garden").within(LONG).await.unwrap(), []);
    let described = client.describe("Garden").await.unwrap_err();
    let checked = client.check_contract::<GardenClient>().await.unwrap_err();
    for error in [described, checked] {
        assert_eq!(error.kind(), ErrorKind::Unroutable);
        assert!(!error.may_have_executed());
        assert!(error.to_string().contains("Garden"), "{error}");
    }
}

#[tokio::test]
async fn clients_find_the_servers_that_run() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let clients = [
        client(&connection),
        client_builder(&connection).json().build(),
    ];
    for client in &clients {
        assert_no_garden(client).await;
    }
    let before = SystemTime::now();
    let prefix = unique_queue("prefix.");
    let dispatcher = || GardenDispatcher::new(Gardener).with_queue_prefix(&prefix);
    let named = Connection::builder(&broker.url).name("gardener");
    let named = named.open().await.unwrap();
    let first = start(&connection, dispatcher()).await;
    let second = start(&named, dispatcher().with_version("2.0-beta")).await;
    let queues = [format!("{prefix}garden"), format!("{prefix}garden.slow")];
    let mut expected = [
        (first.instance_id(), "1.4", connection.name()),
        (second.instance_id(), "2.0-beta", "gardener"),
    ];
    expected.sort_unstable();
    for client in &clients {
        let infos = client.instances("Garden").within(LONG).expect(2);
        let infos = infos.await.unwrap();
        assert_eq!(infos.len(), 2);
        for (info, (id, version, name)) in infos.iter().zip(expected) {
            assert_eq!(
                (&*info.id, &*info.version, &*info.name),
                (id, version, name)
            );
            assert_eq!((&*info.service, &info.queues[..]), ("Garden", &queues[..]));
            assert!((before..=SystemTime::now()).contains(&info.started));
            assert!((Duration::from_nanos(1)..LONG).contains(&info.round_trip));
            assert_eq!(info.contract, <GardenClient>::service_info().contract);
        }
        let all = client.all_instances().within(WHILE).await.unwrap();
        let own = all.iter().filter(|info| info.service == "Garden");
        let own: Vec<_> = own.map(|info| &*info.id).collect();
        assert_eq!(own, expected.map(|(id, ..)| id));

        // Both serve one contract. The instance that started last describes the contract.
        let described = client.describe("Garden").within(WHILE).await.unwrap();
        assert_eq!(described.version, "2.0-beta");
        assert_eq!(described.queue, queues[0]);
        let [water, grow] = &described.methods[..] else {
            panic!("{described:?}");
        };
        assert_eq!((&*water.name, &water.queue), ("water", &None));
        assert_eq!(grow.queue.as_ref(), Some(&queues[1]));
        assert_eq!(grow.timeout, Some(Duration::from_secs(5)));
        assert!(grow.idempotent && grow.arguments[1].optional);
        let checked = client.check_contract::<GardenClient>().within(WHILE);
        assert_eq!(checked.await.unwrap(), Contract::Same);
    }

    drop(second);
    eventually("the dropped server is gone", async || {
        let query = clients[0].instances("Garden").within(WHILE);
        let infos = query.await.unwrap();
        (infos.len() == 1 && infos[0].id == first.instance_id()).then_some(())
    })
    .await;
    let described = clients[0].describe("Garden").within(WHILE).await.unwrap();
    assert_eq!(described.version, "1.4");
    first.shutdown().await.unwrap();
    eventually("the private queue is gone", async || {
        let query = clients[0].instances("Garden").within(WHILE);
        query.await.unwrap().is_empty().then_some(())
    })
    .await;
    assert_no_garden(&clients[0]).await;
}

#[rpc]
trait Shed {
    async fn open() -> u64;
}

#[rpc(version = "3")]
trait Barn {
    async fn close();
}

impl Shed for Gardener {
    async fn open(&self) -> u64 {
        1
    }
}

impl Barn for Gardener {
    async fn close(&self) {}
}

#[tokio::test]
async fn each_service_of_a_server_has_answers_of_its_own() {
    let connection = broker().await.connect().await;
    let [shed, barn] = ["shed", "barn"].map(unique_queue);
    let server = Server::builder(&connection)
        .service(ShedDispatcher::new(Gardener).with_queue(&shed))
        .service(BarnDispatcher::new(Gardener).with_queue(&barn))
        .build()
        .start()
        .await
        .unwrap();
    let client = client(&connection);
    ShedClient::new(client.clone())
        .with_queue(&shed)
        .open()
        .await
        .unwrap();
    for (service, queue, method, calls) in [("Shed", &shed, "open", 1), ("Barn", &barn, "close", 0)]
    {
        let infos = client.instances(service).within(LONG).expect(1);
        let [info] = &infos.await.unwrap()[..] else {
            panic!("not one entry for {service}");
        };
        assert_eq!((&*info.id, &*info.service), (server.instance_id(), service));
        assert_eq!(info.queues, [queue.as_str()]);
        let stats = client.stats(service).within(LONG).expect(1);
        let [stats] = &stats.await.unwrap()[..] else {
            panic!("not one entry for {service}");
        };
        assert_eq!(stats.service, service);
        let methods = stats.methods.iter();
        let counted: Vec<_> = methods.map(|it| (&*it.name, it.calls)).collect();
        assert_eq!(counted, [(method, calls)]);
        let described = client.describe(service).within(WHILE).await.unwrap();
        assert_eq!((&*described.name, &described.queue), (service, queue));
    }
    let all = client.all_instances().within(WHILE).await.unwrap();
    let own = all.iter().filter(|info| info.id == server.instance_id());
    let own: Vec<_> = own.map(|info| (&*info.service, &*info.version)).collect();
    assert_eq!(own, [("Barn", "3"), ("Shed", env!("CARGO_PKG_VERSION"))]);
    let checked = client.check_contract::<BarnClient>().within(WHILE).await;
    assert_eq!(checked.unwrap(), Contract::Same);
}

#[tokio::test]
async fn statistics_count_the_calls_of_each_server() {
    let (fleet, a, b) = Fleet::of_two().await;
    let sample = &fleet.sample;
    for divisor in [1, 0, 2] {
        let call = sample.divide(6, divisor).to_all_instances();
        let answers = gathered(call.within(LONG).expect(2).send().await.unwrap()).await;
        assert!(
            answers
                .values()
                .all(|answer| answer.is_ok() == (divisor > 0))
        );
    }
    let call = sample.panic().to_all_instances().within(LONG).expect(2);
    gathered(call.send().await.unwrap()).await;
    let held = fleet.hold(LONG, &[&a, &b]).await;
    tokio::time::sleep(Duration::from_millis(20)).await; // The handlers run for at least this time.

    let mut held_ids = Vec::new();
    for stats in fleet.stats([&a, &b]).await {
        let divide = of_method(&stats, "divide");
        let counts = (divide.calls, divide.results, divide.errors);
        assert_eq!((counts, divide.faults.len()), ((3, 2, 1), 0));
        let times = [divide.p50, divide.p90, divide.p99, divide.max];
        assert!(
            times.is_sorted() && divide.p50 > Duration::ZERO,
            "{divide:?}"
        );
        assert!(divide.mean > Duration::ZERO && divide.mean <= divide.max);
        let panicked = [("panicked".to_owned(), 1)].into();
        let panic = of_method(&stats, "panic");
        assert_eq!((panic.calls, &panic.faults), (1, &panicked));
        let hold = of_method(&stats, "hold");
        assert_eq!((hold.calls, hold.in_flight), (0, 1));
        let [oldest] = &stats.oldest[..] else {
            panic!("{:?}", stats.oldest);
        };
        assert_eq!(oldest.method, "hold");
        assert!((Duration::from_millis(20)..LONG).contains(&oldest.age));
        held_ids.push(oldest.correlation_id.clone().unwrap());
    }
    assert_eq!(held_ids[0], held_ids[1]);

    for member in [&a, &b] {
        member.probe.release(1);
    }
    let mut held = held;
    for _ in 0..2 {
        held.next().await.unwrap().1.unwrap();
    }
    // A JSON client. The last call ended before its reply was sent.
    let json = fleet.broker.connect().await.client_builder().json().build();
    for stats in stats_of(&json, [&a.server, &b.server]).await {
        let hold = of_method(&stats, "hold");
        assert_eq!((hold.calls, hold.results, hold.in_flight), (1, 1, 0));
        assert!(hold.max >= Duration::from_millis(20), "{hold:?}");
        assert_eq!(stats.oldest, []);
    }
}

#[tokio::test]
async fn all_servers_of_the_queue_run_a_call_once_and_no_others() {
    let (fleet, a, b) = Fleet::of_two().await;
    let connection = fleet.broker.connect().await;
    let elsewhere = Probe::default();
    let _elsewhere = serve(&connection, &unique_queue("other"), &elsewhere, |it| it).await;
    let prefixed = Probe::default();
    let dispatcher = SampleDispatcher::new(prefixed.clone()).with_queue(&fleet.queue);
    let with_prefix = start(&connection, dispatcher.with_queue_prefix("v2.")).await;

    let call = fleet.sample.number(7).to_all_instances().within(WHILE);
    let answers = gathered(call.send().await.unwrap()).await;
    assert!(answers.values().all(Result::is_ok));
    assert!(answers.into_keys().eq(ids([&a.server, &b.server])));
    for probe in [&a.probe, &b.probe] {
        assert_eq!(probe.numbers(), [7]);
    }
    for probe in [&elsewhere, &prefixed] {
        assert!(probe.numbers().is_empty());
    }

    let other = fleet.sample.clone().with_queue_prefix("v2.");
    let call = other.number(8).to_all_instances().within(WHILE);
    let answers = gathered(call.send().await.unwrap()).await;
    assert!(answers.into_keys().eq(ids([&with_prefix])));
    assert_eq!(prefixed.numbers(), [8]);
    for probe in [&a.probe, &b.probe, &elsewhere] {
        assert!(!probe.numbers().contains(&8));
    }
}

#[tokio::test]
async fn every_run_has_the_headers_the_deadline_and_the_id_of_the_call() {
    let (fleet, a, b) = Fleet::of_two().await;
    let json = client_builder(&fleet.broker.connect().await).json().build();
    let json = SampleClient::new(json).with_queue(&fleet.queue);
    for sample in [&fleet.sample, &json] {
        let describe = || sample.describe().header("tenant", "a").priority(3);
        for (call, limit) in [(describe(), LONG), (describe().timeout(LONG / 2), LONG / 2)] {
            let call = call.to_all_instances().within(LONG).expect(2);
            let answers = gathered(call.send().await.unwrap()).await;
            assert!(answers.keys().eq(&ids([&a.server, &b.server])));
            let seen = answers.into_values().map(Result::unwrap);
            let seen: Vec<Description> = seen.collect();
            let limit = u64::try_from(limit.as_millis()).unwrap();
            for seen in &seen {
                assert_eq!(seen.tenant.as_deref(), Some("a"));
                assert!((limit * 3 / 4..=limit).contains(&seen.remaining_millis.unwrap()));
                assert!(!seen.redelivered);
            }
            assert!(seen[0].correlation_id.is_some());
            assert_eq!(seen[0].correlation_id, seen[1].correlation_id);
        }
    }
}

/// A service whose servers differ in their answers.
#[rpc]
trait Vault {
    async fn open() -> Result<u64, Locked>;
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Locked {
    by: String,
}

enum Door {
    Open,
    Locked,
    Broken,
}

impl Vault for Door {
    async fn open(&self) -> Result<u64, Locked> {
        match self {
            Self::Open => Ok(1),
            Self::Locked => Err(Locked { by: "me".into() }),
            Self::Broken => panic!("as requested"),
        }
    }
}

#[tokio::test]
async fn errors_and_faults_are_those_of_single_instances() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("vault");
    let serve = async |door| {
        let dispatcher = VaultDispatcher::new(door).with_queue(&queue);
        start(&connection, dispatcher).await
    };
    let [open, locked, broken] = [
        serve(Door::Open).await,
        serve(Door::Locked).await,
        serve(Door::Broken).await,
    ];
    let vault = VaultClient::new(client(&connection)).with_queue(&queue);
    let call = vault.open().to_all_instances().within(LONG).expect(3);
    let mut answers = gathered(call.send().await.unwrap()).await;
    let mut answer = |server: &ServerHandle| answers.remove(server.instance_id()).unwrap();
    assert_eq!(answer(&open).unwrap(), 1);
    match answer(&locked).unwrap_err() {
        CallError::App(locked) => assert_eq!(locked.by, "me"),
        CallError::Rpc(error) => panic!("{error:?}"),
    }
    match answer(&broken).unwrap_err() {
        CallError::Rpc(error) => assert_eq!(error.kind(), ErrorKind::Panicked),
        CallError::App(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn handlers_that_run_at_the_time_limit_are_cancelled() {
    let (fleet, a, b) = Fleet::of_two().await;
    let mut answers = fleet.hold(WHILE, &[&a, &b]).await;
    a.probe.release(1);
    let (id, held) = answers.next().await.unwrap();
    assert_eq!((&*id, held.unwrap()), (a.server.instance_id(), 1));
    // The server may notice the time limit before the client.
    let rest = gathered(answers).await;
    for (id, held) in &rest {
        assert_eq!(id, b.server.instance_id());
        assert_eq!(held.as_ref().unwrap_err().kind(), ErrorKind::Timeout);
    }
    b.probe.until_dropped(1).await;
    assert_eq!((a.probe.begun(), b.probe.begun()), (1, 1));
}

#[tokio::test]
async fn answers_that_nothing_waits_for_are_late() {
    let (fleet, a, b) = Fleet::of_two().await;
    let call = fleet.sample.hold().to_all_instances();
    let answers = call.within(LONG).expect(1).send().await.unwrap();
    for member in [&a, &b] {
        member.probe.until_begun(1).await;
    }
    a.probe.release(1);
    assert!(gathered(answers).await.into_keys().eq(ids([&a.server])));
    assert_eq!(fleet.client.dropped_replies().late, 0);
    // The other instance still runs the call.
    b.probe.release(1);
    until_late(&fleet.client, 1).await;
    drop((a, b));

    // A handler that cannot be stopped answers after the time limit.
    let _slow = fleet.member().await;
    let call = fleet.sample.block(1_000).to_all_instances();
    let answers = call.within(WHILE / 4).send().await.unwrap();
    let answers = gathered(answers).await;
    assert!(answers.values().all(Result::is_err), "{answers:?}");
    until_late(&fleet.client, 2 - answers.len() as u64).await;
}

#[tokio::test]
async fn dropping_the_answers_cancels_every_handler() {
    let (fleet, a, b) = Fleet::of_two().await;
    let answers = fleet.hold(LONG, &[&a, &b]).await;
    drop(answers);
    for member in [&a, &b] {
        member.probe.until_dropped(1).await;
    }
    assert_eq!(fleet.answering().await, ids([&a.server, &b.server]));
}

/// A service that calls all servers of the sample service.
#[rpc]
trait Front {
    async fn ask_all() -> Vec<Description>;
}

struct Asking(SampleClient);

impl Front for Asking {
    async fn ask_all(&self) -> Vec<Description> {
        let call = self.0.describe().to_all_instances().within(LONG).expect(2);
        let answers = gathered(call.send().await.unwrap()).await;
        answers.into_values().map(Result::unwrap).collect()
    }
}

#[tokio::test]
async fn a_call_in_a_handler_hands_its_deadline_and_headers_to_all_instances() {
    let (fleet, _a, _b) = Fleet::of_two().await;
    let queue = unique_queue("front");
    let dispatcher = FrontDispatcher::new(Asking(fleet.sample.clone())).with_queue(&queue);
    let connection = fleet.broker.connect().await;
    let _front = start(&connection, dispatcher).await;
    let front = FrontClient::new(fleet.client.clone()).with_queue(&queue);
    let call = front.ask_all().propagating_header("tenant", "a");
    let seen = call.timeout(LONG / 2).await.unwrap();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!(seen.tenant.as_deref(), Some("a"));
        assert!(Duration::from_millis(seen.remaining_millis.unwrap()) <= LONG / 2);
    }
}

#[tokio::test]
async fn layers_of_a_server_see_its_run_only() {
    let fleet = Fleet::new().await;
    let counts = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let mut members = Vec::new();
    for count in &counts {
        let count = count.clone();
        let layer = MapRequestLayer::new(move |request: Request| {
            assert_eq!(request.method(), Some("add"));
            count.fetch_add(1, Ordering::SeqCst);
            request
        });
        members.push(fleet.member_with(|server| server.layer(layer)).await);
    }
    for runs in 1..=2 {
        assert_eq!(fleet.answering().await.len(), 2);
        for count in &counts {
            assert_eq!(count.load(Ordering::SeqCst), runs);
        }
    }
}

#[tokio::test]
async fn a_call_is_not_repeated_when_an_instance_dies() {
    let (fleet, a, b) = Fleet::of_two().await;
    let answers = fleet.hold(2 * WHILE, &[&a, &b]).await;
    drop(b.server);
    let replacement = fleet.member().await;
    a.probe.release(1);
    // The method is `idempotent`.
    let answers = gathered(answers).await;
    assert!(answers.values().all(Result::is_ok), "{answers:?}");
    assert!(answers.into_keys().eq(ids([&a.server])));
    assert_eq!((a.probe.begun(), replacement.probe.begun()), (1, 0));
    assert_eq!(
        fleet.answering().await,
        ids([&a.server, &replacement.server])
    );
    assert_eq!(
        fleet.listed_ids().await,
        ids([&a.server, &replacement.server])
    );
}

#[tokio::test]
async fn a_server_with_a_closed_connection_is_gone() {
    let (fleet, a, mut b) = Fleet::of_two().await;
    b.connection.close().await;
    b.server.ended().await.unwrap_err();
    assert_eq!(fleet.answering().await, ids([&a.server]));
    assert_eq!(fleet.listed_ids().await, ids([&a.server]));
    a.server.shutdown().await.unwrap();
    let call = || fleet.sample.add(1, 2).to_all_instances().within(LONG);
    let error = eventually("the private queue is gone", async || {
        call().send().await.err()
    });
    assert_eq!(error.await.kind(), ErrorKind::Unroutable);
}

#[tokio::test]
async fn a_draining_server_finishes_its_run_and_takes_no_other() {
    let (fleet, a, b) = Fleet::of_two().await;
    let mut answers = fleet.hold(LONG, &[&a, &b]).await;
    let both = ids([&a.server, &b.server]);
    let draining = b.server.instance_id().to_owned();
    let mut health = b.server.health();
    let stopping = tokio::spawn(b.server.shutdown());
    assert_eq!(health.changed().await, Some(Health::Draining));
    assert_eq!(fleet.answering().await, ids([&a.server]));
    // The server is listed until it has ended.
    assert_eq!(fleet.listed_ids().await, both);
    let stats = fleet.client.stats("Sample").within(WHILE).await.unwrap();
    let stats = stats.iter().find(|stats| stats.id == draining).unwrap();
    assert_eq!(of_method(stats, "hold").in_flight, 1);
    assert_eq!(of_method(stats, "add").calls, 0);

    b.probe.release(1);
    let (id, held) = answers.next().await.unwrap();
    assert_eq!((id, held.unwrap()), (draining, 1));
    stopping.await.unwrap().unwrap();
    a.probe.release(1);
    let (id, held) = answers.next().await.unwrap();
    assert_eq!((&*id, held.unwrap()), (a.server.instance_id(), 1));
    assert_eq!(fleet.listed_ids().await, ids([&a.server]));
}

#[tokio::test]
async fn an_instance_keeps_its_id_and_its_statistics_over_a_lost_connection() {
    let (broker, cut) = fragile_broker().await;
    let setup = broker.sample().await;
    let client = client(&setup.connection);
    let info = async || {
        let infos = client.instances("Sample").within(WHILE).await.ok()?;
        let mut infos = infos.into_iter();
        infos.find(|info| info.id == setup.server.instance_id())
    };
    let before = info().await.unwrap();
    setup.sample.number(1).await.unwrap();
    for cuts in 1..=2 {
        let mut health = setup.server.health();
        cut().await;
        while health.changed().await != Some(Health::Serving) {}
        let after = eventually("the instance answers", info).await;
        let stable = |info: InstanceInfo| (info.id, info.started, info.queues, info.contract);
        assert_eq!(stable(after), stable(before.clone()));
        let call = setup.sample.number(cuts + 1).to_all_instances();
        let answers = call.within(WHILE).send().await.unwrap();
        assert!(gathered(answers).await.into_keys().eq(ids([&setup.server])));
        let [stats] = stats_of(&client, [&setup.server]).await;
        assert_eq!(of_method(&stats, "number").results, cuts + 1);
    }
    assert_eq!(setup.probe.numbers(), [1, 2, 3]);
}

/// A menu before and after a change. The new servers have one more method.
mod menus {
    use super::rpc;

    pub(super) mod old {
        use super::rpc;

        #[rpc(version = "1")]
        pub(crate) trait Menu {
            async fn order(dish: String) -> u64;
        }

        impl Menu for super::Kitchen {
            async fn order(&self, _: String) -> u64 {
                1
            }
        }
    }

    pub(super) mod new {
        use super::rpc;

        #[rpc(version = "2")]
        pub(crate) trait Menu {
            async fn order(dish: String, #[serde(default)] copies: u64) -> u64;
            async fn cancel(order: u64);
        }

        impl Menu for super::Kitchen {
            async fn order(&self, _: String, copies: u64) -> u64 {
                copies
            }

            async fn cancel(&self, _: u64) {}
        }
    }

    pub(super) struct Kitchen;
}

use menus::Kitchen;

#[tokio::test]
async fn older_contracts_are_described_and_compared_beside_newer_ones() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("menu");
    let client = client(&connection);
    let old = || menus::old::MenuDispatcher::new(Kitchen).with_queue(&queue);
    let new = menus::new::MenuDispatcher::new(Kitchen).with_queue(&queue);
    let olds = [
        start(&connection, old()).await,
        start(&connection, old()).await,
    ];
    let newer = start(&connection, new).await;

    // Most instances serve the old contract.
    let described = client.describe("Menu").within(WHILE).await.unwrap();
    assert_eq!(described.version, "1");
    let ask = || client.describe("Menu").within(WHILE);
    let by_id = ask().instance(newer.instance_id()).await.unwrap();
    assert_eq!(by_id.version, "2");
    let by_hash = ask().contract(&by_id.contract).await.unwrap();
    assert_eq!(by_hash, by_id);
    let of_both = ask().contract(&described.contract);
    let error = of_both.instance(newer.instance_id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    for named in [newer.instance_id(), &*described.contract] {
        assert!(error.to_string().contains(named), "{error}");
    }
    let checked = client.check_contract::<menus::old::MenuClient>();
    let Contract::Compatible(differences) = checked.within(WHILE).await.unwrap() else {
        panic!("not compatible");
    };
    let shown: Vec<_> = differences.iter().map(ToString::to_string).collect();
    let expected = [
        "compatible: method 'order': argument 'copies': only the instance has the argument, which is optional",
        "compatible: method 'cancel': only the instance has the method",
    ];
    assert_eq!(shown, expected);
    let check_new = async || {
        let checked = client.check_contract::<menus::new::MenuClient>();
        checked.within(WHILE).await.unwrap()
    };
    let Contract::Incompatible(differences) = check_new().await else {
        panic!("not incompatible");
    };
    let shown: Vec<_> = differences.iter().map(ToString::to_string).collect();
    let expected = [
        "incompatible: method 'cancel': only the client has the method",
        "compatible: method 'order': argument 'copies': only the client has the argument: the server ignores it",
    ];
    assert_eq!(shown, expected);

    for old in olds {
        old.shutdown().await.unwrap();
    }
    let described = client.describe("Menu").within(WHILE).await.unwrap();
    assert_eq!(described.version, "2");
    assert_eq!(check_new().await, Contract::Same);
}

/// A service with a contract for each type of its values.
#[rpc]
trait Store<T: Serialize + DeserializeOwned + Send + Sync + 'static> {
    async fn get(key: String) -> T;
}

struct Shelf;

impl<T: Serialize + DeserializeOwned + Default + Send + Sync + 'static> Store<T> for Shelf {
    async fn get(&self, _: String) -> T {
        T::default()
    }
}

#[tokio::test]
async fn every_contract_of_a_service_in_one_server_is_described() {
    let connection = broker().await.connect().await;
    let [texts, numbers] = ["texts", "numbers"].map(unique_queue);
    let _server = Server::builder(&connection)
        .service(VariantDispatcher::<String, Shelf>::new(Shelf).with_queue(&texts))
        .service(VariantDispatcher::<u64, Shelf>::new(Shelf).with_queue(&numbers))
        .build()
        .start()
        .await
        .unwrap();
    let client = client(&connection);
    let contracts = [
        (
            client.check_contract::<VariantClient<String>>(),
            "'u64' is read as 'String'",
        ),
        (
            client.check_contract::<VariantClient<u64>>(),
            "'String' is read as 'u64'",
        ),
    ];
    for (query, difference) in contracts {
        let Contract::Incompatible(differences) = query.within(WHILE).await.unwrap() else {
            panic!("one of the contracts is another one");
        };
        let [only] = &differences[..] else {
            panic!("{differences:?}");
        };
        assert!(only.what.contains(difference), "{only}");
    }
}

/// The same kind of service for a test that looks at all its instances.
#[rpc]
trait Variant<T: Serialize + DeserializeOwned + Send + Sync + 'static> {
    async fn get(key: String) -> T;
}

impl<T: Serialize + DeserializeOwned + Default + Send + Sync + 'static> Variant<T> for Shelf {
    async fn get(&self, _: String) -> T {
        T::default()
    }
}

/// Servers that read one queue, and the announcements of their services.
struct Announced {
    connection: Connection,
    queue: String,
    announcements: Peer,
    warnings: Warnings,
}

impl Announced {
    async fn of_service(service: &str) -> Self {
        let connection = broker().await.connect().await;
        let (heard, topic) = (unique_queue("heard"), format!("rpc.instances.{service}"));
        let announcements = Peer::open(&connection, &heard, &[topic]).await;
        Self {
            announcements: announcements.unwrap(),
            queue: unique_queue("store"),
            connection,
            warnings: Warnings::listen(),
        }
    }

    /// Starts a server, and waits until the broker has given the announcement to the instances.
    async fn start(&mut self, dispatcher: impl rpc_core::Dispatch) -> ServerHandle {
        let server = start(&self.connection, dispatcher).await;
        let id = server.instance_id().as_bytes();
        loop {
            let next = tokio::time::timeout(LONG, self.announcements.next());
            let message = next.await.expect("an announcement in time").unwrap();
            let is_own = message.body.windows(id.len()).any(|part| part == id);
            if message.kind.as_deref() == Some("rpc.announce") && is_own {
                return server;
            }
        }
    }

    async fn start_store<T>(&mut self, queue: &str) -> ServerHandle
    where
        T: Serialize + DeserializeOwned + Default + Send + Sync + 'static,
    {
        self.start(StoreDispatcher::<T, Shelf>::new(Shelf).with_queue(queue))
            .await
    }

    /// Waits until a server has read the announcements so far, and returns the warnings about contracts.
    async fn warnings(&self, service: &str, server: &ServerHandle) -> Vec<String> {
        // The answer comes after the announcements that came before the question.
        eventually("the server answers", async || {
            let query = client(&self.connection).instances(service).within(WHILE);
            let infos = query.await.unwrap();
            let mut ids = infos.iter().map(|info| &*info.id);
            ids.any(|id| id == server.instance_id()).then_some(())
        })
        .await;
        self.warnings.about("incompatible contract")
    }
}

#[tokio::test]
async fn a_server_warns_once_of_another_contract_on_its_queue() {
    let mut announced = Announced::of_service("Store").await;
    let queue = announced.queue.clone();
    let texts = announced.start_store::<String>(&queue).await;
    let numbers = announced.start_store::<u64>(&queue).await;
    let warnings = announced.warnings("Store", &texts).await;
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    for part in [
        numbers.instance_id(),
        &queue,
        "service=\"Store\"",
        "method 'get': result: 'u64' is read as 'String'",
    ] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    // Not again for the same contract.
    let more = announced.start_store::<u64>(&queue).await;
    assert_eq!(announced.warnings("Store", &texts).await, warnings);
    // The servers of numbers learn of texts that start later.
    drop(texts);
    let texts = announced.start_store::<String>(&queue).await;
    announced.warnings("Store", &more).await;
    let warnings = announced.warnings("Store", &numbers).await;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for warning in &warnings[1..] {
        assert!(warning.contains(texts.instance_id()), "{warning}");
    }
}

#[tokio::test]
async fn a_server_does_not_warn_of_other_queues_or_unknown_instances() {
    let mut announced = Announced::of_service("Store").await;
    let queue = announced.queue.clone();
    let texts = announced.start_store::<String>(&queue).await;
    let silent = |dispatcher| {
        Server::builder(&announced.connection)
            .service(dispatcher)
            .introspection(false)
            .build()
            .start()
    };
    let dispatcher = StoreDispatcher::<u64, Shelf>::new(Shelf).with_queue(&queue);
    let _silent = silent(dispatcher).await.unwrap();
    let _elsewhere = announced.start_store::<u64>(&unique_queue("other")).await;
    let _same = announced.start_store::<String>(&queue).await;
    assert_eq!(announced.warnings("Store", &texts).await, [""; 0]);
}

#[tokio::test]
async fn a_server_does_not_warn_of_a_contract_with_one_more_method() {
    let mut announced = Announced::of_service("Menu").await;
    let queue = announced.queue.clone();
    let old = menus::old::MenuDispatcher::new(Kitchen).with_queue(&queue);
    let old = announced.start(old).await;
    let new = menus::new::MenuDispatcher::new(Kitchen).with_queue(&queue);
    let new = announced.start(new).await;
    assert_eq!(announced.warnings("Menu", &old).await, [""; 0]);
    // The other way round, calls of the new method would fail.
    let late = menus::old::MenuDispatcher::new(Kitchen).with_queue(&queue);
    let _late = announced.start(late).await;
    let warnings = announced.warnings("Menu", &new).await;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("method 'cancel': only the client has the method"));
}

#[rpc]
trait Hidden {
    async fn run() -> u64;
}

impl Hidden for Gardener {
    async fn run(&self) -> u64 {
        1
    }
}

#[tokio::test]
async fn a_server_without_introspection_is_not_seen_and_runs_calls_to_all_instances() {
    let connection = broker().await.connect().await;
    let queue = unique_queue("hidden");
    let server = Server::builder(&connection)
        .service(HiddenDispatcher::new(Gardener).with_queue(&queue))
        .introspection(false)
        .build()
        .start()
        .await
        .unwrap();
    let client = client(&connection);
    assert_eq!(client.instances("Hidden").within(LONG).await.unwrap(), []);
    assert_eq!(client.stats("Hidden").within(LONG).await.unwrap(), []);
    let all = client.all_instances().within(WHILE).await.unwrap();
    assert!(all.iter().all(|info| info.id != server.instance_id()));
    let error = client.describe("Hidden").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    let error = client.check_contract::<HiddenClient>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    let hidden = HiddenClient::new(client).with_queue(&queue);
    let call = hidden.run().to_all_instances().within(LONG).expect(1);
    let answers = gathered(call.send().await.unwrap()).await;
    assert!(answers.into_keys().eq(ids([&server])));
}
