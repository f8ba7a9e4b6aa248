//! `#[ctx]` on an argument that is not a `Context`.

use rpc_core::rpc;

#[rpc]
trait Fib {
    async fn fib(#[ctx] cx: u64, n: u64) -> u64;
}

fn main() {}
