//! The behaviour suite on the embedded broker.
#![allow(clippy::unwrap_used)] // A test that fails panics.

#[path = "memory/chaos.rs"]
mod chaos;
#[path = "memory/coalescing.rs"]
mod coalescing;
#[path = "memory/hooks.rs"]
mod hooks;
mod suite;

use suite::Broker;

async fn broker() -> Broker {
    Broker {
        url: format!("memory:{}", rpc_tests::unique_queue("broker")),
    }
}
