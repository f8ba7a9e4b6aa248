//! Traits with unsupported items and modifiers.

use rpc_core::rpc;

macro_rules! methods {
    () => {};
}

#[rpc]
unsafe trait Fib {
    type Number;
    const LIMIT: u64;
    methods!();
    async fn fib(n: u64) -> u64;
}

#[rpc]
auto trait Marker {}

struct Calculator;

unsafe impl Fib for Calculator {
    type Number = u64;
    const LIMIT: u64 = 93;
    async fn fib(&self, n: u64) -> u64 {
        n.min(Self::LIMIT)
    }
}

fn main() {
    let _ = FibDispatcher::new(Calculator);
}
