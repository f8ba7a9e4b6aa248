//! `rpc_core` through another crate only, without the option `crate`.

use rpc_tests_renamed::bus::Context;
use rpc_tests_renamed::rpc;

#[rpc]
trait Fib {
    async fn fib(#[serde(default)] n: u64) -> u64;
    async fn sum(#[ctx] cx: Context, a: u64, b: u64) -> Result<u64, String>;
}

struct Calculator;

impl Fib for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
    async fn sum(&self, _: Context, a: u64, b: u64) -> Result<u64, String> {
        Ok(a + b)
    }
}

fn main() {
    let _ = FibClient::new(FibDispatcher::new(Calculator));
}
