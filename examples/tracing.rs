//! Traces: one service calls another in one OpenTelemetry trace.
//!
//! ```text
//! cargo run --example tracing                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example tracing       # on RabbitMQ
//! ```
//!
//! The example prints the spans of one call, innermost first, with OpenTelemetry's console exporter: `Fib/fib` on the server and on
//! the client, then `Sums/sum` on the server and on the client. All spans have the same trace id, and each names the next one as its
//! parent. In production, use another exporter: `opentelemetry-otlp` sends the spans to a collector.

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
    /// Returns the sum of two Fibonacci numbers.
    async fn sum(a: u64, b: u64) -> Result<u64, SumError>;
}

/// Error of a sum with a missing number.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("a number is missing: {0}")]
pub struct SumError(String);

struct Adder {
    fib: FibClient,
}

impl Sums for Adder {
    async fn sum(&self, a: u64, b: u64) -> Result<u64, SumError> {
        info!(a, b, "adding"); // an event in the server's span
        // Both calls are made in that span, so they are its children. (A spawned task needs `.in_current_span()`.)
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
    // The usual setup for exporting spans. None of it is specific to RPC.
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("examples"))
        .with_location(false) // these three are off to keep the output short
        .with_threads(false)
        .with_tracked_inactivity(false);
    let targets = Targets::new()
        .with_target("rpc_core", Level::INFO)
        .with_target("tracing", Level::INFO); // this program
    let subscriber = tracing_subscriber::registry().with(targets).with(layer);
    tracing::subscriber::set_global_default(subscriber)?;

    // In production each of these connections belongs to a separate program.
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
