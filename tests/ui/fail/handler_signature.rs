//! Handlers whose methods do not match the trait.

use rpc_core::rpc;

#[rpc]
trait Fib {
    async fn fib(n: u64) -> u64;
    async fn sum(a: u64, b: u64) -> u64;
    #[rpc(blocking)]
    fn slow(n: u64) -> u64;
    #[rpc(blocking)]
    async fn slower(n: u64) -> u64;
}

struct ForgotAsync;

impl Fib for ForgotAsync {
    fn fib(&self, n: u64) -> u64 {
        n
    }
    async fn sum(&self, a: u64, b: u64) -> u64 {
        a + b
    }
    async fn slow(&self, n: u64) -> u64 {
        n
    }
    async fn slower(&self, n: u64) -> u64 {
        n
    }
}

struct OtherTypes;

impl Fib for OtherTypes {
    async fn fib(&self, n: u32) -> u64 {
        n.into()
    }
    async fn sum(&self, a: u64, b: u64) -> u32 {
        (a + b) as u32
    }
    fn slow(n: u64) -> u64 {
        n
    }
    fn slower(&self, n: u64) -> u64 {
        n
    }
}

struct Incomplete;

impl Fib for Incomplete {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
}

fn main() {}
