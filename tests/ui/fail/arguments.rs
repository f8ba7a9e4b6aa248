//! Arguments with invalid names, patterns and attributes.

use rpc_core::{Context, rpc};

#[rpc]
trait Arguments {
    async fn underscore(_: u64) -> u64;
    async fn unused(_n: u64, __: u64) -> u64;
    async fn renamed(#[serde(rename = "n")] _n: u64) -> u64;
    async fn tuple((a, b): (u64, u64)) -> u64 {
        a + b
    }
    async fn mutable(mut n: u64) -> u64;
    async fn mutable_with_body(mut n: u64) -> u64 {
        n += 1;
        n
    }
    async fn reference(ref n: u64) -> u64 {
        *n
    }
    async fn conditional(#[cfg(unix)] n: u64, #[cfg_attr(unix, serde(default))] m: u64) -> u64;
    async fn unknown(#[validate] n: u64, #[rpc(name = "m")] m: u64) -> u64;
    async fn contexts(#[ctx] first: Context, #[ctx] second: Context) -> u64;
    async fn context_options(#[ctx(deadline)] cx: Context, #[ctx] #[serde(default)] n: Context) -> u64;
    async fn borrowed_context(#[ctx] cx: &Context) -> u64;
    async fn same(n: u64, n: u64) -> u64;
    async fn with_queue(queue: String) -> u64;
    async fn with_queue_prefix(prefix: String) -> u64;
    async fn into() -> u64;
}

fn main() {}
