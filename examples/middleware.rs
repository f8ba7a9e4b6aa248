//! Layers around a client and a server: tower's layers and the retry layer.
//!
//! ```text
//! cargo run --example middleware                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example middleware       # on RabbitMQ
//! ```
//!
//! The server refuses requests that it cannot run at once. The first client does not retry them. The second client retries a
//! little later, because the method is idempotent. The last line counts the responses: all calls get one.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use rpc_core::middleware::{RetryLayer, RetryPolicy};
use rpc_core::{Connection, Server, rpc};
use rpc_examples::{exit_code, url};
use tokio::task::JoinSet;
use tower::ServiceBuilder;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;

/// Weighs parcels.
#[rpc]
pub trait Scales {
    /// Returns the weight of a parcel. Weighing twice does no harm, so calls may be retried.
    #[rpc(idempotent)]
    async fn weigh(parcel: u32) -> u32;
}

struct Slow;

impl Scales for Slow {
    async fn weigh(&self, parcel: u32) -> u32 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        parcel * 10
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("middleware", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let connection = Connection::open(&url()).await?;

    // The first layer is the outermost. It refuses requests that the limit has no place for, instead of letting them wait.
    let server = Server::builder(&connection)
        .service(ScalesDispatcher::new(Slow))
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(2))
        .build()
        .start()
        .await?;

    // Clients retry idempotent calls by default. This client does not, for comparison.
    let client = connection
        .client_builder()
        .retry(RetryPolicy::never())
        .build();
    let scales = ScalesClient::new(client.clone());
    println!(
        "without retries: {} of 10 calls got a response",
        count(&scales).await?
    );

    // The first layer is the outermost here too. Each attempt has half a second, and attempts continue with growing pauses for
    // the call's 30 seconds. Without the timeout, `connection.client()` does the same.
    let layered = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new()))
        .timeout(Duration::from_millis(500))
        .service(client);
    let scales = ScalesClient::new(layered);
    println!(
        "with retries: {} of 10 calls got a response",
        count(&scales).await?
    );

    server.shutdown().await?;
    connection.close().await;
    Ok(())
}

/// Weighs ten parcels concurrently and counts the responses.
async fn count<S: rpc_core::RpcService>(scales: &ScalesClient<S>) -> Result<usize, Box<dyn Error>> {
    let mut calls = JoinSet::new();
    for parcel in 0..10 {
        calls.spawn(scales.weigh(parcel));
    }
    let outcomes = calls.join_all().await;
    Ok(outcomes.iter().filter(|outcome| outcome.is_ok()).count())
}
