//! Timeouts that are not durations.

use rpc_core::rpc;

#[rpc(timeout = "30")]
trait Durations {
    #[rpc(timeout = "0s")]
    async fn zero();
    #[rpc(timeout = "-2s")]
    async fn negative();
    #[rpc(timeout = "2 s")]
    async fn space();
    #[rpc(timeout = "1.5s")]
    async fn fraction();
    #[rpc(timeout = "2d")]
    async fn unit();
    #[rpc(timeout = "ms")]
    async fn number();
    #[rpc(timeout = "")]
    async fn empty();
    #[rpc(timeout = "99999999999999999999ms")]
    async fn overflow();
    #[rpc(timeout = 500ms)]
    async fn unquoted();
    #[rpc(timeout)]
    async fn none();
}

fn main() {}
