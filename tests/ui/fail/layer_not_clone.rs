//! Layers whose services cannot be cloned, on either side.

use std::time::Duration;

use rpc_core::{Connection, Server, rpc};
use tower::ServiceBuilder;
use tower::limit::RateLimitLayer;

#[rpc]
trait Fib {
    async fn fib(n: u64) -> u64;
}

fn layered(connection: &Connection) {
    let limit = RateLimitLayer::new(5, Duration::from_secs(1));
    let _ = Server::builder(connection).layer(limit.clone());
    let _ = FibClient::new(ServiceBuilder::new().layer(limit).service(connection.client()));
}

fn main() {
    let _ = layered;
}
