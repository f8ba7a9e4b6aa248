//! `#[automock]` below `#[rpc]` mocks the handler.
#![deny(warnings)]

use mockall::automock;
use rpc_core::{RpcError, rpc};

#[rpc]
#[automock]
pub trait Fib {
    async fn fib(n: u64) -> u64;
    async fn text(&self, n: u64) -> Result<String, String>;
    #[rpc(blocking)]
    async fn slow(n: u64) -> u64;
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), RpcError> {
    let mut mock = MockFib::new();
    mock.expect_fib()
        .returning(|n| Box::pin(async move { n + 1 }));
    mock.expect_slow().returning(|n| n + 2);
    let fib = FibClient::new(FibDispatcher::new(mock));
    assert_eq!(fib.fib(1).await?, 2);
    assert_eq!(fib.slow(1).await?, 3);
    Ok(())
}
