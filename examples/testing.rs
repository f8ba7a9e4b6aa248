//! Tests without RabbitMQ: a handler alone, a handler with its contract, and a broker that loses messages and connections.
//!
//! ```text
//! cargo run --example testing
//! ```
//!
//! In a real project, each of the four functions below would be a `#[tokio::test]`. Here `main` runs them and prints a line for each that
//! passes. The example ignores `AMQP_URL`, and needs no broker and no network.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rpc_core::testing::{EmbeddedBroker, Fate};
use rpc_core::{Connection, Context, ErrorKind, Server, rpc};
use rpc_examples::exit_code;
use serde::{Deserialize, Serialize};

/// Sells seats.
#[rpc]
pub trait Seats {
    /// Reserves a seat for the customer that the header `customer` names.
    async fn reserve(row: u32, #[ctx] cx: Context) -> Result<String, SeatError>;

    /// Returns the number of sold seats.
    #[rpc(idempotent)]
    async fn sold() -> u32;
}

/// Reasons for refusing a reservation.
#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum SeatError {
    /// The request does not name a customer.
    #[error("the header 'customer' is missing")]
    Anonymous,
    /// The hall is not that large.
    #[error("there is no row {row}")]
    NoSuchRow {
        /// The requested row.
        row: u32,
    },
}

#[derive(Clone, Default)]
struct Hall(Arc<AtomicU32>);

impl Seats for Hall {
    async fn reserve(&self, row: u32, cx: Context) -> Result<String, SeatError> {
        let customer: &str = cx.header_as("customer").ok_or(SeatError::Anonymous)?;
        if row > 20 {
            return Err(SeatError::NoSuchRow { row });
        }
        self.0.fetch_add(1, Ordering::SeqCst);
        cx.set_reply_header("till", "3");
        Ok(format!("row {row} for {customer}"))
    }

    async fn sold(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("testing", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    the_handler_alone().await?;
    the_contract().await?;
    a_lost_reply().await?;
    a_lost_connection().await
}

/// Calls a handler's methods directly, with a context made for the test.
async fn the_handler_alone() -> Result<(), Box<dyn Error>> {
    let cx = Context::builder()
        .header("customer", "Ada")
        .timeout(Duration::from_secs(1))
        .build();
    let seat = Hall::default().reserve(7, cx.clone()).await?;
    assert_eq!(seat, "row 7 for Ada");
    assert_eq!(cx.reply_headers().get_as("till"), Some("3"));

    let anonymous = Hall::default().reserve(7, Context::default()).await;
    assert_eq!(anonymous, Err(SeatError::Anonymous));
    println!("the handler alone: passed");
    Ok(())
}

/// Calls a dispatcher through a client: everything is encoded and decoded as on the wire, and nothing is sent.
async fn the_contract() -> Result<(), Box<dyn Error>> {
    let seats = SeatsClient::new(SeatsDispatcher::new(Hall::default()));
    let seat = seats.reserve(7).header("customer", "Ada").await?;
    assert_eq!(seat, "row 7 for Ada");
    let refused = seats.reserve(21).header("customer", "Ada").await;
    let refused = refused.expect_err("there are twenty rows");
    assert_eq!(refused.app(), Some(&SeatError::NoSuchRow { row: 21 }));
    println!("the contract: passed");
    Ok(())
}

/// Lets the embedded broker lose a reply, and checks the caller's error.
async fn a_lost_reply() -> Result<(), Box<dyn Error>> {
    let broker = EmbeddedBroker::named("lost-reply");
    let connection = Connection::open(&broker.url()).await?;
    let hall = Hall::default();
    let server = Server::builder(&connection)
        .service(SeatsDispatcher::new(hall.clone()))
        .build()
        .start()
        .await?;
    let seats = SeatsClient::new(connection.client());

    broker.on_publish(|message| match message.kind {
        Some("result") => Fate::Lose,
        _ => Fate::Deliver,
    });
    let call = seats.reserve(7).header("customer", "Ada");
    let outcome = call.timeout(Duration::from_millis(100)).await;
    let error = outcome.expect_err("there was no reply");
    let error = error.rpc().ok_or("the error is the service's own")?;
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    assert_eq!(hall.sold().await, 1);

    broker.on_publish(|_| Fate::Deliver);
    assert_eq!(seats.sold().await?, 1);
    server.shutdown().await?;
    println!("a lost reply: passed");
    Ok(())
}

/// Lets the embedded broker lose a connection, and checks that an idempotent call succeeds.
async fn a_lost_connection() -> Result<(), Box<dyn Error>> {
    let broker = EmbeddedBroker::named("lost-connection");
    let connection = Connection::open(&broker.url()).await?;
    let server = Server::builder(&connection)
        .service(SeatsDispatcher::new(Hall::default()))
        .build()
        .start()
        .await?;
    let seats = SeatsClient::new(connection.client());
    assert_eq!(seats.sold().await?, 0);

    broker.drop_connections();
    // The method is idempotent, so the client retries the call.
    assert_eq!(seats.sold().await?, 0);
    server.shutdown().await?;
    println!("a lost connection: passed");
    Ok(())
}
