//! Errors: the service's own, which arrive as they are, and all others, which say what became of the call.
//!
//! ```text
//! cargo run --example errors                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example errors       # on RabbitMQ
//! ```
//!
//! It withdraws money six times. Each line says what the program does about the outcome: it tells its user, tries again later,
//! or asks the bank what has happened. (One withdrawal panics; Rust reports that on stderr.) The last line is `there are 50 left`.

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rpc_core::{CallError, Connection, ErrorKind, Server, rpc};
use rpc_examples::{exit_code, url};
use serde::{Deserialize, Serialize};

/// Keeps one account.
#[rpc]
pub trait Bank {
    /// Takes money out; returns what is left.
    async fn withdraw(amount: u64) -> Result<u64, WithdrawError>;

    /// What is left. A method whose only errors are those of any call.
    async fn balance() -> u64;
}

/// Why no money was given: the bank's own error, part of the contract as the results are.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum WithdrawError {
    /// There is less in the account.
    #[error("{missing} too much")]
    Insufficient {
        /// By how much.
        missing: u64,
    },
    /// Nobody withdraws nothing.
    #[error("nothing to withdraw")]
    Nothing,
}

struct Account(AtomicU64);

impl Bank for Account {
    async fn withdraw(&self, amount: u64) -> Result<u64, WithdrawError> {
        // A bug, and a slow machine, to show what becomes of them.
        assert!(amount != 13, "the bank is superstitious");
        if amount == 1 {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        if amount == 0 {
            return Err(WithdrawError::Nothing);
        }
        let withdrawn = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |balance| {
                balance.checked_sub(amount)
            });
        match withdrawn {
            Ok(balance) => Ok(balance - amount),
            Err(balance) => Err(WithdrawError::Insufficient {
                missing: amount - balance,
            }),
        }
    }

    async fn balance(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a program can do about an outcome. Most need no more cases than these.
fn reaction(outcome: &Result<u64, CallError<WithdrawError>>) -> String {
    match outcome {
        Ok(left) => format!("tell the user: {left} left"),
        // The handler has run, and said no.
        Err(CallError::App(WithdrawError::Insufficient { missing })) => {
            format!("tell the user: it is {missing} too much")
        }
        Err(CallError::App(error)) => format!("tell the user: {error}"),
        // It may have run, so doing it again could withdraw twice.
        Err(CallError::Rpc(error)) if error.may_have_executed() => {
            format!("ask the bank, {:?}: {error}", error.kind())
        }
        // It certainly has not run: another time, or another server.
        Err(CallError::Rpc(error)) => {
            format!("nothing has happened, {:?}: {error}", error.kind())
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("errors", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let connection = Connection::open(&url()).await?;
    let server = Server::builder(&connection)
        .service(BankDispatcher::new(Account(AtomicU64::new(100))))
        .build()
        .start()
        .await?;
    let bank = BankClient::new(connection.client());
    let elsewhere = bank.clone().with_queue("rpc.NoSuchBank");

    println!("50: {}", reaction(&bank.withdraw(50).await));
    println!("70: {}", reaction(&bank.withdraw(70).await));
    println!("0: {}", reaction(&bank.withdraw(0).await));

    // A panic is an answer too, and the server goes on.
    let panicked = bank.withdraw(13).await;
    println!("13: {}", reaction(&panicked));
    expect(panicked, ErrorKind::Panicked)?;

    // A call ends by its deadline, and the handler with it.
    let late = bank.withdraw(1).timeout(Duration::from_millis(100)).await;
    println!("1: {}", reaction(&late));
    expect(late, ErrorKind::Timeout)?;

    // Known at once: no deadline has to pass.
    let unroutable = elsewhere.withdraw(5).await;
    println!("5: {}", reaction(&unroutable));
    expect(unroutable, ErrorKind::Unroutable)?;

    println!("there are {} left", bank.balance().await?);
    server.shutdown().await?;
    connection.close().await;
    Ok(())
}

/// Fails unless the call failed in this way.
fn expect(
    outcome: Result<u64, CallError<WithdrawError>>,
    kind: ErrorKind,
) -> Result<(), Box<dyn Error>> {
    match outcome {
        Err(CallError::Rpc(error)) if error.kind() == kind => Ok(()),
        other => Err(format!("expected {kind:?}, not {other:?}").into()),
    }
}
