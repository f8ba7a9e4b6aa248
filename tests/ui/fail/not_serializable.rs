//! Types that serde knows nothing of.

use rpc_core::rpc;
use serde::{Deserialize, Serialize};

struct Point {
    x: u64,
}

struct Answer;

#[derive(Serialize, Deserialize)]
struct Known;

#[derive(Debug)]
struct Failure;

#[rpc]
trait Points {
    async fn argument(point: Point) -> u64;
    async fn foreign(at: std::time::Instant) -> u64;
    async fn answer(n: u64) -> Answer;
    async fn failure(n: u64) -> Result<Known, Failure>;
    async fn tuple(n: u64) -> (Known, Answer);
}

fn main() {
    let _ = Point { x: 0 }.x;
}
