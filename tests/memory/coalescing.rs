//! Calls that share messages, with a broker that can be looked into and a time that stands still.

use std::time::Duration;

use rpc_core::{Client, Connection, Server, rpc};
use rpc_tests::unique_queue;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// More messages than may be unanswered before calls wait for each other.
const BUSY: u64 = 4;

#[rpc]
trait Half {
    #[rpc(idempotent)]
    async fn half(n: u64) -> u64;
}

struct Halving;
impl Half for Halving {
    async fn half(&self, n: u64) -> u64 {
        n / 2
    }
}

fn coalescing(connection: &Connection) -> Client {
    connection.client_builder().coalesce(64).build()
}

/// Whatever has been told to end has ended.
async fn tasks() -> usize {
    sleep(Duration::from_secs(1)).await;
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_outlives_its_connection_keeps_no_task() {
    let connection = Connection::open("memory:").await.unwrap();
    let queue = unique_queue("half");
    let dispatcher = HalfDispatcher::new(Halving).with_queue(&queue);
    let server = Server::builder(&connection).service(dispatcher);
    let server = server.build().start().await.unwrap();
    let half = HalfClient::new(coalescing(&connection)).with_queue(&queue);
    let mut calls = JoinSet::new();
    for n in 0..4 * BUSY {
        calls.spawn(half.half(n).into_future());
    }
    calls.join_all().await;
    server.shutdown().await.unwrap();
    connection.close().await;
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn queues_that_are_not_used_any_more_are_forgotten() {
    let connection = Connection::open("memory:").await.unwrap();
    let half = HalfClient::new(coalescing(&connection));
    let before = tasks().await;
    for n in 0..5_000 {
        let nowhere = half.clone().with_queue(format!("nowhere-{n}"));
        nowhere.half(n).await.unwrap_err();
    }
    assert!(tasks().await - before < 500);
}
