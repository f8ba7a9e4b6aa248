//! Receivers other than `&self`.

use std::sync::Arc;

use rpc_core::rpc;

#[rpc]
trait Counter {
    async fn add(&mut self, n: u64) -> u64;
    async fn take(self) -> u64;
    async fn shared(self: Arc<Self>) -> u64;
    async fn copied(mut self) -> u64;
}

struct Memory(u64);

impl Counter for Memory {
    async fn add(&mut self, n: u64) -> u64 {
        self.0 += n;
        self.0
    }
    async fn take(self) -> u64 {
        self.0
    }
    async fn shared(self: Arc<Self>) -> u64 {
        self.0
    }
    async fn copied(mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

fn main() {
    let _ = CounterDispatcher::new(Memory(0));
}
