//! Several errors in one trait. They are reported together, and uses of the trait cause no further errors.

use std::time::Duration;

use rpc_core::{Context, RpcError, rpc};

#[rpc(timeout = "soon", queu = "fib")]
trait Fib {
    type Number;

    #[rpc(onewya)]
    async fn fib(n: &u64) -> u64;

    fn sum(&mut self, numbers: &[u64]) -> u64;

    /// A valid method.
    async fn valid(&self, #[ctx] cx: Context, n: u64) -> Result<u64, String>;
}

struct Calculator;

impl Fib for Calculator {
    type Number = u64;

    async fn fib(&self, n: &u64) -> u64 {
        *n
    }

    fn sum(&mut self, numbers: &[u64]) -> u64 {
        numbers.iter().sum()
    }

    async fn valid(&self, cx: Context, n: u64) -> Result<u64, String> {
        cx.header("tenant").map(|_| n).ok_or_else(String::new)
    }
}

#[derive(Clone, Debug)]
struct Application {
    fib: FibClient,
}

impl Application {
    async fn run(&self) -> Result<u64, RpcError> {
        let first = self.fib.fib(30).timeout(Duration::from_secs(1)).await?;
        let (second, third) = tokio::join!(self.fib.sum(vec![1, 2]), self.fib.valid(5));
        match third {
            Ok(third) => Ok(first + second? + third),
            Err(_) => Ok(0),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), RpcError> {
    let fib = FibClient::new(FibDispatcher::new(Calculator).with_queue("fib"));
    let application = Application { fib: fib.clone() };
    println!("{}", application.run().await?);
    tokio::spawn(async move { fib.valid(5).await.unwrap() });
    Ok(())
}
