//! The command-line program `rpc` for the services on a broker.
//!
//! The program needs no trait: it learns the contract of a service from its running servers. `cli` has the commands as a user types
//! them, `commands` has one file for each.

mod app;
mod arguments;
mod cli;
mod commands;
mod confirm;
mod connect;
mod contexts;
mod description;
mod failure;
mod files;
mod header;
mod instances;
mod output;
mod rates;
mod rust_type;
#[cfg(test)]
mod samples;
mod target;
mod units;

use std::future::Future;
use std::process::ExitCode;

use clap::Parser;

use self::app::App;
use self::cli::Cli;
use self::failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(),
    };
    let result = runtime.block_on(run(cli));
    // A read from standard input cannot be stopped, so the program does not wait for one.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Runs a command to its end, or until the program is interrupted. Either way calls in flight are cancelled and the connection is closed.
async fn run(cli: Cli) -> Result<(), Failure> {
    let mut app = App::new(cli.global);
    let broker = app.broker.clone();
    let ends_itself = commands::ends_itself(&cli.command);
    let result = {
        let command = commands::run(cli.command, &mut app);
        tokio::select! {
            result = command => result,
            failure = interrupted(), if !ends_itself => Err(failure),
        }
    };
    let result = result.map_err(|failure| broker.explained(failure));
    broker.close().await;
    result
}

/// Resolves when the program is told to end: by Ctrl-C, or by SIGTERM.
pub(crate) async fn interrupted() -> Failure {
    tokio::select! {
        () = signalled(tokio::signal::ctrl_c()) => Failure::interrupted(),
        () = terminated() => Failure::terminated(),
    }
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};

    match signal(SignalKind::terminate()) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending::<()>().await;
}

/// Waits for a signal. Without a handler for it, the signal ends the program by itself.
async fn signalled(signal: impl Future<Output = std::io::Result<()>>) {
    if signal.await.is_err() {
        std::future::pending::<()>().await;
    }
}
