//! Streams in places where they cannot be, and with options that they cannot have.

use futures_util::{TryStream, stream};
use rpc_core::{Incoming, RpcError, Stream, Streaming, rpc};

type Fallible<T> = Result<T, String>;

#[rpc]
trait Streams {
    async fn two(a: impl Stream<Item = u64>, b: impl Stream<Item = u8>) -> u64;
    async fn optional(&self) -> Option<impl Stream<Item = u64>>;
    async fn listed(n: Vec<impl Stream<Item = u64>>) -> u64;
    async fn nested(&self) -> Result<Vec<impl Stream<Item = u64>>, String>;
    async fn in_error(&self) -> Result<u64, impl Stream<Item = u64>>;
    async fn of_streams(&self) -> impl Stream<Item = impl Stream<Item = u64>>;
    async fn borrowed(&self) -> impl Stream<Item = &'static str>;
    async fn without_item(&self) -> impl Stream;
    async fn argument_without_item(n: impl Stream + Send) -> u64;
    async fn attribute(#[serde(default)] n: impl Stream<Item = u64>) -> u64;
    async fn context(#[ctx] n: impl Stream<Item = u64>) -> u64;
    #[rpc(oneway)]
    async fn oneway(&self) -> impl Stream<Item = u64>;
    #[rpc(oneway)]
    async fn oneway_items(n: impl Stream<Item = u64>);
    #[rpc(blocking)]
    fn blocks(&self) -> impl Stream<Item = u64>;
    #[rpc(blocking)]
    fn blocking_items(n: impl Stream<Item = u64>) -> u64;
    fn not_async(&self) -> impl Stream<Item = u64>;
    #[rpc(default)]
    async fn plain(&self) -> impl Stream<Item = u64>;
    async fn underscore(_numbers: impl Stream<Item = u64>) -> u64;
    async fn boxed(&self) -> Box<dyn Stream<Item = u64> + Send>;
    async fn pinned(n: std::pin::Pin<Box<dyn Stream<Item = u64> + Send>>) -> u64;
    async fn iterator(&self) -> impl Iterator<Item = u64>;
    async fn try_stream(&self) -> impl TryStream<Ok = u64, Error = String>;
    async fn try_items(&self) -> Result<impl TryStream, String>;
    async fn incoming(n: Incoming<u64>) -> u64;
    async fn streaming(&self) -> Streaming<u64, RpcError>;
    async fn aliased(&self) -> Fallible<impl Stream<Item = u64>>;
    async fn paired(&self) -> (u64, impl Stream<Item = u64>);
    async fn right(&self, n: impl Stream<Item = u64>) -> impl Stream<Item = u64>;
}

struct Handler;

impl Streams for Handler {
    async fn two(&self, _: Incoming<u64>, _: Incoming<u8>) -> u64 {
        0
    }
    async fn optional(&self) -> Option<impl Stream<Item = u64>> {
        Some(stream::empty())
    }
    async fn listed(&self, _: Vec<impl Stream<Item = u64>>) -> u64 {
        0
    }
    async fn nested(&self) -> Result<Vec<impl Stream<Item = u64>>, String> {
        Ok(vec![stream::empty()])
    }
    async fn in_error(&self) -> Result<u64, impl Stream<Item = u64>> {
        Err(stream::empty())
    }
    async fn of_streams(&self) -> impl Stream<Item = impl Stream<Item = u64>> {
        stream::iter([stream::empty()])
    }
    async fn borrowed(&self) -> impl Stream<Item = &'static str> {
        stream::empty()
    }
    async fn without_item(&self) -> impl Stream {
        stream::empty::<u64>()
    }
    async fn argument_without_item(&self, _: Incoming<u64>) -> u64 {
        0
    }
    async fn attribute(&self, _: Incoming<u64>) -> u64 {
        0
    }
    async fn context(&self, _: Incoming<u64>) -> u64 {
        0
    }
    async fn oneway(&self) -> impl Stream<Item = u64> {
        stream::empty()
    }
    async fn oneway_items(&self, _: Incoming<u64>) {}
    fn blocks(&self) -> impl Stream<Item = u64> {
        stream::empty()
    }
    fn blocking_items(&self, _: Incoming<u64>) -> u64 {
        0
    }
    fn not_async(&self) -> impl Stream<Item = u64> {
        stream::empty()
    }
    async fn plain(&self) -> impl Stream<Item = u64> {
        stream::empty()
    }
    async fn underscore(&self, _: Incoming<u64>) -> u64 {
        0
    }
    async fn boxed(&self) -> Box<dyn Stream<Item = u64> + Send> {
        Box::new(stream::empty())
    }
    async fn pinned(&self, _: Incoming<u64>) -> u64 {
        0
    }
    async fn iterator(&self) -> impl Iterator<Item = u64> {
        std::iter::empty()
    }
    async fn try_stream(&self) -> impl TryStream<Ok = u64, Error = String> {
        stream::empty::<Result<u64, String>>()
    }
    async fn try_items(&self) -> Result<impl TryStream, String> {
        Ok(stream::empty::<Result<u64, String>>())
    }
    async fn incoming(&self, _: Incoming<u64>) -> u64 {
        0
    }
    async fn streaming(&self) -> Streaming<u64, RpcError> {
        unimplemented!()
    }
    async fn aliased(&self) -> Fallible<impl Stream<Item = u64>> {
        Ok(stream::empty())
    }
    async fn paired(&self) -> (u64, impl Stream<Item = u64>) {
        (0, stream::empty())
    }
    async fn right(&self, n: Incoming<u64>) -> impl Stream<Item = u64> {
        drop(n);
        stream::empty()
    }
}

fn main() {
    let client = StreamsClient::new(StreamsDispatcher::new(Handler));
    let _ = client.right(stream::empty());
}
