//! What only a real RabbitMQ can show: refusals, raw messages, foreign peers and lost connections.
#![allow(clippy::unwrap_used)] // A test that fails panics.

#[path = "rabbitmq/connecting.rs"]
mod connecting;
#[path = "rabbitmq/credentials.rs"]
mod credentials;
#[path = "rabbitmq/flooding.rs"]
mod flooding;
#[path = "rabbitmq/giving_up.rs"]
mod giving_up;
#[path = "rabbitmq/guarantees.rs"]
mod guarantees;
#[path = "rabbitmq/hostile_headers.rs"]
mod hostile_headers;
#[path = "rabbitmq/log_lines.rs"]
mod log_lines;
#[path = "rabbitmq/losing.rs"]
mod losing;
#[path = "rabbitmq/nesting.rs"]
mod nesting;
#[path = "rabbitmq/peer.rs"]
mod peer;
#[path = "rabbitmq/permissions.rs"]
mod permissions;
#[path = "rabbitmq/protocol.rs"]
mod protocol;
#[path = "rabbitmq/refusals.rs"]
mod refusals;
#[path = "rabbitmq/secrets.rs"]
mod secrets;
#[path = "rabbitmq/strangers.rs"]
mod strangers;
#[path = "rabbitmq/tls.rs"]
mod tls;
#[path = "rabbitmq/wire.rs"]
mod wire;

use std::net::IpAddr;

use rpc_core::{Connection, Context, Server, ServerHandle, rpc};
use serde::{Deserialize, Serialize};

/// A value whose address is text in both formats, and whose bytes stay bytes in one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Event {
    Login {
        ip: IpAddr,
        key: serde_bytes::ByteBuf,
    },
}

/// A service small enough to be called by hand.
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
