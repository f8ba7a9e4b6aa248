//! Return types of a generic trait whose names suggest the opposite of their type.

use rpc_core::rpc;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

type Fallible<T> = Result<T, String>;

#[derive(Serialize, Deserialize)]
struct SearchResult<T>(T);

#[rpc]
trait Store<T: Serialize + DeserializeOwned + Send + Sync + 'static> {
    async fn get(&self, key: String) -> Fallible<T>;
    async fn search(&self, text: String) -> SearchResult<T>;
}

fn main() {}
