//! Servers seen from outside: their contract, their statistics, and a call to all of them.
//!
//! ```text
//! cargo run --example instances                               # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example instances     # on RabbitMQ
//! ```
//!
//! The last lines name the two servers and the numbers of prices that they have forgotten, 20 together.

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpc_core::instances::Contract;
use rpc_core::{Connection, Server, ServerHandle, rpc};
use rpc_examples::{exit_code, shared_url};

/// Prices of articles.
#[rpc(version = "2.1.0")]
pub trait Prices {
    /// Returns the price of an article, in cents.
    async fn price(article: String, #[serde(default)] pieces: Option<u64>) -> u64;

    /// Forgets all prices that the server remembers. Returns their number.
    async fn clear_cache() -> u64;

    /// Returns after a while.
    async fn take_stock();
}

/// A handler that remembers prices.
#[derive(Debug, Default)]
struct Catalogue {
    remembered: AtomicU64,
}

impl Prices for Catalogue {
    async fn price(&self, article: String, pieces: Option<u64>) -> u64 {
        self.remembered.fetch_add(1, Ordering::Relaxed);
        article.len() as u64 * 100 * pieces.unwrap_or(1)
    }

    async fn clear_cache(&self) -> u64 {
        self.remembered.swap(0, Ordering::Relaxed)
    }

    async fn take_stock(&self) {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("instances", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = shared_url("instances");
    let (first, second) = (start(&url, "shop-1").await?, start(&url, "shop-2").await?);
    let connection = Connection::open(&url).await?;
    let prices = PricesClient::new(connection.client());
    let client = connection.client();

    println!("The servers of Prices:");
    for instance in client.instances("Prices").expect(2).await? {
        println!(
            "  {} {} on {}, version {}, answered in {:?}",
            instance.id,
            instance.name,
            instance.queues.join(", "),
            instance.version,
            instance.round_trip
        );
    }

    let service = client.describe("Prices").await?;
    println!("The contract of {} {}:", service.name, service.version);
    for method in &service.methods {
        let arguments = method.arguments.iter().map(|argument| {
            let optional = if argument.optional { " (optional)" } else { "" };
            format!("{}: {}{optional}", argument.name, argument.ty.rust)
        });
        let arguments = arguments.collect::<Vec<_>>().join(", ");
        let docs = method.docs.as_deref().unwrap_or_default();
        println!(
            "  {}({arguments}) -> {}: {docs}",
            method.name, method.result.rust
        );
    }

    match client.check_contract::<PricesClient>().await? {
        Contract::Same => println!("It is the contract that this program was compiled with."),
        other => return Err(format!("unexpected: {other:?}").into()),
    }

    for pieces in 1..=20 {
        prices.price("tea".to_owned(), Some(pieces)).await?;
    }
    let counting = tokio::spawn(prices.take_stock().into_future());
    println!("Their statistics:");
    for stats in busy(&client).await? {
        for method in stats.methods.iter().filter(|method| method.calls > 0) {
            println!(
                "  {} {}: {} calls, p50 {:?}, p99 {:?}",
                stats.name, method.name, method.calls, method.p50, method.p99
            );
        }
        for call in &stats.oldest {
            println!(
                "  {} {} has been running for {:?}",
                stats.name, call.method, call.age
            );
        }
    }

    println!("Clearing the caches of all servers:");
    let mut answers = prices
        .clear_cache()
        .to_all_instances()
        .expect(2)
        .send()
        .await?;
    let mut cleared = 0;
    while let Some((instance, answer)) = answers.next().await {
        let prices = answer?;
        println!("  {instance} has forgotten {prices} prices");
        cleared += prices;
    }
    assert_eq!(cleared, 20);

    counting.await??;
    first.shutdown().await?;
    second.shutdown().await?;
    connection.close().await;
    Ok(())
}

/// Starts a server on a connection of its own.
async fn start(url: &str, name: &str) -> Result<ServerHandle, Box<dyn Error>> {
    let connection = Connection::builder(url).name(name).open().await?;
    let server = Server::builder(&connection).service(PricesDispatcher::new(Catalogue::default()));
    Ok(server.build().start().await?)
}

/// Returns the statistics once a server works on a call.
async fn busy(
    client: &rpc_core::Client,
) -> Result<Vec<rpc_core::instances::InstanceStats>, Box<dyn Error>> {
    loop {
        let stats = client.stats("Prices").expect(2).await?;
        if stats.iter().any(|instance| !instance.oldest.is_empty()) {
            return Ok(stats);
        }
    }
}
