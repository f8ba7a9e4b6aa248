//! Types that serde does not support.

use rpc_core::rpc;
use serde::{Deserialize, Serialize};

struct Point {
    x: u64,
}

struct Output;

#[derive(Serialize, Deserialize)]
struct Known;

#[derive(Debug)]
struct Failure;

#[rpc]
trait Points {
    async fn argument(point: Point) -> u64;
    async fn foreign(at: std::time::Instant) -> u64;
    async fn output(n: u64) -> Output;
    async fn failure(n: u64) -> Result<Known, Failure>;
    async fn tuple(n: u64) -> (Known, Output);
}

fn main() {
    let _ = Point { x: 0 }.x;
}
