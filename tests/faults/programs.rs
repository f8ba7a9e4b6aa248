//! This program as a server or a client process of its own, which can be killed.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use rpc_core::{Connection, QueueOptions};
use rpc_tests::program::Program;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::load::{Load, PATIENT};
use super::service::{Ledger, Queue, Sharing};

const SERVE: &str = "--as-server";
const CALL: &str = "--as-client";

/// The number of the client, far from those of the scenarios' own clients.
pub(crate) const CLIENT: usize = 1_000;

/// Starts a server, and returns when it serves.
pub(crate) async fn server(url: &str, queue: &Queue, ledger: &Ledger) -> Program {
    let ledger = ledger.path().to_str().expect("a path in UTF-8");
    start([SERVE, url, &queue.name, ledger]).await
}

/// Starts a client, and returns when it gets responses.
pub(crate) async fn client(url: &str, queue: &Queue) -> Program {
    start([CALL, url, &queue.name, ""]).await
}

/// Stops a server with SIGTERM, and waits for its end.
pub(crate) async fn stop(server: Program) {
    server.terminate().await;
    let (status, printed) = server.end().await;
    assert!(status.success(), "{printed:?}");
}

async fn start(arguments: [&str; 4]) -> Program {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args(arguments);
    let mut program = Program::start(command);
    program.line("ready").await;
    program
}

/// Runs the role that another process has started this program for; `None` if there is no role.
pub(crate) async fn run(arguments: &[String]) -> Option<ExitCode> {
    let [role, url, queue, ledger] = arguments else {
        return None;
    };
    let queue = Queue {
        name: queue.clone(),
        options: QueueOptions::default(),
    };
    match role.as_str() {
        SERVE => serve(url, &queue, Path::new(ledger)).await,
        CALL => call(url, &queue).await,
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

/// Serves until SIGTERM.
async fn serve(url: &str, queue: &Queue, ledger: &Path) {
    let mut terminated = signal(SignalKind::terminate()).expect("a handler for SIGTERM");
    let connection = connect(url).await;
    let server = queue.server(&connection, ledger);
    let mut server = server.start().await.expect("the server starts");
    println!("ready");
    tokio::select! {
        _ = terminated.recv() => server.shutdown().await.expect("a graceful shutdown"),
        ended = server.ended() => panic!("the server ended: {ended:?}"),
    }
    connection.close().await;
}

/// Calls until the process is killed.
async fn call(url: &str, queue: &Queue) {
    let connection = connect(url).await;
    let client = queue.client(&connection, Sharing::Requests);
    let load = Load::start(vec![client], CLIENT, PATIENT);
    load.recovers().await;
    println!("ready");
    std::future::pending::<()>().await;
}

async fn connect(url: &str) -> Connection {
    Connection::open(url)
        .await
        .expect("the broker accepts a connection")
}
