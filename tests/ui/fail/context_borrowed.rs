//! Borrowed contexts, with and without `#[ctx]`.

use rpc_core::rpc;

mod mine {
    pub struct Context;
}

#[rpc]
trait Fib {
    async fn fib(cx: &rpc_core::Context, n: u64) -> u64;
    async fn marked(#[ctx] context: &rpc_core::Context, n: u64) -> u64;
    async fn other(cx: &'static mine::Context) -> u64;
}

fn main() {}
