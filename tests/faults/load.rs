//! A steady load of calls, and a record of each call's outcome.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::RpcError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::service::{FaultClient, Method};

/// The pause between two calls of a client.
const PACE: Duration = Duration::from_millis(20);

/// Number of concurrent calls in an occasional burst: more than a client leaves unanswered before its calls share messages.
const BURST: usize = 12;

/// Timeout that outlasts every outage of the suite, on a slow machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(60);

/// Timeout shorter than most outages.
const IMPATIENT: Duration = Duration::from_secs(2);

/// Maximum time of a recovery.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// The outcome of a call.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) method: Method,
    pub(crate) made: Instant,
    /// The timeout of the call.
    pub(crate) timeout: Duration,
    pub(crate) took: Duration,
    pub(crate) outcome: Result<u64, RpcError>,
}

impl Record {
    /// Makes a call.
    pub(crate) async fn of(
        client: &FaultClient,
        id: u64,
        method: Method,
        work: Duration,
        timeout: Duration,
    ) -> Self {
        let made = Instant::now();
        let outcome = method.call(client, id, work).timeout(timeout).await;
        Self {
            id,
            method,
            made,
            timeout,
            took: made.elapsed(),
            outcome,
        }
    }
}

/// The calls of several clients. Dropping the load abandons them.
pub(crate) struct Load {
    clients: usize,
    patience: Duration,
    go_on: watch::Sender<bool>,
    records: Arc<Records>,
    drivers: JoinSet<()>,
}

#[derive(Default)]
struct Records {
    records: Mutex<Vec<Record>>,
    problems: Mutex<Vec<String>>,
    /// The number of records.
    count: watch::Sender<usize>,
}

impl Records {
    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_problems(&self) -> MutexGuard<'_, Vec<String>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self, text: String) {
        self.lock_problems().push(text);
    }

    fn add(&self, record: Record) {
        let mut records = self.lock();
        records.push(record);
        self.count.send_replace(records.len());
    }
}

/// The id of a call, which contains the number of its client.
fn id_of(client: usize, serial: u32) -> u64 {
    (client as u64) << 32 | u64::from(serial)
}

/// The number of the client that made a call.
pub(crate) fn client_of(id: u64) -> usize {
    usize::try_from(id >> 32).expect("32 bits")
}

impl Load {
    /// Starts to call. Clients are numbered from `first`, which tells several loads apart.
    ///
    /// `patience` is the timeout of most calls; some have a much shorter one.
    pub(crate) fn start(clients: Vec<FaultClient>, first: usize, patience: Duration) -> Self {
        let (go_on, going_on) = watch::channel(true);
        let records = Arc::<Records>::default();
        let number_of_clients = clients.len();
        let mut drivers = JoinSet::new();
        for (number, client) in (first..).zip(clients) {
            let (going_on, records) = (going_on.clone(), records.clone());
            drivers.spawn(drive(client, number, patience, going_on, records));
        }
        Self {
            clients: number_of_clients,
            patience,
            go_on,
            records,
            drivers,
        }
    }

    /// Records a call that the scenario made.
    pub(crate) fn add(&self, record: Record) {
        self.records.add(record);
    }

    /// Waits until every client has got responses to calls made after this moment. A client without responses is a problem for
    /// the verdict.
    pub(crate) async fn recovers(&self) {
        const ANSWERS: usize = 10;
        let now = Instant::now();
        let mut answers = vec![0; self.clients];
        let mut seen = self.records.lock().len();
        let mut count = self.records.count.subscribe();
        let recovering = async {
            while answers.iter().any(|answers| *answers < ANSWERS) {
                let news = count.changed().await;
                news.expect("this load has its sender");
                let records = self.records.lock();
                for record in &records[seen..] {
                    if record.outcome.is_ok() && record.made > now {
                        answers[client_of(record.id) % self.clients] += 1;
                    }
                }
                seen = records.len();
            }
        };
        if timeout(RECOVERY_LIMIT, recovering).await.is_err() {
            let problem = format!("no recovery within {RECOVERY_LIMIT:?}; responses: {answers:?}");
            self.records.problem(problem);
        }
    }

    /// Waits until that many more calls have ended, in success or failure.
    pub(crate) async fn goes_on_for(&self, calls: usize) {
        let mut count = self.records.count.subscribe();
        let goal = *count.borrow_and_update() + calls;
        let reached = timeout(RECOVERY_LIMIT, count.wait_for(|count| *count >= goal));
        if reached.await.is_err() {
            let problem = format!("fewer than {calls} calls ended within {RECOVERY_LIMIT:?}");
            self.records.problem(problem);
        }
    }

    /// Stops calling, and waits until all calls have ended. Returns their records, and the problems of this load.
    pub(crate) async fn finish(mut self) -> (Vec<Record>, Vec<String>) {
        self.go_on.send_replace(false);
        let all_ended = async { while self.drivers.join_next().await.is_some() {} };
        let ended = timeout(self.patience + RECOVERY_LIMIT, all_ended).await;
        assert!(ended.is_ok(), "calls hang, long after their deadlines");
        let records = std::mem::take(&mut *self.records.lock());
        let problems = std::mem::take(&mut *self.records.lock_problems());
        (records, problems)
    }
}

/// Makes the calls of one client, each in a task of its own, and waits for the last one.
async fn drive(
    client: FaultClient,
    number: usize,
    patience: Duration,
    mut go_on: watch::Receiver<bool>,
    records: Arc<Records>,
) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = JoinSet::new();
    let mut serials = 0..;
    for turn in 0.. {
        tokio::select! {
            _ = pace.tick() => {}
            // An error means that the load is dropped, and this task with it.
            _ = go_on.wait_for(|go_on| !go_on) => break,
        }
        let turn = Turn::of(turn);
        for serial in serials.by_ref().take(turn.calls) {
            let (client, records) = (client.clone(), records.clone());
            let id = id_of(number, serial);
            calls.spawn(async move { records.add(turn.call(&client, id, patience).await) });
        }
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}

/// The calls of one turn of a client.
#[derive(Clone, Copy, Debug)]
struct Turn {
    method: Method,
    calls: usize,
    work: Duration,
    is_impatient: bool,
}

impl Turn {
    fn of(turn: usize) -> Self {
        let method = Method::ALL[turn % Method::ALL.len()];
        let round = turn / Method::ALL.len();
        let is_burst = method == Method::Idempotent && round % 8 == 1;
        Self {
            method,
            calls: if is_burst { BURST } else { 1 },
            work: match round % 5 {
                // Long work: some calls are running at any moment.
                0 => Duration::from_millis(300),
                n => Duration::from_millis(5 * n as u64),
            },
            is_impatient: method == Method::Plain && round.is_multiple_of(2),
        }
    }

    async fn call(self, client: &FaultClient, id: u64, patience: Duration) -> Record {
        let timeout = if self.is_impatient {
            IMPATIENT
        } else {
            patience
        };
        Record::of(client, id, self.method, self.work, timeout).await
    }
}
