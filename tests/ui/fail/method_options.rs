//! Options on methods: unknown, misplaced, repeated, malformed, contradictory.

use rpc_core::rpc;

#[rpc]
trait Fib {
    #[rpc(one_way, blokcing, prio = 5, fast)]
    async fn unknown(n: u64) -> u64;

    #[rpc(crate = "rpc_core")]
    async fn misplaced(n: u64) -> u64;

    #[rpc(persistent, timeout = "1s", persistent)]
    #[rpc(timeout = "2s")]
    async fn twice(n: u64) -> u64;

    #[rpc(oneway = true, blocking = "yes", name = fib, priority = "5")]
    async fn forms(n: u64);

    #[rpc(priority = 256)]
    async fn too_high(n: u64) -> u64;

    #[rpc(priority = -1)]
    async fn negative(n: u64) -> u64;

    #[rpc = "fib"]
    async fn assigned(n: u64) -> u64;

    #[cfg_attr(all(), rpc(blocking))]
    async fn conditional(n: u64) -> u64;

    #[rpc(oneway)]
    async fn returns(n: u64) -> u64;

    #[rpc(oneway)]
    async fn fails(n: u64) -> Result<(), String>;

    #[rpc(at_most_once, idempotent)]
    async fn contradictory(n: u64) -> u64;

    #[rpc(idempotent)]
    #[rpc(at_most_once)]
    async fn contradictory_in_two_attributes(n: u64) -> u64;
}

fn main() {}
