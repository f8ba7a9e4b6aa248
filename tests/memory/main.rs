//! The embedded broker (`memory:`) passes the suite of behaviour that all transports share (`tests/suite`), and calls keep
//! their promises under injected faults in paused time (`chaos`, `coalescing`, `gathering`, `hooks`, `instances`, `tap`). `descriptions` needs no
//! broker at all.
//!
//! ```text
//! cargo test -p rpc-tests --test memory
//! cargo test -p rpc-tests --test memory answers::a_call_gets_its_response -- --nocapture
//! ```
#![allow(clippy::unwrap_used)] // A test that fails panics.

mod chaos;
mod coalescing;
mod descriptions;
mod gathering;
mod hooks;
mod instances;
mod streams;
#[path = "../suite/mod.rs"]
mod suite;
mod tap;

use rpc_core::testing::EmbeddedBroker;
use rpc_tests::unique_queue;
use suite::Broker;

async fn broker() -> Broker {
    Broker {
        url: format!("memory:{}", unique_queue("broker")),
    }
}

/// A broker of the test's own, and a function that cuts its connections.
async fn fragile_broker() -> (Broker, impl AsyncFn()) {
    let embedded = EmbeddedBroker::named(unique_queue("broker"));
    let broker = Broker {
        url: embedded.url(),
    };
    (broker, async move || embedded.drop_connections())
}
