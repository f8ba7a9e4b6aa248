//! `#[automock]` above `#[rpc]`.

use mockall::automock;
use rpc_core::rpc;

#[automock]
#[rpc]
trait Fib {
    async fn fib(&self, n: u64) -> u64;
}

fn main() {}
