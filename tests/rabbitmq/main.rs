//! Behaviour that needs a real RabbitMQ: refusals, bytes on the wire, foreign peers, lost connections and logins. The tests
//! start private nodes.
//!
//! ```text
//! cargo test -p rpc-tests --features broker --test rabbitmq
//! cargo test -p rpc-tests --features broker --test rabbitmq wire::a_request_follows_the_protocol -- --nocapture
//! ```
#![allow(clippy::unwrap_used)] // A test that fails panics.

mod connecting;
mod credentials;
mod dead_letters;
mod flooding;
mod giving_up;
mod guarantees;
mod hostile_headers;
mod log_lines;
mod losing;
mod nesting;
mod peer;
mod permissions;
mod protocol;
mod refusals;
mod secrets;
mod strangers;
mod streams;
mod tls;
mod wire;

use std::net::IpAddr;

use rpc_core::{Connection, Context, Server, ServerHandle, rpc};
use serde::{Deserialize, Serialize};

/// A value with an address, which is text in both formats, and bytes, which stay bytes in MessagePack alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Event {
    Login {
        ip: IpAddr,
        key: serde_bytes::ByteBuf,
    },
}

/// A service that peers without this crate can call.
#[rpc]
trait Adder {
    async fn add(a: u64, b: u64) -> u64;
    #[rpc(default)]
    async fn negate(n: i64) -> Result<i64, String>;
    async fn replay(event: Event) -> Event;
    async fn wait(#[ctx] context: Context) -> bool;
    async fn stick();
    async fn wait_for_release();
    #[rpc(idempotent)]
    async fn wait_twice() -> usize;
    async fn release();
}

#[derive(Default)]
struct Abacus(tokio::sync::Notify, std::sync::atomic::AtomicUsize);

impl Adder for Abacus {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn negate(&self, n: i64) -> Result<i64, String> {
        n.checked_neg().ok_or_else(|| "too small".to_owned())
    }

    async fn replay(&self, event: Event) -> Event {
        event
    }

    async fn wait(&self, context: Context) -> bool {
        context.redelivered()
    }

    async fn wait_for_release(&self) {
        self.0.notified().await;
    }

    async fn wait_twice(&self) -> usize {
        let runs = self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        if runs == 1 {
            std::future::pending::<()>().await;
        }
        runs
    }

    async fn release(&self) {
        self.0.notify_one();
    }

    async fn stick(&self) {
        std::future::pending::<()>().await;
    }
}

async fn serve(connection: &Connection, queue: &str) -> ServerHandle {
    let dispatcher = AdderDispatcher::new(Abacus::default()).with_queue(queue);
    Server::builder(connection)
        .service(dispatcher)
        .build()
        .start()
        .await
        .expect("the server starts")
}
