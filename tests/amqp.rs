//! The behaviour suite on RabbitMQ.
#![allow(clippy::unwrap_used)] // A test that fails panics.

mod suite;

use rpc_tests::broker::shared_node;
use suite::Broker;

async fn broker() -> Broker {
    Broker {
        url: shared_node().await.url(),
    }
}
