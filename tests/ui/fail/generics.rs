//! Unsupported generic parameters.

use rpc_core::rpc;

#[rpc]
trait Store<'a, T: PartialEq<Self>>
where
    T: Clone,
    Option<T>: PartialEq<Self>,
    Self: Clone,
{
    async fn get<K: Into<String>>(key: K) -> String;
    async fn size<const N: usize>() -> usize;
    async fn borrow<'b>(&'b self, name: &'b str) -> u64;
    async fn bounded(&self) -> u64
    where
        Self: Sized;
}

#[derive(Clone)]
struct Memory;

#[derive(Clone)]
struct Value;

impl PartialEq<Memory> for Value {
    fn eq(&self, _: &Memory) -> bool {
        false
    }
}

impl PartialEq<Memory> for Option<Value> {
    fn eq(&self, _: &Memory) -> bool {
        false
    }
}

impl<'a> Store<'a, Value> for Memory {
    async fn get<K: Into<String>>(&self, key: K) -> String {
        key.into()
    }
    async fn size<const N: usize>(&self) -> usize {
        N
    }
    async fn borrow<'b>(&'b self, name: &'b str) -> u64 {
        name.len() as u64
    }
    async fn bounded(&self) -> u64 {
        0
    }
}

async fn call(client: StoreClient<'static, Value>) -> u64 {
    client.size::<5>().await.unwrap() + client.get("key").await.unwrap()
}

fn main() {
    let _ = call;
}
