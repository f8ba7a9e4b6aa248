//! Generic traits whose parameters lack some or all bounds.

use rpc_core::rpc;
use serde::Serialize;

#[rpc]
trait Store<T> {
    async fn put(key: String, value: T);
    async fn get(key: String) -> T;
}

#[rpc]
trait Cache<T: Serialize + Send> {
    async fn put(key: String, value: T);
    async fn all() -> Vec<T>;
}

#[rpc]
trait Log<T>
where
    T: Serialize + Send,
{
    async fn last() -> Option<T>;
}

fn main() {}
