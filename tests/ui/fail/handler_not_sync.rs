//! A handler that is not `Sync`.

use std::cell::Cell;

use rpc_core::rpc;

#[rpc]
trait Fib {
    async fn fib(n: u64) -> u64;
}

struct Calculator(Cell<u64>);

impl Fib for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
}

fn main() {
    let _ = Calculator(Cell::new(0)).0;
}
