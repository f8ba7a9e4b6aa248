//! Faults under load: a steady load of calls, one fault, and a count of what became of every call.
//!
//! Each scenario breaks one thing while clients with connections of their own call servers with connections of theirs. At
//! the end calls, executions and what is left on the broker are counted, and held against the promises:
//!
//! - every call is answered rightly, or fails for a reason that the fault explains, by its deadline;
//! - an error that says that the request did not run tells the truth;
//! - idempotent calls, whose deadlines are longer than any outage, succeed;
//! - at-most-once calls run no more than once, whatever dies;
//! - nothing is left: no message, reply queue, channel, connection or task.
//!
//! All of this holds for clients whose calls share messages as for those whose calls do not, so there are both, and calls that
//! are made at the same moment.
//!
//! ```text
//! cargo test -p rpc-tests --features broker --test faults [-- NAME…]
//! make soak                                                            again and again, in random order
//! ```

#[path = "faults/batches.rs"]
mod batches;
#[path = "faults/bench.rs"]
mod bench;
#[path = "faults/broker.rs"]
mod broker;
#[path = "faults/cluster.rs"]
mod cluster;
#[path = "faults/deadly.rs"]
mod deadly;
#[path = "faults/hostile.rs"]
mod hostile;
#[path = "faults/load.rs"]
mod load;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/peers.rs"]
mod peers;
#[path = "faults/programs.rs"]
mod programs;
#[path = "faults/queues.rs"]
mod queues;
#[path = "faults/red_team.rs"]
mod red_team;
#[path = "faults/service.rs"]
mod service;
#[path = "faults/verdict.rs"]
mod verdict;

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use rpc_tests::broker::Node;

use self::verdict::{Table, Verdict};

/// Something that breaks, and a name for it.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    run: fn(Arc<Node>) -> LocalBoxFuture<'static, Verdict>,
}

macro_rules! scenarios {
    ($($module:ident::$name:ident,)*) => {
        &[$(Scenario {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: |node| async move { $module::$name(&node).await }.boxed_local(),
        },)*]
    };
}

const SCENARIOS: &[Scenario] = scenarios![
    broker::killed_and_restarted,
    broker::stopped_and_restarted,
    broker::paused_beyond_the_heartbeat,
    broker::closes_connections,
    broker::raises_the_memory_alarm,
    queues::deletes_the_request_queue,
    queues::deletes_the_reply_queues,
    hostile::sends_hostile_requests,
    red_team::attacks_servers,
    red_team::attacks_clients,
    peers::kills_servers_while_another_serves,
    peers::stops_a_server_while_another_serves,
    peers::replaces_servers_one_after_the_other,
    peers::kills_a_client,
    peers::closes_a_client_with_calls_in_flight,
    deadly::kills_servers_from_a_batch,
    network::cuts_connections,
    network::swallows_what_goes_to_the_broker,
    network::swallows_what_comes_from_the_broker,
    network::swallows_what_servers_say,
    network::delays_everything,
    network::trickles,
    cluster::kills_the_leader_of_a_quorum_queue,
];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let Some(done) = programs::run(&arguments).await {
        return done;
    }
    // Other options are libtest's, which a runner of all tests may pass to this one too; they change nothing.
    let (options, names): (Vec<_>, Vec<_>) = arguments
        .into_iter()
        .partition(|argument| argument.starts_with('-'));
    let has_option = |name: &str| options.iter().any(|option| option == name);
    let is_wanted = |scenario: &&Scenario| {
        names.is_empty() || names.iter().any(|name| scenario.name.contains(name))
    };
    let mut scenarios: Vec<_> = SCENARIOS.iter().filter(is_wanted).collect();
    if has_option("--list") {
        scenarios
            .iter()
            .for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    let mut run = Run::default();
    if has_option("--soak") {
        soak(&mut run, &mut scenarios).await;
    } else {
        for scenario in scenarios {
            run.scenario(scenario).await;
        }
    }
    println!("\n{}", run.table);
    if run.failures == 0 {
        ExitCode::SUCCESS
    } else {
        println!("{} failed", run.failures);
        ExitCode::FAILURE
    }
}

/// Runs scenarios in random orders for `SOAK_MINUTES`, by default 10. `SOAK_SEED` repeats the orders of another run.
async fn soak(run: &mut Run, scenarios: &mut [&Scenario]) {
    let number = |name: &str| Some(env::var(name).ok()?.parse::<u64>().expect(name));
    let minutes = number("SOAK_MINUTES").unwrap_or(10);
    let seed = number("SOAK_SEED").unwrap_or_else(|| RandomState::new().hash_one(()));
    println!("SOAK_MINUTES={minutes} SOAK_SEED={seed}");
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    for round in 0_u64.. {
        // The same for the same seed, with every version of this program.
        scenarios.sort_by_cached_key(|scenario| shuffled(seed, round, scenario.name));
        for scenario in &*scenarios {
            if Instant::now() >= end {
                return;
            }
            run.scenario(scenario).await;
        }
    }
}

/// A scenario's place in a round: FNV-1a of all that there is.
fn shuffled(seed: u64, round: u64, name: &str) -> u64 {
    let numbers = [seed, round].map(u64::to_le_bytes);
    let bytes = numbers.as_flattened().iter().copied().chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Some scenarios on one node.
#[derive(Default)]
struct Run {
    /// Another one after a failure, which may have left anything.
    node: Option<Arc<Node>>,
    table: Table,
    failures: usize,
}

impl Run {
    async fn scenario(&mut self, scenario: &Scenario) {
        println!("{} …", scenario.name);
        let node = match self.node.take() {
            Some(node) => node,
            None => Arc::new(Node::start().await),
        };
        let started = Instant::now();
        // Its panic message was printed when it panicked; what it held is dropped by now.
        let running = AssertUnwindSafe((scenario.run)(node.clone())).catch_unwind();
        let verdict = running.await.unwrap_or_else(|_| Verdict {
            problems: vec!["it panicked".to_owned()],
            ..Verdict::default()
        });
        self.table.add(scenario.name, &verdict, started.elapsed());
        if verdict.problems.is_empty() {
            self.node = Some(node);
            return;
        }
        self.failures += 1;
        println!("{} FAILED", scenario.name);
        const SHOWN: usize = 10;
        for problem in verdict.problems.iter().take(SHOWN) {
            println!("  {problem}");
        }
        if verdict.problems.len() > SHOWN {
            println!("  … {} problems in all", verdict.problems.len());
        }
    }
}
