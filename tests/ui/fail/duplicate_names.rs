//! Methods and arguments with the same name.

use rpc_core::rpc;

#[rpc]
trait Fib {
    #[rpc(default)]
    async fn fib(n: u64) -> u64;

    #[rpc(name = "fib", default)]
    async fn fibonacci(n: u64) -> u64;

    async fn fib(n: u64, n: u64) -> u64;

    async fn sum(a: u64, #[serde(rename = "a")] b: u64) -> u64;

    // These two are alternatives.
    #[cfg(all())]
    async fn either(n: u64) -> u64;
    #[cfg(any())]
    async fn either(n: u32) -> u32;
}

struct Calculator;

impl Fib for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
    async fn fibonacci(&self, n: u64) -> u64 {
        n
    }
    async fn sum(&self, a: u64, b: u64) -> u64 {
        a + b
    }
    async fn either(&self, n: u64) -> u64 {
        n
    }
}

fn main() {}
