//! Batched calls on an embedded broker that tests can inspect, with paused time.
//!
//! The main test runs the same random scripts with clients that batch calls and with clients that do not. The promises about
//! calls hold for both, and outcomes that the script determines are the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::testing::{EmbeddedBroker, Fate, Published, QueueState};
use rpc_core::{CallError, Client, Connection, ErrorKind, Server, ServerHandle, rpc};
use rpc_tests::unique_queue;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Number of seeds: enough to meet most interleavings several times.
const SEEDS: u64 = 40;

const CALLS: u64 = 100;

/// Longer than a whole script.
const PATIENT: Duration = Duration::from_secs(600);

/// Tolerance after a deadline: shorter than any pause of the library.
const GRACE: Duration = Duration::from_millis(5);

/// The calls and faults of a test and their times.
struct Script {
    seed: u64,
    /// Number of calls that may share a message, for clients that batch.
    limit: usize,
    prefetch: u16,
    delivery_limit: u32,
    calls: Vec<Planned>,
    faults: Vec<(Duration, Fault)>,
}

/// A call of the script.
#[derive(Clone, Debug)]
struct Planned {
    /// Pause after the call before.
    after: Duration,
    id: u64,
    kind: Kind,
    work: Work,
    padding: usize,
    timeout: Duration,
    /// Time after which the caller drops the call.
    dropped: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Repeatable,
    Once,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Answers(Duration),
    Refuses,
    Panics,
    Hangs,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    DropsConnections,
    RefusesConnections(Duration),
    Blocks(Duration),
    KillsServer(usize),
    StopsServer(usize),
}

/// The way that a call ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Answered,
    Refused,
    Failed(String),
    Dropped,
}

impl End {
    fn failed(kind: ErrorKind) -> Self {
        Self::Failed(match kind {
            // Messages carry deadlines by the wall clock, which is not paused: a server may notice a deadline first.
            ErrorKind::DeadlineExceeded => format!("{:?}", ErrorKind::Timeout),
            kind => format!("{kind:?}"),
        })
    }
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let random = &mut random;
        let losses = random.usize(0..6);
        Self {
            seed,
            limit: random.usize(2..=64),
            prefetch: random.u16(1..=64),
            // High enough not to be reached: counts depend on the calls that share a delivery.
            delivery_limit: match losses {
                0..3 => random.choice([0, 3, 20]).expect("three"),
                _ => random.choice([0, 20]).expect("two"),
            },
            calls: (0..CALLS).map(|id| Planned::random(random, id)).collect(),
            faults: (0..losses).map(|_| Fault::random(random)).collect(),
        }
    }

    fn is_calm(&self) -> bool {
        self.faults.is_empty()
    }

    /// The expected end of a call, if it does not depend on timing.
    fn expected(&self, call: &Planned) -> Option<End> {
        let is_patient = call.timeout == PATIENT && call.dropped.is_none();
        match call.work {
            Work::Hangs if !self.is_calm() => None,
            Work::Hangs => match call.dropped {
                None => Some(End::failed(ErrorKind::Timeout)),
                // A server may notice a deadline early.
                Some(dropped) => {
                    (dropped + Duration::from_secs(1) < call.timeout).then_some(End::Dropped)
                }
            },
            _ if !is_patient || !(self.is_calm() || call.kind == Kind::Repeatable) => None,
            Work::Answers(_) => Some(End::Answered),
            Work::Refuses => Some(End::Refused),
            Work::Panics => Some(End::failed(ErrorKind::Panicked)),
        }
    }
}

impl Planned {
    fn random(random: &mut fastrand::Rng, id: u64) -> Self {
        let millis = |random: &mut fastrand::Rng, range| Duration::from_millis(random.u64(range));
        let kind = match random.u8(0..10) {
            0..6 => Kind::Repeatable,
            6..8 => Kind::Plain,
            _ => Kind::Once,
        };
        let work = match random.u8(0..20) {
            0..8 => Work::Answers(millis(random, 0..20)),
            8..15 => Work::Answers(millis(random, 0..500)),
            15..17 => Work::Refuses,
            17 => Work::Panics,
            _ => Work::Hangs,
        };
        let timeout = match work != Work::Hangs && random.u8(0..4) > 0 {
            true => PATIENT,
            false => millis(random, 1..2000),
        };
        Self {
            // Most calls are made at the same moment.
            after: match random.u8(0..8) {
                0 => millis(random, 0..400),
                1 => millis(random, 0..3),
                _ => Duration::ZERO,
            },
            id,
            kind,
            work,
            // Few calls with a padding of 2,000 fit into a message, and none with 6,000.
            padding: random.choice([0, 0, 100, 2_000, 6_000]).expect("five"),
            timeout,
            dropped: (random.u8(0..8) == 0).then(|| millis(random, 0..200)),
        }
    }
}

impl Fault {
    fn random(random: &mut fastrand::Rng) -> (Duration, Self) {
        let outage = Duration::from_millis(random.u64(1..1000));
        let fault = match random.u8(0..6) {
            0 => Self::DropsConnections,
            1 => Self::RefusesConnections(outage),
            2 => Self::Blocks(outage),
            3 => Self::StopsServer(random.usize(0..2)),
            _ => Self::KillsServer(random.usize(0..2)),
        };
        (Duration::from_millis(random.u64(0..600)), fault)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct No(u64);

#[rpc]
trait Echo {
    async fn plain(id: u64, padding: String) -> Result<(u64, String), No>;
    #[rpc(idempotent)]
    async fn repeatable(id: u64, padding: String) -> Result<(u64, String), No>;
    #[rpc(at_most_once)]
    async fn once(id: u64, padding: String) -> Result<(u64, String), No>;
}

/// A handler that follows the script and counts its runs.
#[derive(Clone)]
struct Actor {
    script: Arc<Script>,
    runs: Arc<Mutex<HashMap<u64, u32>>>,
}

impl Actor {
    async fn act(&self, id: u64, padding: String) -> Result<(u64, String), No> {
        *self.runs.lock().unwrap().entry(id).or_default() += 1;
        let call = &self.script.calls[usize::try_from(id).unwrap()];
        match call.work {
            Work::Answers(work) => {
                sleep(work).await;
                Ok((id, padding))
            }
            Work::Refuses => Err(No(id)),
            Work::Panics => panic!("according to the script"),
            Work::Hangs => std::future::pending().await,
        }
    }

    fn runs(&self, id: u64) -> u32 {
        self.runs.lock().unwrap().get(&id).copied().unwrap_or(0)
    }
}

impl Echo for Actor {
    async fn plain(&self, id: u64, padding: String) -> Result<(u64, String), No> {
        self.act(id, padding).await
    }

    async fn repeatable(&self, id: u64, padding: String) -> Result<(u64, String), No> {
        self.act(id, padding).await
    }

    async fn once(&self, id: u64, padding: String) -> Result<(u64, String), No> {
        self.act(id, padding).await
    }
}

/// A script in progress.
struct Stage {
    broker: EmbeddedBroker,
    queue: String,
    actor: Actor,
    clients: Vec<Connection>,
    servers: Vec<(Connection, Option<ServerHandle>)>,
    /// Numbers of request batches and of reply batches.
    batches: Arc<[AtomicUsize; 2]>,
}

impl Stage {
    async fn new(script: Arc<Script>) -> Self {
        let broker = EmbeddedBroker::named(unique_queue("stage"));
        let mut stage = Self {
            queue: unique_queue("echo"),
            actor: Actor {
                script,
                runs: Arc::default(),
            },
            clients: Vec::new(),
            servers: Vec::new(),
            batches: Arc::default(),
            broker,
        };
        for _ in 0..2 {
            let connection = Connection::open(&stage.broker.url()).await.unwrap();
            stage.clients.push(connection);
            let connection = Connection::open(&stage.broker.url()).await.unwrap();
            let server = stage.serve(&connection).await;
            stage.servers.push((connection, Some(server)));
        }
        stage.broker.on_publish(stage.fates());
        stage
    }

    async fn serve(&self, connection: &Connection) -> ServerHandle {
        let script = &self.actor.script;
        let dispatcher = EchoDispatcher::new(self.actor.clone()).with_queue(&self.queue);
        let server = Server::builder(connection).service(dispatcher);
        let server = server
            .prefetch(script.prefetch)
            .delivery_limit(script.delivery_limit);
        server.build().start().await.unwrap()
    }

    /// Delays some messages, and duplicates some replies.
    fn fates(&self) -> impl FnMut(&Published<'_>) -> Fate + Send + 'static {
        let mut random = fastrand::Rng::with_seed(self.actor.script.seed);
        let batches = self.batches.clone();
        let is_calm = self.actor.script.is_calm();
        move |message| {
            let is_request = message.reply_to.is_some();
            let is_batch = message.kind == Some("batch");
            if is_batch {
                batches[usize::from(!is_request)].fetch_add(1, Ordering::Relaxed);
            }
            match random.u8(0..10) {
                0 => Fate::Delay(Duration::from_millis(random.u64(0..300))),
                1 if !is_request || (is_batch && !is_calm) => Fate::Duplicate,
                _ => Fate::Deliver,
            }
        }
    }

    /// Causes and repairs the faults of the script.
    async fn faults(&mut self) {
        let script = self.actor.script.clone();
        let mut stopping = JoinSet::new();
        for (after, fault) in &script.faults {
            sleep(*after).await;
            match *fault {
                Fault::DropsConnections => self.broker.drop_connections(),
                Fault::RefusesConnections(outage) => {
                    self.broker.refuse_connections(true);
                    self.broker.drop_connections();
                    sleep(outage).await;
                    self.broker.refuse_connections(false);
                }
                Fault::Blocks(outage) => {
                    self.broker.block("low on memory");
                    sleep(outage).await;
                    self.broker.unblock();
                }
                Fault::KillsServer(number) => {
                    drop(self.servers[number].1.take());
                    let server = self.serve(&self.servers[number].0).await;
                    self.servers[number].1 = Some(server);
                }
                Fault::StopsServer(number) => {
                    let server = self.serve(&self.servers[number].0).await;
                    if let Some(stopped) = self.servers[number].1.replace(server) {
                        stopping.spawn(stopped.shutdown());
                    }
                }
            }
        }
        for stopped in stopping.join_all().await {
            stopped.unwrap();
        }
    }

    /// Makes the calls of the script.
    async fn calls(script: &Script, echoes: &[EchoClient]) -> Vec<Outcome> {
        let mut calls = JoinSet::new();
        for call in &script.calls {
            if !call.after.is_zero() {
                sleep(call.after).await;
            }
            let echo = echoes[usize::try_from(call.id).unwrap() % echoes.len()].clone();
            calls.spawn(Outcome::of(echo, call.clone()));
        }
        calls.join_all().await
    }

    /// Checks that the run leaves nothing behind.
    async fn leaves_nothing(self) {
        let queue = |name: &str| self.broker.queue(name).unwrap_or_default();
        for name in [self.queue.clone(), format!("{}.retry", self.queue)] {
            let QueueState {
                ready, unsettled, ..
            } = queue(&name);
            assert_eq!((ready, unsettled), (0, 0), "messages are left in {name}");
        }
        if self.actor.script.is_calm() {
            let dead = queue(&format!("{}.dead", self.queue));
            assert_eq!(dead.ready, 0, "requests were given up");
        }
        for client in &self.clients {
            let dropped = client.client().dropped_replies();
            assert_eq!((dropped.foreign, dropped.malformed), (0, 0));
            client.close().await;
        }
        for (connection, server) in self.servers {
            server.expect("a server").shutdown().await.unwrap();
            connection.close().await;
        }
        let left = self.broker.queues();
        assert!(
            left.iter().all(|name| name.starts_with(&self.queue)),
            "{left:?}"
        );
    }
}

/// The outcome of a call.
#[derive(Debug)]
struct Outcome {
    id: u64,
    end: End,
    /// Time between the deadline and the end of the call.
    late: Duration,
    /// `false` only if the error says that the request did not run.
    may_have_executed: bool,
}

impl Outcome {
    async fn of(echo: EchoClient, planned: Planned) -> Self {
        let Planned { id, padding, .. } = planned;
        let padding = id.to_string().repeat(padding);
        let call = match planned.kind {
            Kind::Plain => echo.plain(id, padding.clone()),
            Kind::Repeatable => echo.repeatable(id, padding.clone()),
            Kind::Once => echo.once(id, padding.clone()),
        };
        let deadline = Instant::now() + planned.timeout;
        let call = call.timeout(planned.timeout).into_future();
        let answer = match planned.dropped {
            None => Some(call.await),
            Some(dropped) => timeout(dropped, call).await.ok(),
        };
        let late = Instant::now().saturating_duration_since(deadline);
        let (end, may_have_executed) = match answer {
            None => (End::Dropped, true),
            Some(Ok(answer)) => {
                assert!(
                    answer == (id, padding),
                    "the response to call {id} belongs to another call"
                );
                (End::Answered, true)
            }
            Some(Err(CallError::App(No(refused)))) => {
                assert_eq!(refused, id, "the application error belongs to another call");
                (End::Refused, true)
            }
            Some(Err(CallError::Rpc(error))) => {
                (End::failed(error.kind()), error.may_have_executed())
            }
        };
        Self {
            id,
            end,
            late,
            may_have_executed,
        }
    }
}

/// The result of a script.
#[derive(Debug, Default)]
struct Performance {
    ends: BTreeMap<End, usize>,
    /// Calls that ran more than once.
    repeated: usize,
    request_batches: usize,
    reply_batches: usize,
}

impl Performance {
    /// Performs a script with clients that batch up to `limit` calls, and checks the promises.
    async fn of(script: Arc<Script>, limit: usize) -> Self {
        let tasks = Handle::current().metrics().num_alive_tasks();
        let mut stage = Stage::new(script.clone()).await;
        let echoes: Vec<_> = stage
            .clients
            .iter()
            .map(|connection| {
                let client = connection.client_builder().coalesce(limit).build();
                EchoClient::new(client).with_queue(&stage.queue)
            })
            .collect();
        let (outcomes, ()) = tokio::join!(Stage::calls(&script, &echoes), stage.faults());
        // Long enough for running handlers and delayed messages.
        sleep(PATIENT).await;
        let performance = Self::judge(&stage, &outcomes);
        stage.leaves_nothing().await;
        assert_eq!(self::tasks().await, tasks, "tasks are left");
        performance
    }

    fn judge(stage: &Stage, outcomes: &[Outcome]) -> Self {
        let script = &stage.actor.script;
        let [request_batches, reply_batches] =
            [0, 1].map(|kind| stage.batches[kind].load(Ordering::Relaxed));
        let mut performance = Self {
            request_batches,
            reply_batches,
            ..Self::default()
        };
        assert_eq!(outcomes.len(), script.calls.len());
        for outcome in outcomes {
            let call = &script.calls[usize::try_from(outcome.id).unwrap()];
            let runs = stage.actor.runs(call.id);
            let told = format!("{outcome:?}, {runs} runs of {call:?}");
            if let Some(expected) = script.expected(call) {
                assert_eq!(outcome.end, expected, "{told}");
            }
            assert!(outcome.late <= GRACE, "too late: {told}");
            assert!(
                outcome.may_have_executed || runs == 0,
                "a request ran, although its error denies it: {told}"
            );
            let most = match script.is_calm() || call.kind == Kind::Once {
                true => 1,
                false => u32::MAX,
            };
            assert!(runs <= most, "a request ran too often: {told}");
            if matches!(outcome.end, End::Answered | End::Refused) {
                assert!(runs > 0, "a request got a response without a run: {told}");
            }
            performance.repeated += usize::from(runs > 1);
            *performance.ends.entry(outcome.end.clone()).or_default() += 1;
        }
        performance
    }

    fn add(&mut self, other: Self) {
        for (end, calls) in other.ends {
            *self.ends.entry(end).or_default() += calls;
        }
        self.repeated += other.repeated;
        self.request_batches += other.request_batches;
        self.reply_batches += other.reply_batches;
    }
}

/// Prints the script of a failing test.
struct Announced<'a>(&'a Script, usize);

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(script, limit) = self;
            eprintln!(
                "seed {}, with {limit} calls in a message: {:?}",
                script.seed, script.faults
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn batching_does_not_change_outcomes_of_calls() {
    let (mut apart, mut together) = (Performance::default(), Performance::default());
    for seed in 0..SEEDS {
        let script = Arc::new(Script::new(seed));
        for (all, limit) in [(&mut apart, 1), (&mut together, script.limit)] {
            let _announced = Announced(&script, limit);
            all.add(Performance::of(script.clone(), limit).await);
        }
    }
    assert_eq!((apart.request_batches, apart.reply_batches), (0, 0));
    assert!(together.request_batches > 0 && together.reply_batches > 0);
    // Outcomes that did not occur were not tested.
    for all in [apart, together] {
        println!("{all:#?}");
        for end in [End::Answered, End::Refused, End::Dropped] {
            assert!(all.ends.contains_key(&end), "no call ended with {end:?}");
        }
        for kind in [
            ErrorKind::Timeout,
            ErrorKind::Panicked,
            ErrorKind::Disconnected,
        ] {
            assert!(all.ends.contains_key(&End::failed(kind)), "{kind:?}");
        }
        assert!(all.repeated > 0);
    }
}

/// Number of unanswered messages beyond which calls wait to be batched.
const BUSY: u64 = 4;

#[rpc]
trait Half {
    #[rpc(idempotent)]
    async fn half(n: u64) -> u64;
}

struct Halving;
impl Half for Halving {
    async fn half(&self, n: u64) -> u64 {
        n / 2
    }
}

fn coalescing(connection: &Connection) -> Client {
    connection.client_builder().coalesce(64).build()
}

/// The number of tasks, after tasks that were stopped have ended.
async fn tasks() -> usize {
    sleep(Duration::from_secs(1)).await;
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_outlives_its_connection_has_no_task() {
    let connection = Connection::open("memory:").await.unwrap();
    let queue = unique_queue("half");
    let dispatcher = HalfDispatcher::new(Halving).with_queue(&queue);
    let server = Server::builder(&connection).service(dispatcher);
    let server = server.build().start().await.unwrap();
    let half = HalfClient::new(coalescing(&connection)).with_queue(&queue);
    let mut calls = JoinSet::new();
    for n in 0..4 * BUSY {
        calls.spawn(half.half(n).into_future());
    }
    calls.join_all().await;
    server.shutdown().await.unwrap();
    connection.close().await;
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn state_of_unused_queues_is_removed() {
    let connection = Connection::open("memory:").await.unwrap();
    let half = HalfClient::new(coalescing(&connection));
    let before = tasks().await;
    for n in 0..5_000 {
        let nowhere = half.clone().with_queue(format!("nowhere-{n}"));
        nowhere.half(n).await.unwrap_err();
    }
    assert!(tasks().await - before < 500);
}
