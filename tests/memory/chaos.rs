//! Random outages, delays and duplicates on the embedded broker. Time stands still while anything can run, so minutes pass in
//! moments.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::testing::{EmbeddedBroker, Fate, Published, QueueState};
use rpc_core::{Connection, ErrorKind, RpcError, Server, ServerHandle, rpc};
use rpc_tests::unique_queue;
use tokio::time::{Instant, sleep, timeout};

/// Enough to meet most interleavings again and again.
const SEEDS: u64 = 40;

const CALLS: u64 = 120;

/// Beyond a deadline: less than any pause of the library.
const GRACE: Duration = Duration::from_millis(5);

#[rpc]
trait Double {
    async fn plain(id: u64) -> u64;
    #[rpc(idempotent)]
    async fn repeatable(id: u64) -> u64;
    #[rpc(at_most_once)]
    async fn once(id: u64) -> u64;
}

/// Counts how often each call ran.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<HashMap<u64, u32>>>);

impl Ledger {
    async fn run(&self, id: u64) -> u64 {
        *self.0.lock().unwrap().entry(id).or_default() += 1;
        sleep(Duration::from_millis(id % 50)).await;
        id * 2
    }

    fn runs(&self, id: u64) -> u32 {
        self.0.lock().unwrap().get(&id).copied().unwrap_or(0)
    }
}

impl Double for Ledger {
    async fn plain(&self, id: u64) -> u64 {
        self.run(id).await
    }

    async fn repeatable(&self, id: u64) -> u64 {
        self.run(id).await
    }

    async fn once(&self, id: u64) -> u64 {
        self.run(id).await
    }
}

struct World {
    broker: EmbeddedBroker,
    queue: String,
    ledger: Ledger,
    clients: Vec<Connection>,
    servers: Vec<ServerHandle>,
}

impl World {
    async fn new() -> Self {
        let broker = EmbeddedBroker::named(unique_queue("chaos"));
        let queue = unique_queue("double");
        let ledger = Ledger::default();
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            clients.push(Connection::open(&broker.url()).await.unwrap());
            let serving = Connection::open(&broker.url()).await.unwrap();
            let dispatcher = DoubleDispatcher::new(ledger.clone()).with_queue(&queue);
            let server = Server::builder(&serving).service(dispatcher);
            servers.push(server.prefetch(8).build().start().await.unwrap());
        }
        Self {
            broker,
            queue,
            ledger,
            clients,
            servers,
        }
    }

    /// Breaks things at random until it is dropped; an outage is shorter than two seconds.
    async fn havoc(&self, mut random: fastrand::Rng) {
        loop {
            sleep(Duration::from_millis(random.u64(0..3000))).await;
            let outage = Duration::from_millis(random.u64(1..1500));
            match random.u8(0..3) {
                0 => self.broker.drop_connections(),
                1 => {
                    self.broker.refuse_connections(true);
                    self.broker.drop_connections();
                    sleep(outage).await;
                    self.broker.refuse_connections(false);
                }
                _ => {
                    self.broker.block("low on memory");
                    sleep(outage).await;
                    self.broker.unblock();
                }
            }
        }
    }

    async fn calls(&self, random: &mut fastrand::Rng) -> Vec<Outcome> {
        let mut calls = tokio::task::JoinSet::new();
        for id in 0..CALLS {
            sleep(Duration::from_millis(random.u64(0..200))).await;
            let client = self.clients[usize::try_from(id).unwrap() % 2].client();
            let double = DoubleClient::new(client).with_queue(&self.queue);
            let kind = random.choice([Kind::Plain, Kind::Repeatable, Kind::Once]);
            let kind = kind.expect("there are three");
            let limit = match kind {
                Kind::Repeatable => Duration::from_secs(60),
                _ => Duration::from_millis(random.u64(1..5000)),
            };
            let patience = (kind != Kind::Repeatable && random.u8(0..8) == 0)
                .then(|| limit.mul_f64(random.f64()));
            calls.spawn(call(double, id, kind, limit, patience));
        }
        calls.join_all().await
    }

    /// Checks what is promised of calls.
    fn judge(&self, seed: u64, outcomes: &[Outcome]) {
        for outcome in outcomes {
            let Outcome {
                id,
                kind,
                late,
                answer,
            } = outcome;
            let runs = self.ledger.runs(*id);
            let told = format!("seed {seed}, call {id} ({kind:?}), {runs} runs: {answer:?}");
            assert!(*late <= GRACE, "{late:?} late: {told}");
            match answer {
                Some(Ok(value)) => {
                    assert_eq!(*value, id * 2, "{told}");
                    assert!(runs > 0, "{told}");
                }
                Some(Err(error)) => {
                    assert!(*kind != Kind::Repeatable, "{told}");
                    assert!(error.may_have_executed() || runs == 0, "{told}");
                    let expected = [
                        ErrorKind::Timeout,
                        ErrorKind::Disconnected,
                        ErrorKind::Cancelled,
                        ErrorKind::Panicked,
                        // Messages tell deadlines by the wall clock, which does not stand still.
                        ErrorKind::DeadlineExceeded,
                    ];
                    assert!(expected.contains(&error.kind()), "{told}");
                }
                None => {}
            }
            assert!(*kind != Kind::Once || runs <= 1, "{told}");
        }
    }

    /// Checks that nothing is left when all is over.
    async fn leaves_nothing(self) {
        let Self {
            broker,
            queue,
            clients,
            servers,
            ..
        } = self;
        broker.on_publish(|_| Fate::Deliver);
        broker.unblock();
        broker.refuse_connections(false);
        // Longer than any delay, and any deadline.
        sleep(Duration::from_secs(120)).await;
        let nothing = |state: QueueState| (state.ready, state.unsettled) == (0, 0);
        assert!(broker.queue(&queue).is_some_and(nothing));
        for server in servers {
            server.shutdown().await.unwrap();
        }
        for client in clients {
            client.close().await;
        }
        let left = broker.queues();
        assert!(left.iter().all(|name| name.starts_with(&queue)), "{left:?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Repeatable,
    Once,
}

struct Outcome {
    id: u64,
    kind: Kind,
    /// How long after its deadline it ended.
    late: Duration,
    /// `None` for a call that was dropped.
    answer: Option<Result<u64, RpcError>>,
}

async fn call(
    double: DoubleClient,
    id: u64,
    kind: Kind,
    limit: Duration,
    patience: Option<Duration>,
) -> Outcome {
    let call = match kind {
        Kind::Plain => double.plain(id),
        Kind::Repeatable => double.repeatable(id),
        Kind::Once => double.once(id),
    };
    let deadline = Instant::now() + limit;
    let call = call.timeout(limit).into_future();
    let answer = match patience {
        None => Some(call.await),
        Some(patience) => timeout(patience, call).await.ok(),
    };
    Outcome {
        id,
        kind,
        late: Instant::now().saturating_duration_since(deadline),
        answer,
    }
}

type Decide = Box<dyn FnMut(&Published<'_>) -> Fate + Send>;

/// Runs a world for each seed, with a decision on each message, and shows how calls ended.
async fn chaos(decide: impl Fn(fastrand::Rng) -> Decide) {
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..SEEDS {
        for end in chaos_of(seed, &decide).await {
            *ends.entry(end).or_default() += 1;
        }
    }
    println!("{ends:#?}");
    // What did not happen was not tested.
    for end in [
        "answered",
        "dropped",
        "Timeout",
        "Disconnected",
        "run twice",
    ] {
        assert!(ends.contains_key(end), "{end} never happened: {ends:?}");
    }
}

/// Runs one world, and tells how its calls ended.
async fn chaos_of(seed: u64, decide: impl Fn(fastrand::Rng) -> Decide) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new().await;
    let decisions = random.fork();
    world.broker.on_publish(decide(decisions));
    let havoc = random.fork();
    let outcomes = tokio::select! {
        outcomes = world.calls(&mut random) => outcomes,
        () = world.havoc(havoc) => unreachable!("it never ends"),
    };
    world.judge(seed, &outcomes);
    let mut ends = Vec::new();
    for outcome in outcomes {
        ends.push(match outcome.answer {
            Some(Ok(_)) => "answered".to_owned(),
            Some(Err(error)) => format!("{:?}", error.kind()),
            None => "dropped".to_owned(),
        });
        ends.extend((world.ledger.runs(outcome.id) > 1).then(|| "run twice".to_owned()));
    }
    world.leaves_nothing().await;
    ends
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_calls_end_in_time_and_truthfully() {
    chaos(|_| Box::new(|_| Fate::Deliver)).await;
}

#[tokio::test(start_paused = true)]
async fn late_and_overtaking_messages_confuse_nobody() {
    chaos(|mut random| {
        Box::new(move |_| match random.u8(0..4) {
            0 => Fate::Delay(Duration::from_millis(random.u64(0..2000))),
            _ => Fate::Deliver,
        })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn duplicate_replies_confuse_nobody() {
    chaos(|mut random| {
        Box::new(move |message| match message.reply_to {
            None if random.u8(0..3) == 0 => Fate::Duplicate,
            None if random.u8(0..3) == 0 => Fate::Delay(Duration::from_millis(random.u64(0..100))),
            _ => Fate::Deliver,
        })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_queue_through_which_nothing_comes_any_more_is_replaced() {
    let world = World::new().await;
    let mut deaf = None;
    world.broker.on_publish(move |message| {
        if let (None, Some(reply_to)) = (&deaf, message.reply_to) {
            deaf = Some(reply_to.to_owned());
        }
        if deaf.as_deref() == Some(message.queue) {
            Fate::Lose
        } else {
            Fate::Deliver
        }
    });
    let double = DoubleClient::new(world.clients[0].client()).with_queue(&world.queue);
    let mut unanswered = 0;
    while let Err(error) = double
        .plain(unanswered)
        .timeout(Duration::from_secs(1))
        .await
    {
        assert_eq!(error.kind(), ErrorKind::Timeout);
        unanswered += 1;
        assert!(unanswered < 20, "it goes on for ever");
    }
    assert!(unanswered >= 8, "{unanswered}");
}

#[tokio::test(start_paused = true)]
async fn a_blocked_broker_is_named_as_the_reason() {
    let world = World::new().await;
    let double = DoubleClient::new(world.clients[0].client()).with_queue(&world.queue);
    assert_eq!(double.plain(1).await.unwrap(), 2);
    world.broker.block("low on memory");
    let error = double
        .plain(2)
        .timeout(Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let told = error.to_string();
    assert!(
        told.contains("blocking publishers: low on memory"),
        "{told}"
    );
    let waiting = tokio::spawn(double.plain(3).into_future());
    sleep(Duration::from_secs(1)).await;
    world.broker.unblock();
    assert_eq!(waiting.await.unwrap().unwrap(), 6);
    for server in world.servers {
        server.shutdown().await.unwrap();
    }
}
