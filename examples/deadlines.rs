//! Deadlines: a service that calls another one passes on the time that is left, without a word of code.
//!
//! ```text
//! cargo run --example deadlines                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example deadlines       # on RabbitMQ
//! ```
//!
//! Guests order in a restaurant, whose handler calls the kitchen. One waits long enough, one gives up by its deadline, one walks
//! away: the kitchen stops cooking both times. At last the restaurant keeps some of the guest's time for an answer of its
//! own. The last line is `served: bread, because the stew takes too long`.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use rpc_core::{CallError, Connection, Context, RpcError, Server, rpc};
use rpc_examples::{exit_code, url};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Takes orders. Its calls have five seconds, unless the caller says otherwise.
#[rpc(timeout = "5s")]
pub trait Restaurant {
    /// Serves a dish.
    async fn order(dish: String) -> Result<String, OrderError>;

    /// Serves a dish, or bread if the dish takes too long.
    async fn order_or_bread(dish: String, #[ctx] cx: Context) -> String;
}

/// Cooks.
#[rpc]
pub trait Kitchen {
    /// Cooks a dish.
    async fn cook(dish: String, #[ctx] cx: Context) -> String;
}

/// Why there is no dish.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("the kitchen: {0}")]
pub struct OrderError(String);

struct Waiter {
    kitchen: KitchenClient,
}

impl Restaurant for Waiter {
    async fn order(&self, dish: String) -> Result<String, OrderError> {
        // This call has what is left of the guest's time: no more, whatever the client's default is.
        let cooked = self.kitchen.cook(dish).await;
        cooked.map_err(|error: RpcError| OrderError(error.to_string()))
    }

    async fn order_or_bread(&self, dish: String, cx: Context) -> String {
        // A handler that wants to answer in any case keeps some of the time for that.
        let patience = cx.remaining().unwrap_or(Duration::from_secs(5)) / 2;
        match self.kitchen.cook(dish.clone()).timeout(patience).await {
            Ok(cooked) => cooked,
            Err(error) if error.is_timeout() => format!("bread, because the {dish} takes too long"),
            Err(error) => format!("bread, because of the kitchen: {error}"),
        }
    }
}

/// A kitchen that tells when it begins to cook, and when it stops before a dish is done.
struct Cook(mpsc::UnboundedSender<&'static str>);

impl Kitchen for Cook {
    async fn cook(&self, dish: String, cx: Context) -> String {
        let left = cx.remaining().unwrap_or(Duration::MAX);
        println!("  the kitchen has {left:.1?} for the {dish}");
        self.0.send("begun").ok();
        // A handler is stopped by being dropped, wherever it waits. What it has to put away is put away by `Drop`.
        let mut unfinished = Unfinished(Some(self.0.clone()));
        let time = match dish.as_str() {
            "salad" => Duration::from_millis(10),
            _ => Duration::from_secs(60),
        };
        tokio::time::sleep(time).await;
        unfinished.0 = None;
        dish
    }
}

/// Tells that a dish was not finished.
struct Unfinished(Option<mpsc::UnboundedSender<&'static str>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            told.send("stopped").ok();
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("deadlines", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let connection = Connection::open(&url()).await?;
    let (told, mut kitchen) = mpsc::unbounded_channel();
    let waiter = Waiter {
        kitchen: KitchenClient::new(connection.client()),
    };
    // Two services of one server. The prefetch is for each queue, so waiters that wait do not take the cooks' places.
    let server = Server::builder(&connection)
        .service(RestaurantDispatcher::new(waiter))
        .service(KitchenDispatcher::new(Cook(told)))
        .build()
        .start()
        .await?;
    let restaurant = RestaurantClient::new(connection.client());

    println!("a guest with the trait's five seconds");
    println!("served: {}", restaurant.order("salad".to_owned()).await?);
    next(&mut kitchen, "begun").await?;

    println!("a guest with half a second");
    let stew = restaurant.order("stew".to_owned());
    match stew.timeout(Duration::from_millis(500)).await {
        Err(CallError::Rpc(error)) if error.is_timeout() => println!("given up: {error}"),
        // The waiter may have noticed first.
        Err(CallError::App(error)) => println!("given up: {error}"),
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    next(&mut kitchen, "begun").await?;
    next(&mut kitchen, "stopped").await?;
    println!("the kitchen has stopped");

    println!("a guest who walks away");
    let call = restaurant.order("stew".to_owned());
    let guest = tokio::spawn(call);
    next(&mut kitchen, "begun").await?;
    guest.abort(); // Drops the call: servers are told, and drop their handlers.
    next(&mut kitchen, "stopped").await?;
    println!("the kitchen has stopped");

    println!("a guest who is served in any case");
    let served = restaurant
        .order_or_bread("stew".to_owned())
        .timeout(Duration::from_secs(1));
    println!("served: {}", served.await?);

    server.shutdown().await?;
    connection.close().await;
    Ok(())
}

/// Waits for what the kitchen tells next.
async fn next(
    kitchen: &mut mpsc::UnboundedReceiver<&'static str>,
    expected: &str,
) -> Result<(), Box<dyn Error>> {
    let told = tokio::time::timeout(Duration::from_secs(5), kitchen.recv()).await?;
    if told == Some(expected) {
        Ok(())
    } else {
        Err(format!("the kitchen should have {expected}, not {told:?}").into())
    }
}
