//! Messages that state the user of their connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use rpc_core::{Connection, Context, Server, ServerHandle, rpc};
use rpc_tests::unique_queue;
use tokio::sync::Notify;

use super::client;
use crate::broker;

#[rpc]
trait Census {
    async fn who(#[ctx] context: Context) -> Option<String>;
    /// The same, for a redelivered request.
    async fn who_at_last(#[ctx] context: Context) -> Option<String>;
}

#[derive(Clone, Default)]
struct Clerk(Arc<(Notify, AtomicUsize)>);

impl Census for Clerk {
    async fn who(&self, context: Context) -> Option<String> {
        context.user_id().map(str::to_owned)
    }

    async fn who_at_last(&self, context: Context) -> Option<String> {
        let (begun, runs) = &*self.0;
        if runs.fetch_add(1, Ordering::SeqCst) == 0 {
            begun.notify_one();
            std::future::pending::<()>().await;
        }
        context.user_id().map(str::to_owned)
    }
}

async fn stating(url: &str) -> Connection {
    Connection::builder(url)
        .state_user_id()
        .open()
        .await
        .unwrap()
}

async fn serve(connection: &Connection, queue: &str, clerk: &Clerk) -> ServerHandle {
    let dispatcher = CensusDispatcher::new(clerk.clone()).with_queue(queue);
    let server = Server::builder(connection).service(dispatcher).build();
    server.start().await.unwrap()
}

fn census(connection: &Connection, queue: &str) -> CensusClient {
    CensusClient::new(client(connection)).with_queue(queue)
}

#[tokio::test]
async fn a_handler_sees_the_user_id_of_its_caller() {
    let broker = broker().await;
    let (stating, silent) = (stating(&broker.url).await, broker.connect().await);
    let queue = unique_queue("census");
    // Single replies and batches of replies state the server's user, too.
    let _server = serve(&stating, &queue, &Clerk::default()).await;
    let (stated, unstated) = (census(&stating, &queue), census(&silent, &queue));
    assert_eq!(stated.who().await.unwrap().as_deref(), Some("guest"));
    assert_eq!(unstated.who().await.unwrap(), None);
    for who in join_all((0..200).map(|_| stated.who().into_future())).await {
        assert_eq!(who.unwrap().as_deref(), Some("guest"));
    }
}

#[tokio::test]
async fn a_republished_request_does_not_state_the_servers_user() {
    let broker = broker().await;
    let connection = stating(&broker.url).await;
    let queue = unique_queue("census");
    let clerk = Clerk::default();
    let server = serve(&connection, &queue, &clerk).await;
    let call = tokio::spawn(census(&connection, &queue).who_at_last().into_future());
    clerk.0.0.notified().await;
    drop(server);
    let _server = serve(&connection, &queue, &clerk).await;
    assert_eq!(call.await.unwrap().unwrap(), None);
}
