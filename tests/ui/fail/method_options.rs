//! Options on methods: unknown, misplaced, repeated, of the wrong form, in contradiction.

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
    async fn answers(n: u64) -> u64;

    #[rpc(oneway)]
    async fn fails(n: u64) -> Result<(), String>;

    #[rpc(at_most_once, idempotent)]
    async fn contradicts(n: u64) -> u64;

    #[rpc(idempotent)]
    #[rpc(at_most_once)]
    async fn contradicts_too(n: u64) -> u64;
}

fn main() {}
