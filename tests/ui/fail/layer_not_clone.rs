//! Layers whose services are not `Clone`, on both sides.

use std::time::Duration;

use rpc_core::{Connection, Server, rpc};
use tower::ServiceBuilder;
use tower::buffer::BufferLayer;
use tower::limit::RateLimitLayer;

#[rpc]
trait Fib {
    async fn fib(n: u64) -> u64;
}

fn layered(connection: &Connection) {
    let limit = RateLimitLayer::new(5, Duration::from_secs(1));
    let _ = Server::builder(connection).layer(limit.clone());
    let _ = Server::builder(connection)
        .layer(BufferLayer::new(100))
        .layer(limit.clone());
    // A buffer makes the service `Clone`.
    let buffered = ServiceBuilder::new().buffer(100).rate_limit(5, Duration::from_secs(1));
    let _ = Server::builder(connection).layer(buffered.clone());
    let _ = FibClient::new(buffered.service(connection.client()));
    let _ = FibClient::new(ServiceBuilder::new().layer(limit).service(connection.client()));
}

fn main() {
    let _ = layered;
}
