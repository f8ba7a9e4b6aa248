//! A handler in an `Arc`, given to `new` instead of `from`.

use std::sync::Arc;

use rpc_core::{Connection, Server, rpc};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[rpc]
trait Fib {
    async fn fib(n: u64) -> u64;
}

#[rpc]
trait Store<T: Serialize + DeserializeOwned + Send + 'static> {
    async fn get(key: String) -> Option<T>;
}

struct Calculator;

impl Fib for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
}

impl Store<u64> for Calculator {
    async fn get(&self, _: String) -> Option<u64> {
        None
    }
}

async fn used(connection: &Connection) {
    let handler = Arc::new(Calculator);
    let _ = Server::builder(connection)
        .service(FibDispatcher::new(handler.clone()).with_queue("fib"))
        .service(StoreDispatcher::new(handler.clone()));
    let client = FibClient::new(FibDispatcher::new(handler));
    let _ = client.fib(30).await;
}

fn main() {
    let _ = used;
    let handler = Arc::new(Calculator);
    let _ = FibDispatcher::new(handler.clone());
    let _ = StoreDispatcher::<u64, _>::new(handler);
    let _ = FibDispatcher::from(Calculator);
}
