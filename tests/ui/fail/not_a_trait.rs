//! `#[rpc]` on items other than traits.

use rpc_core::rpc;

trait Fib {
    fn fib(&self);
}

#[rpc]
struct Calculator;

#[rpc]
impl Fib for Calculator {
    fn fib(&self) {}
}

#[rpc]
impl Calculator {
    fn new() -> Self {
        Self
    }
}

#[rpc]
async fn fib(n: u64) -> u64 {
    n
}

#[rpc]
mod service {}

#[rpc]
enum Choice {}

fn main() {
    let _ = Calculator::new();
}
