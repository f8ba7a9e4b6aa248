//! `#[async_trait]` above and below `#[rpc]`, and on an `impl`.

use async_trait::async_trait;
use rpc_core::rpc;

#[async_trait]
#[rpc]
trait Above {
    async fn fib(&self, n: u64) -> u64;
    async fn sum(&self, a: u64, b: u64) -> u64;
}

#[rpc]
#[async_trait::async_trait]
trait Below {
    async fn fib(n: u64) -> u64;
}

#[async_trait]
#[rpc]
trait WithoutSelf {
    async fn fib(n: u64) -> u64;
    async fn name(text: String) -> Result<String, String>;
}

#[rpc]
trait OnTheImpl {
    async fn fib(n: u64) -> u64;
}

struct Calculator;

#[async_trait]
impl Above for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
    async fn sum(&self, a: u64, b: u64) -> u64 {
        a + b
    }
}

#[async_trait]
impl Below for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
}

#[async_trait]
impl WithoutSelf for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
    async fn name(&self, text: String) -> Result<String, String> {
        Ok(text)
    }
}

#[async_trait]
impl OnTheImpl for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        n
    }
}

fn main() {
    let _ = AboveClient::new(AboveDispatcher::new(Calculator));
    let _ = WithoutSelfClient::new(WithoutSelfDispatcher::new(Calculator));
    let _ = BelowClient::new(BelowDispatcher::new(Calculator));
}
