//! Contexts without `#[ctx]`, also under another name and inside another type, and other types called `Context`.

use rpc_core::Context as Cx;
use rpc_core::{Context, rpc};

type Ctx = Context;

mod mine {
    pub struct Context;
}

#[rpc]
trait Fib {
    async fn fib(cx: Context, n: u64) -> u64;
    async fn by_path(cx: rpc_core::Context) -> u64;
    async fn other(cx: mine::Context) -> u64;
    async fn renamed(cx: Cx) -> u64;
    async fn alias(cx: Ctx) -> u64;
    async fn inside(cx: Option<Context>) -> u64;
}

struct Calculator;

impl Fib for Calculator {
    async fn fib(&self, _: Context, n: u64) -> u64 {
        n
    }
    async fn by_path(&self, _: Context) -> u64 {
        1
    }
    async fn other(&self, _: mine::Context) -> u64 {
        1
    }
    async fn renamed(&self, _: Cx) -> u64 {
        1
    }
    async fn alias(&self, _: Ctx) -> u64 {
        1
    }
    async fn inside(&self, _: Option<Context>) -> u64 {
        1
    }
}

fn main() {}
