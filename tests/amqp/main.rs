//! RabbitMQ passes the suite of behaviour that all transports share (`tests/suite`). The tests start one private node.
//!
//! ```text
//! cargo test -p rpc-tests --features broker --test amqp
//! cargo test -p rpc-tests --features broker --test amqp answers::a_call_gets_its_response -- --nocapture
//! ```
#![allow(clippy::unwrap_used)] // A test that fails panics.

#[path = "../suite/mod.rs"]
mod suite;

use rpc_tests::broker::{Cut, Proxy, shared_node};
use suite::Broker;

async fn broker() -> Broker {
    Broker {
        url: shared_node().await.url(),
    }
}

/// The broker behind a proxy of the test's own, and a function that cuts the connections through the proxy.
async fn fragile_broker() -> (Broker, impl AsyncFn()) {
    let proxy = Proxy::start(shared_node().await.port()).await;
    let broker = Broker { url: proxy.url() };
    (broker, async move || proxy.cut(Cut::Reset).await)
}
