//! Retries after a failure: `idempotent`, ordinary and `at_most_once` methods.
//!
//! ```text
//! cargo run --example retries                                 # on the embedded broker
//! AMQP_URL=amqp://localhost cargo run --example retries       # on RabbitMQ
//! ```
//!
//! One server refuses some requests because it is not ready. Two other servers die while they run a request. The client retries an
//! idempotent method, the broker delivers the request of an ordinary method again, and the request of an `at_most_once` method is lost.
//! The last line is `100 deposited, 1 letter started`.

use std::collections::HashSet;
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rpc_core::{
    Connection, Context, ErrorKind, Request, Response, RpcError, Server, ServerHandle, Service, rpc,
};
use rpc_examples::{exit_code, url};
use tokio::sync::Notify;
use tower::ServiceExt;
use tower::layer::{Layer, layer_fn};

/// Keeps an account and sends letters about it.
#[rpc]
pub trait Ledger {
    /// Returns the balance. Asking twice does no harm, so the client retries the call within its deadline.
    #[rpc(idempotent)]
    async fn total() -> u64;

    /// Adds money. If a server dies, the broker delivers the request to another one, so it may run twice. The id identifies a deposit.
    async fn deposit(id: u64, amount: u64, #[ctx] cx: Context) -> u64;

    /// Sends a letter. A lost letter is better than two letters.
    #[rpc(at_most_once)]
    async fn send_letter();
}

/// State shared by the servers: in production a database, here the process's memory.
#[derive(Clone, Default)]
struct Books(Arc<State>);

#[derive(Default)]
struct State {
    /// Balance and ids of the deposits in it, which change together.
    deposits: Mutex<(u64, HashSet<u64>)>,
    letters: AtomicU32,
    begun: Notify,
}

impl Ledger for Books {
    async fn total(&self) -> u64 {
        let deposits = self.0.deposits.lock();
        deposits.unwrap_or_else(PoisonError::into_inner).0
    }

    async fn deposit(&self, id: u64, amount: u64, cx: Context) -> u64 {
        let total = {
            let deposits = self.0.deposits.lock();
            let (total, ids) = &mut *deposits.unwrap_or_else(PoisonError::into_inner);
            if ids.insert(id) {
                *total += amount;
                println!("  deposit {id}: done");
            } else {
                println!("  deposit {id}: already in the books");
            }
            *total
        };
        if !cx.redelivered() {
            // The worst moment for a crash: the work is done, and no reply has been sent.
            self.0.begun.notify_one();
            std::future::pending::<()>().await;
        }
        total
    }

    async fn send_letter(&self) {
        self.0.letters.fetch_add(1, Ordering::SeqCst);
        self.0.begun.notify_one();
        std::future::pending::<()>().await;
    }
}

/// Returns a layer that refuses the first requests, like a server that is not ready yet.
fn refuse_first<S>(
    requests: u32,
) -> impl Layer<
    S,
    Service = impl Service<Request, Response = Response, Error = RpcError, Future: Send>
              + Clone
              + Send
              + Sync,
> + Clone
where
    S: Service<Request, Response = Response, Error = RpcError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let seen = Arc::new(AtomicU32::new(0));
    layer_fn(move |service: S| {
        let seen = seen.clone();
        tower::service_fn(move |request: Request| {
            let service = service.clone();
            let refuse = seen.fetch_add(1, Ordering::SeqCst) < requests;
            async move {
                if refuse {
                    // `Overloaded` is retryable.
                    return Err(RpcError::new(ErrorKind::Overloaded, "not ready yet"));
                }
                service.oneshot(request).await
            }
        })
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    exit_code("retries", run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let connection = Connection::open(&url()).await?;
    let books = Books::default();
    let ledger = LedgerClient::new(connection.client());

    println!("a server that refuses three requests");
    let server = Server::builder(&connection)
        .service(LedgerDispatcher::new(books.clone()))
        .layer(refuse_first(3))
        .build()
        .start()
        .await?;
    // The method is not idempotent, so the caller decides. This caller may retry, because the id makes a second deposit harmless.
    match ledger.deposit(1, 100).await {
        Err(error) if error.is_retryable() => println!("  deposit: {error}"),
        other => return Err(format!("unexpected: {other:?}").into()),
    }
    // The method is idempotent: the client sends the request three times, and the third attempt succeeds.
    println!("  total: {}", ledger.total().await?);
    server.shutdown().await?;

    println!("a server that dies in the middle of a deposit");
    let server = serve(&connection, &books).await?;
    let deposit = tokio::spawn(ledger.deposit(1, 100));
    books.0.begun.notified().await;
    // Dropping the handle stops a server like a crash: it finishes and acknowledges nothing.
    drop(server);
    let server = serve(&connection, &books).await?;
    println!("  total after it: {}", deposit.await??);

    println!("a server that dies in the middle of a letter");
    let letter = ledger.send_letter().timeout(Duration::from_secs(1));
    let letter = tokio::spawn(letter);
    books.0.begun.notified().await;
    drop(server);
    let server = serve(&connection, &books).await?;
    match letter.await? {
        // The request was acknowledged before it ran, so the broker no longer has it, and the outcome is unknown.
        Err(error) if error.is_timeout() && error.may_have_executed() => println!("  {error}"),
        other => return Err(format!("unexpected: {other:?}").into()),
    }

    let letters = books.0.letters.load(Ordering::SeqCst);
    let total = ledger.total().await?;
    if (total, letters) != (100, 1) {
        return Err(format!("{total} deposited, {letters} letters").into());
    }
    println!("{total} deposited, {letters} letter started");
    server.shutdown().await?;
    connection.close().await;
    Ok(())
}

async fn serve(connection: &Connection, books: &Books) -> Result<ServerHandle, Box<dyn Error>> {
    let dispatcher = LedgerDispatcher::new(books.clone());
    let server = Server::builder(connection).service(dispatcher).build();
    Ok(server.start().await?)
}
