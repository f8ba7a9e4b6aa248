//! A handler whose future is not `Send`.

use std::rc::Rc;

use rpc_core::rpc;

#[rpc]
trait Fib {
    async fn fib(n: u64) -> u64;
}

struct Calculator;

impl Fib for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        let shared = Rc::new(n);
        tokio::task::yield_now().await;
        *shared
    }
}

fn main() {}
