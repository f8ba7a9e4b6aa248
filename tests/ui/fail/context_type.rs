//! `#[ctx]` on an argument that is not a `Context`.

use rpc_core::rpc;

#[rpc]
trait Fib {
    async fn fib(#[ctx] cx: u64, n: u64) -> u64;
    async fn texts(#[ctx] cx: Vec<String>) -> u64;
    #[rpc(blocking)]
    fn slow(n: u64, #[ctx] cx: std::task::Context<'static>) -> u64;
}

fn main() {}
