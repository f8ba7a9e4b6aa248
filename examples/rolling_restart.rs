//! A rolling restart: new servers replace old servers under load, and no call fails.
//!
//! ```text
//! cargo run --example rolling_restart                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example rolling_restart       # on RabbitMQ
//! ```
//!
//! Sixteen callers call continuously while two servers are replaced, one after the other, twice. Then no server runs for a moment. The
//! last line counts the answered calls, and ends with `0 failed`.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use rpc_core::{Connection, Server, ServerHandle, rpc};
use rpc_examples::{exit_code, shared_url};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Stamps forms, which takes a moment.
#[rpc]
pub trait Clerk {
    /// Stamps a form.
    async fn stamp(form: u64) -> u64;
}

struct Stamp;

impl Clerk for Stamp {
    async fn stamp(&self, form: u64) -> u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        form
    }
}

/// Stand-in for a server process: a connection and a server.
struct Process {
    connection: Connection,
    server: ServerHandle,
}

impl Process {
    async fn start(url: &str) -> Result<Self, Box<dyn Error>> {
        let connection = Connection::open(url).await?;
        let server = Server::builder(&connection)
            .service(ClerkDispatcher::new(Stamp))
            .build()
            .start()
            .await?;
        Ok(Self { connection, server })
    }

    /// Stops the server like the signal of `Server::run_until`: takes no more requests, returns those that have not started, and finishes
    /// the others. Closes the connection afterwards.
    async fn stop(self) -> Result<(), Box<dyn Error>> {
        self.server.shutdown().await?;
        self.connection.close().await;
        Ok(())
    }
}

/// Outcomes of calls.
#[derive(Default)]
struct Tally {
    answered: u64,
    failures: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("rolling_restart", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = shared_url("rolling-restart");
    let mut servers = vec![Process::start(&url).await?, Process::start(&url).await?];

    let connection = Connection::open(&url).await?;
    let clerk = ClerkClient::new(connection.client());
    let (stop, stopped) = watch::channel(false);
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        callers.spawn(call(clerk.clone(), stopped.clone()));
    }

    for restart in 1..=4 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // The new server starts first, so at least two are always running.
        servers.push(Process::start(&url).await?);
        servers.remove(0).stop().await?;
        println!("restart {restart}: done");
    }

    // The queue outlives its servers, and requests wait in it until their deadlines.
    for server in servers.drain(..) {
        server.stop().await?;
    }
    println!("no server is running");
    tokio::time::sleep(Duration::from_millis(200)).await;
    servers.push(Process::start(&url).await?);
    println!("one server is running");
    tokio::time::sleep(Duration::from_millis(200)).await;

    stop.send_replace(true);
    let mut sum = Tally::default();
    while let Some(tally) = callers.join_next().await {
        let tally = tally?;
        sum.answered += tally.answered;
        sum.failures.extend(tally.failures);
    }
    println!("{} answered, {} failed", sum.answered, sum.failures.len());
    for server in servers {
        server.stop().await?;
    }
    connection.close().await;
    match sum.failures.first() {
        None => Ok(()),
        Some(failure) => Err(format!("a call failed: {failure}").into()),
    }
}

/// Calls until `stopped` is `true`.
async fn call(clerk: ClerkClient, stopped: watch::Receiver<bool>) -> Tally {
    let mut tally = Tally::default();
    for form in 0.. {
        if *stopped.borrow() {
            break;
        }
        match clerk.stamp(form).await {
            Ok(stamped) if stamped == form => tally.answered += 1,
            Ok(other) => tally.failures.push(format!("{other} instead of {form}")),
            Err(error) => tally.failures.push(error.to_string()),
        }
    }
    tally
}
