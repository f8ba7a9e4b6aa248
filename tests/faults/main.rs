//! Faults under load: a steady load of calls, one fault, and a check of every call's outcome.
//!
//! Each scenario breaks one thing while clients call servers, each on a connection of its own. At the end the scenario counts
//! calls, executions and leftovers on the broker, and checks the promises:
//!
//! - every call succeeds with the right result or fails for a reason that the fault explains, by its deadline;
//! - an error that says that the request did not run is right;
//! - idempotent calls, whose deadlines are longer than any outage, succeed;
//! - at-most-once calls run at most once, whichever process dies;
//! - streams have no gap, no item twice, and an end that the fault explains, in time;
//! - nothing is left: no message, reply queue, channel, connection or task.
//!
//! Questions to the servers trickle in beside the calls, and disturb nothing.
//!
//! The promises hold however calls share messages. Scenarios therefore have clients with and without batches, and bursts of
//! concurrent calls.
//!
//! ```text
//! cargo test -p rpc-tests --features broker --test faults                         all scenarios
//! cargo test -p rpc-tests --features broker --test faults network::throttles      one scenario
//! make soak                                                                       scenarios in random order
//! ```

mod batches;
mod broker;
mod cluster;
mod deadly;
mod deployment;
mod hostile;
mod introspection;
mod load;
mod network;
mod peers;
mod programs;
mod queues;
mod red_team;
mod service;
mod streams;
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

/// A named fault.
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
    network::blackholes_the_way_to_the_broker,
    network::blackholes_the_way_from_the_broker,
    network::blackholes_the_way_from_servers,
    network::delays_everything,
    network::throttles,
    cluster::kills_the_leader_of_a_quorum_queue,
];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let Some(done) = programs::run(&arguments).await {
        return done;
    }
    // Options of libtest, which a runner of all tests may pass to this program too, change nothing.
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
        // The same order for the same seed, in every version of this program.
        scenarios.sort_by_cached_key(|scenario| shuffled(seed, round, scenario.name));
        for scenario in &*scenarios {
            if Instant::now() >= end {
                return;
            }
            run.scenario(scenario).await;
        }
    }
}

/// The sort key of a scenario in a round: FNV-1a of seed, round and name.
fn shuffled(seed: u64, round: u64, name: &str) -> u64 {
    let numbers = [seed, round].map(u64::to_le_bytes);
    let bytes = numbers.as_flattened().iter().copied().chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A sequence of scenarios on one node.
#[derive(Default)]
struct Run {
    /// Replaced after a failure, which may have left anything behind.
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
        // The panic message was printed at the panic. The scenario's values are dropped by now.
        let running = AssertUnwindSafe((scenario.run)(node.clone())).catch_unwind();
        let verdict = running.await.unwrap_or_else(|_| Verdict {
            problems: vec!["the scenario panicked".to_owned()],
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
