//! A generic trait whose parameter cannot be sent.

use rpc_core::rpc;

#[rpc]
trait Store<T> {
    async fn put(key: String, value: T);
    async fn get(key: String) -> T;
}

fn main() {}
