//! rpc-core, used as its documentation recommends.

use bytes::Bytes;
use futures_util::stream;
use rpc_core::{Connection, Server, ServerHandle, Stream, rpc};

use crate::contender::Outcome;

/// Items of a wanted number and length.
#[rpc]
pub trait Items {
    /// Returns `count` items of `len` bytes.
    async fn items(count: u64, len: u64) -> impl Stream<Item = Bytes>;
    /// Returns a stream that has one item, and then stays open.
    async fn idle() -> impl Stream<Item = Bytes>;
    /// Returns an item of `len` bytes.
    async fn item(len: u64) -> Bytes;
}

/// Handler that does nothing: only the work around it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Ready;

fn body(len: u64) -> Bytes {
    vec![b'x'; len as usize].into()
}

impl Items for Ready {
    async fn items(&self, count: u64, len: u64) -> impl Stream<Item = Bytes> {
        let body = body(len);
        stream::iter((0..count).map(move |_| body.clone()))
    }

    async fn idle(&self) -> impl Stream<Item = Bytes> {
        use futures_util::StreamExt as _;
        stream::iter([body(10)]).chain(stream::pending())
    }

    async fn item(&self, len: u64) -> Bytes {
        body(len)
    }
}

/// Serves a queue.
pub async fn serve(connection: &Connection, queue: &str) -> Outcome<ServerHandle> {
    let items = ItemsDispatcher::new(Ready).with_queue(queue);
    let server = Server::builder(connection).service(items).build();
    Ok(server.start().await?)
}

/// Reads a stream. Returns the number of its items.
pub async fn read(client: &ItemsClient, count: u64, len: u64) -> Outcome<u64> {
    let mut items = client.items(count, len).await?;
    let mut received = 0;
    while let Some(item) = items.next().await {
        received += u64::from(item?.len() as u64 == len);
    }
    Ok(received)
}
