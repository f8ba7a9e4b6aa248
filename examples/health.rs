//! A server program with health probes and metrics over HTTP, and a graceful stop.
//!
//! ```text
//! cargo run --example health                                              # looks at its own pages, then stops
//! HTTP=0.0.0.0:8080 AMQP_URL=amqp://localhost cargo run --example health  # serves until Ctrl-C or SIGTERM
//! ```
//!
//! The first command prints `200 OK` for each of the three pages.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rpc_core::{Connection, Health, HealthWatch, Server};
use rpc_examples::{Calculator, FibClient, FibDispatcher, exit_code, told_to_stop, url};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("health", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let page = PrometheusBuilder::new().install_recorder()?;
    let connection = Connection::open(&url()).await?;
    let server = Server::builder(&connection)
        .service(FibDispatcher::new(Calculator))
        .build()
        .start()
        .await?;

    let forever = std::env::var("HTTP").ok();
    let address = forever.as_deref().unwrap_or("127.0.0.1:0");
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("health probes and metrics on http://{address}");
    let mut health = server.health();
    // The pages go on while the server drains, and end with it.
    let stopped = async move { while health.changed().await.is_some() {} };
    let pages = pages(server.health(), page);
    let serving = tokio::spawn(async move {
        axum::serve(listener, pages)
            .with_graceful_shutdown(stopped)
            .await
    });

    match forever {
        Some(_) => told_to_stop().await,
        None => look(&connection, address).await?,
    }
    server.shutdown().await?;
    serving.await??;
    connection.close().await;
    Ok(())
}

/// State of the pages.
#[derive(Clone)]
struct Pages {
    health: HealthWatch,
    metrics: PrometheusHandle,
}

fn pages(health: HealthWatch, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route(
            "/metrics",
            get(async |State(pages): State<Pages>| pages.metrics.render()),
        )
        .with_state(Pages { health, metrics })
}

/// The process need not be restarted: a server that has lost its broker connects again by itself.
async fn alive(State(mut pages): State<Pages>) -> (StatusCode, String) {
    let health = pages.health.current();
    respond(health != Health::Stopped, health, &pages.health)
}

/// The server takes requests.
async fn ready(State(mut pages): State<Pages>) -> (StatusCode, String) {
    let health = pages.health.current();
    respond(health == Health::Serving, health, &pages.health)
}

fn respond(is_good: bool, health: Health, watch: &HealthWatch) -> (StatusCode, String) {
    let status = match is_good {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let reason = watch.reason().map(|reason| format!(": {reason}"));
    (
        status,
        format!("{health:?}{}\n", reason.unwrap_or_default()),
    )
}

/// Calls the service and prints the pages.
async fn look(connection: &Connection, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let fib = FibClient::new(connection.client());
    println!("fib(20) = {}", fib.fib(20).await?);
    for (path, expected) in [
        ("/healthz", "Serving"),
        ("/readyz", "Serving"),
        ("/metrics", "rpc_server_call_duration_count"),
    ] {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        let status = page.lines().next().unwrap_or_default();
        println!("{path}: {status}");
        if !page.contains(expected) {
            return Err(format!("{path} does not contain {expected}:\n{page}").into());
        }
    }
    Ok(())
}
