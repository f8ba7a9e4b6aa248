//! Traces: two services, one of which calls the other, in one OpenTelemetry trace.
//!
//! ```text
//! cargo run --example tracing                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example tracing       # on RabbitMQ
//! ```
//!
//! It prints the spans of one call, innermost first, as OpenTelemetry's exporter for the console writes them: `Fib/fib` on the
//! server's side and on the client's, then `Sums/sum` on either. All have the same trace id, and each names the one after it
//! as its parent. In production only the exporter is another: `opentelemetry-otlp` sends the same to a collector.

use std::error::Error;
use std::process::ExitCode;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use rpc_core::{CallError, Connection, Server, rpc};
use rpc_examples::{Calculator, FibClient, FibDispatcher, FibError, exit_code, shared_url};
use serde::{Deserialize, Serialize};
use tracing::{Level, info};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

/// Adds Fibonacci numbers.
#[rpc]
pub trait Sums {
    /// The sum of two Fibonacci numbers.
    async fn sum(a: u64, b: u64) -> Result<u64, SumError>;
}

/// Why there is no sum.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("a number is missing: {0}")]
pub struct SumError(String);

struct Adder {
    fib: FibClient,
}

impl Sums for Adder {
    async fn sum(&self, a: u64, b: u64) -> Result<u64, SumError> {
        info!(a, b, "adding"); // An event of the server's span.
        // Both calls are children of that span, because they are made in it. (A spawned task needs `.in_current_span()`.)
        let missing = |error: CallError<FibError>| SumError(error.to_string());
        let a = self.fib.fib(a).await.map_err(missing)?;
        let b = self.fib.fib(b).await.map_err(missing)?;
        Ok(a + b)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("tracing", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    // What a program does to have its spans exported; nothing of it is special to RPC.
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("examples"))
        .with_location(false) // These three are only left out for a shorter page.
        .with_threads(false)
        .with_tracked_inactivity(false);
    let targets = Targets::new()
        .with_target("rpc_core", Level::INFO)
        .with_target("tracing", Level::INFO); // This program.
    let subscriber = tracing_subscriber::registry().with(targets).with(layer);
    tracing::subscriber::set_global_default(subscriber)?;

    // Each of these is a program of its own in real life. That they have a connection each changes nothing here.
    let url = shared_url("tracing");
    let (numbers, sums, caller) = (
        Connection::open(&url).await?,
        Connection::open(&url).await?,
        Connection::open(&url).await?,
    );
    let numbers_server = Server::builder(&numbers)
        .service(FibDispatcher::new(Calculator))
        .build()
        .start()
        .await?;
    let adder = Adder {
        fib: FibClient::new(sums.client()),
    };
    let sums_server = Server::builder(&sums)
        .service(SumsDispatcher::new(adder))
        .build()
        .start()
        .await?;

    let client = SumsClient::new(caller.client());
    let sum = client.sum(10, 20).await?;
    println!("fib(10) + fib(20) = {sum}");

    sums_server.shutdown().await?;
    numbers_server.shutdown().await?;
    provider.shutdown()?;
    Ok(())
}
