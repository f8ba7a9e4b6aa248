//! The `Fib` service and helper functions, shared by the examples.

use std::error::Error;
use std::process::ExitCode;

use rpc_core::rpc;
use serde::{Deserialize, Serialize};

/// Computes Fibonacci numbers.
#[rpc]
pub trait Fib {
    /// Returns the n-th Fibonacci number: 0, 1, 1, 2, 3, 5, 8, …
    ///
    /// `blocking`: the handler computes for a while, so it runs on a thread of its own instead of the async runtime.
    #[rpc(blocking)]
    fn fib(n: u64) -> Result<u64, FibError>;
}

/// Reasons for refusing to compute a Fibonacci number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FibError {
    /// The number has more than 64 bits.
    #[error("fib({n}) does not fit into 64 bits; the largest that does is fib(93)")]
    Overflow {
        /// The requested index.
        n: u64,
    },
    /// The doubly recursive function would take too long.
    #[error("fib({n}) would take too long; the largest computed here is fib(50)")]
    TooSlow {
        /// The requested index.
        n: u64,
    },
}

/// Computes Fibonacci numbers the slow way, like the server of RabbitMQ's tutorial.
#[derive(Clone, Debug)]
pub struct Calculator;

impl Fib for Calculator {
    fn fib(&self, n: u64) -> Result<u64, FibError> {
        match n {
            0..=50 => Ok(fib(n)),
            51..=93 => Err(FibError::TooSlow { n }),
            _ => Err(FibError::Overflow { n }),
        }
    }
}

/// The naive doubly recursive function: its cost grows as fast as its value.
#[must_use]
pub fn fib(n: u64) -> u64 {
    match n {
        0 | 1 => n,
        _ => fib(n - 1) + fib(n - 2),
    }
}

/// Makes a program's exit code. Reports an error and its causes in one line on stderr.
pub fn exit_code(program: &str, outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = format!("{program}: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                line += &format!(": {error}");
                cause = error.source();
            }
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

/// URL in `AMQP_URL`, else the embedded broker's.
#[must_use]
pub fn url() -> String {
    std::env::var("AMQP_URL").unwrap_or_else(|_| "memory:".to_owned())
}

/// Like [`url`], for several connections. Each `memory:` is a separate broker, so the embedded broker gets a name.
#[must_use]
pub fn shared_url(name: &str) -> String {
    std::env::var("AMQP_URL").unwrap_or_else(|_| format!("memory:{name}"))
}

/// URL in `AMQP_URL`, else RabbitMQ's default address.
#[must_use]
pub fn default_url() -> String {
    std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// Resolves on Ctrl-C, and on Unix also on SIGTERM, which Kubernetes sends.
pub async fn told_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    tokio::signal::ctrl_c().await.ok();
}
