//! Handlers whose streams do not fit the trait.

use std::rc::Rc;

use futures_util::stream;
use rpc_core::{Stream, rpc};

#[rpc]
trait Streams {
    async fn not_send() -> impl Stream<Item = u64>;
    async fn other_item() -> impl Stream<Item = u64>;
    async fn not_incoming(parts: impl Stream<Item = u64>) -> u64;
}

struct Handler;

impl Streams for Handler {
    async fn not_send(&self) -> impl Stream<Item = u64> {
        let one = Rc::new(1);
        stream::repeat_with(move || *one)
    }
    async fn other_item(&self) -> impl Stream<Item = u32> {
        stream::empty()
    }
    async fn not_incoming(&self, _: impl Stream<Item = u64>) -> u64 {
        0
    }
}

fn main() {}
