//! A trait as a service: Fibonacci numbers over queues, in one process.
//!
//! ```text
//! cargo run --example fib                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example fib       # on RabbitMQ
//! ```
//!
//! The example starts two servers that share one queue, and calls them: sequentially, concurrently, and with three calls that
//! fail. The last line is `fib(30) = 832040`. The contract, the `Fib` trait, is in `src/lib.rs`.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rpc_core::{CallError, Connection, Server};
use rpc_examples::{Calculator, FibClient, FibDispatcher, exit_code};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("fib", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "memory:".to_owned());
    let connection = Connection::open(&url).await?;
    println!(
        "connected to {}",
        if url == "memory:" {
            "the embedded broker"
        } else {
            "RabbitMQ"
        }
    );

    // Two servers of one service. In production each server is a process with its own connection, and the broker distributes
    // the requests among all of them.
    let first = Server::builder(&connection)
        .service(FibDispatcher::new(Calculator))
        .build()
        .start()
        .await?;
    let second = Server::builder(&connection)
        .service(FibDispatcher::new(Calculator))
        .build()
        .start()
        .await?;

    // Clients are cheap to clone and can have any number of calls in flight.
    let fib = FibClient::new(connection.client());

    println!("\nsequential calls");
    for n in 1..=10 {
        println!("  fib({n}) = {}", fib.fib(n).await?);
    }

    println!("\ntwenty concurrent calls");
    let started = Instant::now();
    let mut calls = JoinSet::new();
    for n in 1..=20 {
        calls.spawn(fib.fib(n));
    }
    let mut sum = 0;
    while let Some(call) = calls.join_next().await {
        sum += call??;
    }
    println!("  their sum is {sum}, after {:.1?}", started.elapsed());

    println!("\nfailing calls");
    // The service's own error arrives as a value of its own type.
    match fib.fib(100).await {
        Err(CallError::App(error)) => println!("  the service says: {error}"),
        other => println!("  unexpected: {other:?}"),
    }
    // Every other error names the failure and tells if the request may have run.
    match fib.clone().with_queue("rpc.NoSuchService").fib(1).await {
        Err(CallError::Rpc(error)) => println!("  {:?}: {error}", error.kind()),
        other => println!("  unexpected: {other:?}"),
    }
    // A call always ends by its deadline.
    match fib.fib(40).timeout(Duration::from_millis(20)).await {
        Err(CallError::Rpc(error)) => println!("  {:?}: {error}", error.kind()),
        other => println!("  unexpected: {other:?}"),
    }

    println!("\nfib(30) = {}", fib.fib(30).await?);

    // Finishes running requests, replies to them and acknowledges them.
    first.shutdown().await?;
    second.shutdown().await?;
    connection.close().await;
    Ok(())
}
