//! The services that the tests look at and call.

use futures_util::{StreamExt, stream};
use rpc_core::{Incoming, Stream, rpc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Order of a customer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Order {
    /// Number of the article.
    pub(crate) article: u64,
    /// Number of pieces.
    pub(crate) count: u32,
    #[serde(default)]
    pub(crate) remark: Option<String>,
}

/// Confirmation of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Receipt {
    /// Cents.
    pub(crate) price: u64,
    pub(crate) order: Order,
}

/// Refusal of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Refusal {
    SoldOut { article: u64 },
    Closed,
}

/// Sells clocks.
///
/// Prices are in cents.
#[rpc(version = "1.4.0", timeout = "20s")]
pub(crate) trait Shop {
    /// Price of some pieces of an article.
    #[rpc(idempotent)]
    async fn price(article: u64, #[serde(default)] count: Option<u32>) -> u64;
    /// Orders an article.
    ///
    /// The article 13 is sold out.
    #[rpc(persistent, priority = 5)]
    async fn order(order: Order) -> Result<Receipt, Refusal>;
    /// Never fails.
    #[rpc(oneway)]
    async fn note(text: String);
    /// Panics.
    #[rpc(at_most_once)]
    async fn burn();
    /// Runs until its caller gives up.
    #[rpc(timeout = "1m")]
    async fn wait() -> u64;
    /// Numbers from 1.
    async fn count(to: u64) -> impl Stream<Item = u64>;
    /// Numbers from 1, without end.
    async fn endless() -> impl Stream<Item = u64>;
    /// Opens unless the article is 13, and fails at the article 14.
    async fn follow(article: u64) -> Result<impl Stream<Item = Result<Receipt, Refusal>>, Refusal>;
    async fn sum(numbers: impl Stream<Item = u64>) -> u64;
    async fn double(numbers: impl Stream<Item = i64>) -> impl Stream<Item = i64>;
}

/// The handler of the sample service.
#[derive(Debug)]
pub(crate) struct Clocks;

impl Clocks {
    fn receipt(order: Order) -> Result<Receipt, Refusal> {
        match order.article {
            article @ 13 => Err(Refusal::SoldOut { article }),
            article => Ok(Receipt {
                price: article * u64::from(order.count),
                order,
            }),
        }
    }
}

impl Shop for Clocks {
    async fn price(&self, article: u64, count: Option<u32>) -> u64 {
        article * u64::from(count.unwrap_or(1))
    }

    async fn order(&self, order: Order) -> Result<Receipt, Refusal> {
        Self::receipt(order)
    }

    async fn note(&self, _: String) {}

    async fn burn(&self) {
        panic!("the shop burns");
    }

    async fn wait(&self) -> u64 {
        std::future::pending().await
    }

    async fn count(&self, to: u64) -> impl Stream<Item = u64> {
        stream::iter(1..=to)
    }

    async fn endless(&self) -> impl Stream<Item = u64> {
        stream::iter(1..)
    }

    async fn follow(
        &self,
        article: u64,
    ) -> Result<impl Stream<Item = Result<Receipt, Refusal>>, Refusal> {
        let order = move |count| Order {
            article,
            count,
            remark: None,
        };
        Self::receipt(order(1))?;
        let receipts = stream::iter(1..=2).map(move |count| Self::receipt(order(count)));
        let end = (article == 14).then_some(Err(Refusal::Closed));
        Ok(receipts.chain(stream::iter(end)))
    }

    async fn sum(&self, mut numbers: Incoming<u64>) -> u64 {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number.unwrap_or_default();
        }
        sum
    }

    async fn double(&self, numbers: Incoming<i64>) -> impl Stream<Item = i64> {
        numbers.filter_map(async |number| Some(number.ok()? * 2))
    }
}

/// Computes Fibonacci numbers.
#[rpc(version = "0.9")]
pub(crate) trait Fib {
    /// The n-th Fibonacci number.
    async fn fib(n: u64) -> u64;
}

#[derive(Debug)]
pub(crate) struct Calculator;

impl Fib for Calculator {
    async fn fib(&self, n: u64) -> u64 {
        (0..n)
            .fold((0, 1), |(a, b): (u64, u64), _| (b, a.wrapping_add(b)))
            .0
    }
}

/// A later contract of the same service.
pub(crate) mod later {
    use rpc_core::rpc;

    /// Computes Fibonacci numbers, and their sums.
    #[rpc(name = "Fib", version = "1.0")]
    pub(crate) trait Fib {
        /// The n-th Fibonacci number.
        async fn fib(n: u64) -> u64;
        /// Sum of the first n numbers.
        async fn sum(n: u64) -> u64;
    }

    impl Fib for super::Calculator {
        async fn fib(&self, n: u64) -> u64 {
            super::Fib::fib(self, n).await
        }

        async fn sum(&self, n: u64) -> u64 {
            super::Fib::fib(self, n + 2).await - 1
        }
    }
}
