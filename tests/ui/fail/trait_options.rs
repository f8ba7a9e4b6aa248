//! Options on the trait: unknown, misplaced, repeated, malformed.

use rpc_core::rpc;

#[rpc(nam = "Fib", que = "fib", retries = 5, timeout = "2s", timeout = "3s")]
trait Unknown {
    async fn fib(n: u64) -> u64;
}

#[rpc(oneway, priority = 3)]
trait Misplaced {
    async fn fib(n: u64) -> u64;
}

#[rpc(name = 5, queue, timeout = 2, crate = "not a path", "text", name "x", queue =)]
trait Forms {
    async fn fib(n: u64) -> u64;
}

#[rpc(version = 1.2)]
trait Version {
    async fn fib(n: u64) -> u64;
}

#[rpc(version = "")]
trait EmptyVersion {
    #[rpc(version = "1.2")]
    async fn fib(n: u64) -> u64;
}

#[rpc]
#[rpc(name = "Again")]
trait Twice {
    async fn fib(n: u64) -> u64;
}

// Uses of an invalid trait cause no further errors.
struct Calculator;

impl Unknown for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
}

async fn call(client: &UnknownClient) -> Result<u64, rpc_core::RpcError> {
    client.fib(30).timeout(std::time::Duration::from_secs(1)).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let client = UnknownClient::new(UnknownDispatcher::new(Calculator)).with_queue("other");
    assert_eq!(client.fib(30).await.unwrap(), 832_040);
    let _ = call;
}
