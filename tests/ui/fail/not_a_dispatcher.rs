//! Services that a server cannot serve: a handler without a dispatcher, and a layer that is not `Clone`.

use rpc_core::{Connection, Server, rpc};
use tower::ServiceBuilder;

#[rpc]
trait Fib {
    async fn fib(n: u64) -> u64;
}

struct Calculator;

impl Fib for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
}

fn build(connection: &Connection) {
    let _ = Server::builder(connection).service(Calculator);
    let limited = ServiceBuilder::new()
        .rate_limit(1, std::time::Duration::from_secs(1))
        .service(FibDispatcher::new(Calculator));
    let _ = Server::builder(connection).service(limited);
}

fn main() {
    let _ = build;
}
