//! Errors: the service's own errors arrive as typed values, and all other errors tell the outcome of the call.
//!
//! ```text
//! cargo run --example errors                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example errors       # on RabbitMQ
//! ```
//!
//! The example withdraws money six times. Each line shows the program's reaction to the outcome: tell the user, try again later, or ask
//! the bank. (One withdrawal panics, which Rust reports on stderr.) The last line is `50 left in the account`.

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
    /// Withdraws money and returns the new balance.
    async fn withdraw(amount: u64) -> Result<u64, WithdrawError>;

    /// Returns the balance. The method has no errors of its own.
    async fn balance() -> u64;
}

/// The bank's own error. Like the results, it is part of the contract.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum WithdrawError {
    /// The balance is too low.
    #[error("{missing} too much")]
    Insufficient {
        /// The missing amount.
        missing: u64,
    },
    /// The amount is zero.
    #[error("nothing to withdraw")]
    Nothing,
}

struct Account(AtomicU64);

impl Bank for Account {
    async fn withdraw(&self, amount: u64) -> Result<u64, WithdrawError> {
        // A bug and a slow machine, to show the resulting errors.
        assert!(amount != 13, "a bug");
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

/// Returns a program's reaction to an outcome. Most programs need only these cases.
fn reaction(outcome: &Result<u64, CallError<WithdrawError>>) -> String {
    match outcome {
        Ok(left) => format!("tell the user: {left} left"),
        // The handler has run and refused.
        Err(CallError::App(WithdrawError::Insufficient { missing })) => {
            format!("tell the user: {missing} too much")
        }
        Err(CallError::App(error)) => format!("tell the user: {error}"),
        // The request may have run, so another call could withdraw twice.
        Err(CallError::Rpc(error)) if error.may_have_executed() => {
            format!("ask the bank, {:?}: {error}", error.kind())
        }
        // The request certainly has not run, so another call is safe.
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

    // A panic of the handler is reported to its caller, and the server continues.
    let panicked = bank.withdraw(13).await;
    println!("13: {}", reaction(&panicked));
    expect(panicked, ErrorKind::Panicked)?;

    // A call ends by its deadline, and so does the handler.
    let late = bank.withdraw(1).timeout(Duration::from_millis(100)).await;
    println!("1: {}", reaction(&late));
    expect(late, ErrorKind::Timeout)?;

    // A missing queue is reported at once, before the deadline.
    let unroutable = elsewhere.withdraw(5).await;
    println!("5: {}", reaction(&unroutable));
    expect(unroutable, ErrorKind::Unroutable)?;

    println!("{} left in the account", bank.balance().await?);
    server.shutdown().await?;
    connection.close().await;
    Ok(())
}

/// Returns an error unless the call failed with this kind.
fn expect(
    outcome: Result<u64, CallError<WithdrawError>>,
    kind: ErrorKind,
) -> Result<(), Box<dyn Error>> {
    match outcome {
        Err(CallError::Rpc(error)) if error.kind() == kind => Ok(()),
        other => Err(format!("expected {kind:?}, not {other:?}").into()),
    }
}
