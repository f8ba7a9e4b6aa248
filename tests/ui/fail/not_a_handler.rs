//! A dispatcher and a client of a type that does not implement the trait.

use rpc_core::rpc;

#[rpc]
trait Fib {
    async fn fib(n: u64) -> u64;
}

struct Calculator;

async fn call() {
    let _ = FibDispatcher::new(Calculator);
    let client = FibClient::new(Calculator);
    let _ = client.fib(30).await;
}

fn main() {
    let _ = call;
}
