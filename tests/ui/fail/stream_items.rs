//! Items and errors of streams that cannot be sent, and results around streams that are none.

use futures_util::stream::{self, Stream};
use rpc_core::{Incoming, rpc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

struct Point;

struct Hidden;

struct Lost;

struct Refusal;

struct Part;

#[rpc]
trait Streams {
    async fn points() -> impl Stream<Item = Point>;
    async fn fallible() -> impl Stream<Item = Result<u64, Hidden>>;
    async fn values() -> impl Stream<Item = Result<Lost, String>>;
    async fn refused() -> Result<impl Stream<Item = u64>, Refusal>;
    async fn upload(parts: impl Stream<Item = Part>) -> u64;
}

struct Handler;

impl Streams for Handler {
    async fn points(&self) -> impl Stream<Item = Point> {
        stream::empty()
    }
    async fn fallible(&self) -> impl Stream<Item = Result<u64, Hidden>> {
        stream::empty()
    }
    async fn values(&self) -> impl Stream<Item = Result<Lost, String>> {
        stream::empty()
    }
    async fn refused(&self) -> Result<impl Stream<Item = u64>, Refusal> {
        Ok(stream::empty())
    }
    async fn upload(&self, _: Incoming<Part>) -> u64 {
        0
    }
}

type Fallible<T> = Result<T, String>;

#[derive(Serialize, Deserialize)]
struct SearchResult<T>(T);

#[rpc]
trait Store<T: Serialize + DeserializeOwned + Send + Sync + 'static> {
    async fn all(&self) -> impl Stream<Item = Fallible<T>>;
    async fn search(&self) -> impl Stream<Item = SearchResult<T>>;
}

fn main() {
    let client = StreamsClient::new(StreamsDispatcher::new(Handler));
    let _ = client.points();
    let _ = client.upload(stream::empty::<Part>());
}
