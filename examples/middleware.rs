//! Layers around a client and a server: tower's own, and the one for retries.
//!
//! ```text
//! cargo run --example middleware                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example middleware       # on RabbitMQ
//! ```
//!
//! The server refuses what it cannot run at once. The first client finds that out; the second one tries again, a little later,
//! because the method is idempotent. The last line says how many calls got an answer: all of them.

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
    /// The weight of a parcel. Weighing it twice does no harm, so calls may be repeated.
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

    // The layer added first is the outermost: what the limit has no place for is refused, instead of waiting for one.
    let server = Server::builder(&connection)
        .service(ScalesDispatcher::new(Slow))
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(2))
        .build()
        .start()
        .await?;

    // Clients repeat idempotent calls by themselves. This one is told not to, to show what that does.
    let client = connection
        .client_builder()
        .retry(RetryPolicy::never())
        .build();
    let scales = ScalesClient::new(client.clone());
    println!(
        "without retries: {} of 10 calls got an answer",
        count(&scales).await?
    );

    // The first layer is the outermost here, too: each attempt has half a second, and there are as many as the call's 30
    // seconds allow, after longer and longer pauses. Without the timeout, `connection.client()` does the same.
    let layered = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new()))
        .timeout(Duration::from_millis(500))
        .service(client);
    let scales = ScalesClient::new(layered);
    println!(
        "with retries: {} of 10 calls got an answer",
        count(&scales).await?
    );

    server.shutdown().await?;
    connection.close().await;
    Ok(())
}

/// Weighs ten parcels at once.
async fn count<S: rpc_core::RpcService>(scales: &ScalesClient<S>) -> Result<usize, Box<dyn Error>> {
    let mut calls = JoinSet::new();
    for parcel in 0..10 {
        calls.spawn(scales.weigh(parcel));
    }
    let answers = calls.join_all().await;
    Ok(answers.iter().filter(|answer| answer.is_ok()).count())
}
