//! Random outages, delays and duplicates on the embedded broker. Time stands still while anything can run, so minutes pass in
//! moments.
//!
//! A seed determines what is called and what breaks, to the millisecond, how long the library pauses between attempts, and what
//! becomes of a message, by what it says. It does not determine in which order calls fail that fail at one moment, and with that
//! the order of what follows: ids decide it that are made up anew each time. So a seed that fails nearly always fails again, but
//! may need a few runs.
//!
//! `CHAOS_RUNS` runs the first so many seeds, `CHAOS_SEED` one of them; both together run that one so often. A seed that fails is
//! printed with its faults and with the command that repeats it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use rpc_core::testing::{EmbeddedBroker, Fate, Published, QueueState};
use rpc_core::{Connection, ErrorKind, RpcError, Server, ServerHandle, rpc};
use rpc_tests::unique_queue;
use tokio::time::{Instant, sleep, timeout};

/// Enough to meet most interleavings again and again.
const RUNS: u64 = 40;

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

/// The events in a world.
#[derive(Clone)]
struct Trace(Arc<Mutex<Done>>);

struct Done {
    start: Instant,
    /// Calls and faults, with their times.
    schedule: Vec<(Duration, String)>,
    /// The fates of messages, by their contents.
    fates: BTreeMap<u64, Vec<Fate>>,
}

impl Trace {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Done {
            start: Instant::now(),
            schedule: Vec::new(),
            fates: BTreeMap::new(),
        })))
    }

    fn note(&self, event: impl Into<String>) {
        let done = &mut *self.0.lock().unwrap();
        done.schedule.push((done.start.elapsed(), event.into()));
    }
}

struct World {
    broker: EmbeddedBroker,
    trace: Trace,
    queue: String,
    ledger: Ledger,
    clients: Vec<Connection>,
    servers: Vec<ServerHandle>,
}

impl World {
    async fn new() -> Self {
        Self::with(Trace::new()).await
    }

    async fn with(trace: Trace) -> Self {
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
            trace,
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
                0 => {
                    self.trace.note("connections are dropped");
                    self.broker.drop_connections();
                }
                1 => {
                    self.trace.note("connections are dropped and refused");
                    self.broker.refuse_connections(true);
                    self.broker.drop_connections();
                    sleep(outage).await;
                    self.trace.note("connections are accepted");
                    self.broker.refuse_connections(false);
                }
                _ => {
                    self.trace.note("publishers are blocked");
                    self.broker.block("low on memory");
                    sleep(outage).await;
                    self.trace.note("publishers are unblocked");
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
            let event = format!("call {id}: {kind:?} within {limit:?}, dropped after {patience:?}");
            self.trace.note(event);
            calls.spawn(call(double, id, kind, limit, patience));
        }
        calls.join_all().await
    }

    /// Checks what is promised of calls.
    fn judge(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            let Outcome {
                id,
                kind,
                late,
                answer,
            } = outcome;
            let runs = self.ledger.runs(*id);
            let told = format!("call {id} ({kind:?}), {runs} runs: {answer:?}");
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

/// The fate of a message, at random.
type Decide = fn(&Published<'_>, &mut fastrand::Rng) -> Fate;

/// Decides what becomes of messages: that follows from the seed, from what a message says, and from how often that was said
/// before, but not from the order of other messages.
fn fate_of(decide: Decide, seed: u64, trace: Trace) -> impl FnMut(&Published<'_>) -> Fate {
    move |message| {
        let mut hasher = DefaultHasher::new();
        message.kind.hash(&mut hasher);
        match message.kind {
            // It holds ids that are made up anew each time.
            Some("batch") => message.body.len().hash(&mut hasher),
            _ => message.body.hash(&mut hasher),
        }
        let done = &mut *trace.0.lock().unwrap();
        let fates = done.fates.entry(hasher.finish()).or_default();
        (seed, fates.len()).hash(&mut hasher);
        let fate = decide(message, &mut fastrand::Rng::with_seed(hasher.finish()));
        fates.push(fate);
        fate
    }
}

/// The seeds that the environment asks for.
fn seeds() -> Vec<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        let number = text.parse::<u64>();
        Some(number.unwrap_or_else(|error| panic!("{name}={text}: {error}")))
    };
    let runs = number("CHAOS_RUNS");
    match number("CHAOS_SEED") {
        Some(seed) => (0..runs.unwrap_or(1)).map(|_| seed).collect(),
        None => (0..runs.unwrap_or(RUNS)).collect(),
    }
}

/// Runs a world for each seed, with a decision on each message, and shows how calls ended.
async fn chaos(decide: Decide) {
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let seeds = seeds();
    for &seed in &seeds {
        let trace = Trace::new();
        let run = AssertUnwindSafe(chaos_of(seed, decide, trace.clone())).catch_unwind();
        let Ok(ended) = run.await else {
            println!("{:#?}", trace.0.lock().unwrap().schedule);
            let test = std::thread::current();
            panic!(
                "seed {seed} failed. To repeat it: CHAOS_SEED={seed} cargo test --package rpc-tests --test memory {}",
                test.name().unwrap_or_default()
            );
        };
        for end in ended {
            *ends.entry(end).or_default() += 1;
        }
    }
    println!("{ends:#?}");
    if seeds.iter().collect::<BTreeSet<_>>().len() < 10 {
        return;
    }
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
async fn chaos_of(seed: u64, decide: Decide, trace: Trace) -> Vec<String> {
    // The pauses between attempts take their random parts from this.
    fastrand::seed(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::with(trace.clone()).await;
    let decisions = random.u64(..);
    world.broker.on_publish(fate_of(decide, decisions, trace));
    let havoc = random.fork();
    let outcomes = tokio::select! {
        biased;
        outcomes = world.calls(&mut random) => outcomes,
        () = world.havoc(havoc) => unreachable!("it never ends"),
    };
    world.judge(&outcomes);
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
    chaos(|_, _| Fate::Deliver).await;
}

#[tokio::test(start_paused = true)]
async fn late_and_overtaking_messages_confuse_nobody() {
    chaos(late_and_overtaking).await;
}

fn late_and_overtaking(_: &Published<'_>, random: &mut fastrand::Rng) -> Fate {
    match random.u8(0..4) {
        0 => Fate::Delay(Duration::from_millis(random.u64(0..2000))),
        _ => Fate::Deliver,
    }
}

#[tokio::test(start_paused = true)]
async fn duplicate_replies_confuse_nobody() {
    chaos(duplicate_replies).await;
}

fn duplicate_replies(message: &Published<'_>, random: &mut fastrand::Rng) -> Fate {
    match message.reply_to {
        None if random.u8(0..3) == 0 => Fate::Duplicate,
        None if random.u8(0..3) == 0 => Fate::Delay(Duration::from_millis(random.u64(0..100))),
        _ => Fate::Deliver,
    }
}

#[tokio::test(start_paused = true)]
async fn a_seed_gives_one_schedule_of_faults() {
    for decide in [late_and_overtaking as Decide, duplicate_replies] {
        let mut schedules = Vec::new();
        for seed in 0..2 {
            let mut traces = Vec::new();
            for _ in 0..2 {
                let trace = Trace::new();
                chaos_of(seed, decide, trace.clone()).await;
                traces.push(trace);
            }
            let [first, second] = [0, 1].map(|run| traces[run].0.lock().unwrap());
            // The outages go on until the last call has ended, which may be a little later.
            let until = first.schedule.len().min(second.schedule.len());
            assert_eq!(
                first.schedule[..until],
                second.schedule[..until],
                "seed {seed}"
            );
            let mut both = 0;
            for (said, fates) in &first.fates {
                for (fate, again) in fates
                    .iter()
                    .zip(second.fates.get(said).into_iter().flatten())
                {
                    assert_eq!(fate, again, "seed {seed}");
                    both += 1;
                }
            }
            assert!(both > 100, "seed {seed}: {both}");
            schedules.push(first.schedule.clone());
        }
        assert_ne!(schedules[0], schedules[1]);
    }
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
