//! Methods with `cfg`s that do not exclude each other.

use rpc_core::rpc;

#[rpc]
trait Fib {
    #[cfg(all())]
    #[rpc(default)]
    async fn fib(n: u64) -> u64;

    #[cfg(not(any()))]
    #[rpc(name = "fib", default)]
    async fn fibonacci(n: u64) -> u64;

    #[cfg(any())]
    #[rpc(name = "fib", default)]
    async fn neither(n: u64) -> u64;
}

fn main() {}
