//! Metrics of a client and a server, as a Prometheus page.
//!
//! ```text
//! cargo run --example metrics                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example metrics       # on RabbitMQ
//! ```
//!
//! The example makes calls that succeed and calls that fail, and prints the page. A real program would respond to requests for
//! `/metrics` with the output of `render`, or use the exporter's feature `http-listener`.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use rpc_core::{CallError, Connection, Server};
use rpc_examples::{Calculator, FibClient, FibDispatcher, exit_code, url};

/// Upper limits of the buckets of durations, in seconds. There are few, to keep the page short.
const BUCKETS: &[f64] = &[0.01, 0.1, 1.0];

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("metrics", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    // Install the recorder before opening the connection, which registers the descriptions of all metrics.
    let page = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("duration".to_owned()), BUCKETS)?
        .install_recorder()?;

    let connection = Connection::open(&url()).await?;
    let server = Server::builder(&connection)
        .service(FibDispatcher::new(Calculator))
        .build()
        .start()
        .await?;
    let fib = FibClient::new(connection.client());
    for n in 1..=10 {
        fib.fib(n).await?;
    }
    // The service's own error and a timeout are counted as separate outcomes.
    match fib.fib(100).await {
        Err(CallError::App(error)) => println!("# the service's error: {error}"),
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    match fib.fib(40).timeout(Duration::from_millis(20)).await {
        Err(CallError::Rpc(error)) => println!("# the call's error: {error}"),
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    server.shutdown().await?;
    connection.close().await;

    println!("{}", page.render());
    Ok(())
}
