//! Errors that serde does not support.

use rpc_core::rpc;

#[derive(Debug)]
struct Own;

#[rpc]
trait Files {
    async fn read(name: String) -> Result<String, anyhow::Error>;
    async fn size(name: String) -> anyhow::Result<u64>;
    async fn remove(name: String) -> std::io::Result<()>;
    async fn list() -> Result<Vec<String>, Own>;
    async fn exists(name: String) -> Result<bool, rpc_core::RpcError>;
}

#[rpc]
trait Boxed {
    async fn count() -> Result<u64, Box<dyn std::error::Error + Send + Sync>>;
}

#[rpc]
trait Store<E: std::error::Error + Send + 'static> {
    async fn get(key: String) -> Result<String, E>;
}

fn main() {}
