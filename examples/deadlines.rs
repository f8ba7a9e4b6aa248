//! Deadlines: calls made in a handler inherit the remaining time, without any code.
//!
//! ```text
//! cargo run --example deadlines                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example deadlines       # on RabbitMQ
//! ```
//!
//! Guests order in a restaurant, whose handler calls the kitchen. The first guest waits long enough. The second guest's deadline
//! passes, and the third guest drops the call. The kitchen stops cooking in both cases. For the last guest, the restaurant keeps
//! some of the remaining time for a response of its own. The last line is `served: bread, because the stew takes too long`.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use rpc_core::{CallError, Connection, Context, RpcError, Server, rpc};
use rpc_examples::{exit_code, url};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Takes orders. Calls have five seconds by default.
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

/// Error of an order that the kitchen did not complete.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("the kitchen: {0}")]
pub struct OrderError(String);

struct Waiter {
    kitchen: KitchenClient,
}

impl Restaurant for Waiter {
    async fn order(&self, dish: String) -> Result<String, OrderError> {
        // This call inherits the guest's remaining time, even if the client's default is longer.
        let cooked = self.kitchen.cook(dish).await;
        cooked.map_err(|error: RpcError| OrderError(error.to_string()))
    }

    async fn order_or_bread(&self, dish: String, cx: Context) -> String {
        // A handler that must always respond keeps some of the time for its response.
        let patience = cx.remaining().unwrap_or(Duration::from_secs(5)) / 2;
        match self.kitchen.cook(dish.clone()).timeout(patience).await {
            Ok(cooked) => cooked,
            Err(error) if error.is_timeout() => format!("bread, because the {dish} takes too long"),
            Err(error) => format!("bread, because of the kitchen: {error}"),
        }
    }
}

/// Kitchen that reports when it starts to cook, and when it stops before a dish is done.
struct Cook(mpsc::UnboundedSender<&'static str>);

impl Kitchen for Cook {
    async fn cook(&self, dish: String, cx: Context) -> String {
        let left = cx.remaining().unwrap_or(Duration::MAX);
        println!("  the kitchen has {left:.1?} for the {dish}");
        self.0.send("begun").ok();
        // A handler is stopped by dropping it at an `.await`, so `Drop` does the cleanup.
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

/// Guard that reports an unfinished dish.
struct Unfinished(Option<mpsc::UnboundedSender<&'static str>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(events) = self.0.take() {
            events.send("stopped").ok();
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("deadlines", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let connection = Connection::open(&url()).await?;
    let (events, mut kitchen) = mpsc::unbounded_channel();
    let waiter = Waiter {
        kitchen: KitchenClient::new(connection.client()),
    };
    // Two services of one server. The prefetch is per queue, so handlers that wait for the kitchen do not take its places.
    let server = Server::builder(&connection)
        .service(RestaurantDispatcher::new(waiter))
        .service(KitchenDispatcher::new(Cook(events)))
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
        // The waiter's own call may have ended first.
        Err(CallError::App(error)) => println!("given up: {error}"),
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    next(&mut kitchen, "begun").await?;
    next(&mut kitchen, "stopped").await?;
    println!("the kitchen has stopped");

    println!("a guest who drops the call");
    let call = restaurant.order("stew".to_owned());
    let guest = tokio::spawn(call);
    next(&mut kitchen, "begun").await?;
    guest.abort(); // drops the call, so the client tells the servers, and they drop their handlers
    next(&mut kitchen, "stopped").await?;
    println!("the kitchen has stopped");

    println!("a guest who is always served");
    let served = restaurant
        .order_or_bread("stew".to_owned())
        .timeout(Duration::from_secs(1));
    println!("served: {}", served.await?);

    server.shutdown().await?;
    connection.close().await;
    Ok(())
}

/// Waits for the kitchen's next event.
async fn next(
    kitchen: &mut mpsc::UnboundedReceiver<&'static str>,
    expected: &str,
) -> Result<(), Box<dyn Error>> {
    let event = tokio::time::timeout(Duration::from_secs(5), kitchen.recv()).await?;
    if event == Some(expected) {
        Ok(())
    } else {
        Err(format!("expected the event {expected}, not {event:?}").into())
    }
}
