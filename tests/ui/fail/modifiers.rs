//! Unsupported modifiers of methods.

use rpc_core::rpc;

#[rpc]
trait Fib {
    fn neither(n: u64) -> u64;
    fn future(&self, n: u64) -> impl Future<Output = u64> + Send;
    async unsafe fn dangerous(n: u64) -> u64;
    async extern "C" fn foreign(n: u64) -> u64;
    const fn constant(n: u64) -> u64;
    async fn variadic(first: u64, rest: ...) -> u64;
    #[rpc(blocking)]
    async fn both(n: u64) -> u64 {
        n
    }
}

struct Calculator;

impl Fib for Calculator {
    fn neither(&self, n: u64) -> u64 {
        n
    }
    async fn future(&self, n: u64) -> u64 {
        n
    }
    async unsafe fn dangerous(&self, n: u64) -> u64 {
        n
    }
    async extern "C" fn foreign(&self, n: u64) -> u64 {
        n
    }
    fn constant(&self, n: u64) -> u64 {
        n
    }
    async fn variadic(&self, first: u64) -> u64 {
        first
    }
}

fn main() {}
