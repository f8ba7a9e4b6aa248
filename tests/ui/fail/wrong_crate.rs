//! The option `crate` with a crate that does not exist.

#[rpc_core::rpc(crate = "nowhere")]
trait Fib {
    async fn fib(n: u64) -> Result<u64, String>;
}

fn main() {}
