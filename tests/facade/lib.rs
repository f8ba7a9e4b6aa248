//! `#[rpc]` in a crate that gets `rpc_core` through another crate.

use rpc_tests_renamed::rpc;

/// A service.
#[rpc(crate = "rpc_tests_renamed::bus")]
pub trait Fib {
    /// The n-th Fibonacci number.
    async fn fib(#[serde(default)] n: u64) -> u64;
}

#[cfg(test)]
#[tokio::test]
async fn the_option_crate_says_where_it_is() {
    struct Handler;

    impl Fib for Handler {
        async fn fib(&self, n: u64) -> u64 {
            n
        }
    }

    let fib = FibClient::new(FibDispatcher::new(Handler));
    assert_eq!(fib.fib(5).await.ok(), Some(5));
}
