//! rpc-core, used as its documentation recommends.

use bytes::Bytes;
use rpc_core::{Connection, Server, ServerHandle, rpc};

use super::{Outcome, Traffic};
use crate::load::{Load, Samples, Window};

/// Returns its argument.
#[rpc]
pub trait Echo {
    /// Returns `body`.
    async fn echo(body: Bytes) -> Bytes;
    /// Returns `body`, as an idempotent method.
    #[rpc(idempotent)]
    async fn echo_again(body: Bytes) -> Bytes;
}

/// Limit of requests per message, and a prefetch for servers that accept this number.
const TOGETHER: usize = 256;
const PREFETCH_TOGETHER: u16 = 1024;

/// Handler that does nothing: only the work around it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Echoing;

impl Echo for Echoing {
    async fn echo(&self, body: Bytes) -> Bytes {
        body
    }

    async fn echo_again(&self, body: Bytes) -> Bytes {
        body
    }
}

/// Queue of the n-th of several services.
fn nth_queue(queue: &str, index: usize) -> String {
    format!("{queue}-{index}")
}

/// Serves a number of services, each with a queue of its own.
pub async fn serve(
    connection: &Connection,
    queue: &str,
    traffic: Traffic,
    services: usize,
) -> Outcome<ServerHandle> {
    let mut server = Server::builder(connection).introspection(traffic.introspection);
    if traffic.coalesce {
        server = server.prefetch(PREFETCH_TOGETHER);
    }
    for index in 0..services {
        server = server.service(EchoDispatcher::new(Echoing).with_queue(nth_queue(queue, index)));
    }
    Ok(server.build().start().await?)
}

/// Calls through a number of clients of a connection, evenly over a number of services.
pub async fn call(
    connection: &Connection,
    queue: &str,
    traffic: Traffic,
    clients: usize,
    services: usize,
    load: &Load,
    window: Window,
) -> Samples {
    let client = |index| {
        let builder = connection.client_builder().confirms(traffic.confirms);
        let mut builder = builder
            .mandatory(traffic.mandatory)
            .expiration(traffic.expiration);
        if traffic.coalesce {
            builder = builder.coalesce(TOGETHER);
        } else if !traffic.batches {
            builder = builder.coalesce(1);
        }
        EchoClient::new(builder.build()).with_queue(nth_queue(queue, index % services))
    };
    let clients: Vec<_> = (0..clients.max(services)).map(client).collect();
    let body = Bytes::from(load.body());
    load.in_tasks(window, |index| {
        let client = clients[index % clients.len()].clone();
        let body = body.clone();
        move || {
            let mut call = match traffic.coalesce {
                false => client.echo(body.clone()),
                true => client.echo_again(body.clone()),
            };
            if traffic.persistent {
                call = call.persistent();
            }
            if traffic.header {
                call = call.header("tenant", "a");
            }
            async move {
                call.await.expect("an echo does not fail");
            }
        }
    })
    .await
}

/// Calls the handler without any broker.
pub async fn call_directly(load: &Load, window: Window) -> Samples {
    let client = EchoClient::new(EchoDispatcher::new(Echoing));
    let body = Bytes::from(load.body());
    load.in_tasks(window, |_| {
        let (client, body) = (client.clone(), body.clone());
        move || {
            let call = client.echo(body.clone());
            async move {
                call.await.expect("an echo does not fail");
            }
        }
    })
    .await
}
