//! Servers and clients that start, stop and crash.

use std::time::Duration;

use rpc_core::ErrorKind;
use rpc_tests::broker::Node;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::deployment::{Deployment, Plan, connect};
use super::programs;
use super::service::{Method, Sharing};
use super::verdict::{Expected, Verdict};

/// Number of calls between two events. Some calls are running at any moment.
const SOME: usize = 150;

pub(crate) async fn kills_servers_while_another_serves(node: &Node) -> Verdict {
    let plan = Plan::on(node.url()).servers(1);
    let deployment = Deployment::start(plan.patience(Duration::from_secs(10))).await;
    for _ in 0..3 {
        let mut server = programs::server(&node.url(), &deployment.queue, &deployment.ledger).await;
        deployment.load.goes_on_for(SOME).await;
        server.kill().await;
    }
    deployment.load.recovers().await;
    let expected =
        Expected::no_failures().at_most_once_too(&[ErrorKind::Timeout, ErrorKind::Cancelled]);
    let expected = expected.streams_too(&[ErrorKind::Disconnected, ErrorKind::Timeout]);
    let mut verdict = deployment.finish(node, expected).await;
    if verdict.counts.executed_twice == 0 {
        verdict.problem("no server was killed in the middle of a call".to_owned());
    }
    verdict
}

pub(crate) async fn stops_a_server_while_another_serves(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url()).servers(1)).await;
    for _ in 0..2 {
        let server = programs::server(&node.url(), &deployment.queue, &deployment.ledger).await;
        deployment.load.goes_on_for(SOME).await;
        programs::stop(server).await;
    }
    deployment.load.recovers().await;
    deployment
        .finish(
            node,
            Expected::no_failures()
                .once()
                .streams_too(&[ErrorKind::Cancelled]),
        )
        .await
}

pub(crate) async fn replaces_servers_one_after_the_other(node: &Node) -> Verdict {
    let plan = Plan::on(node.url()).servers(0);
    let mut deployment = Deployment::prepare(&plan).await;
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(programs::server(&node.url(), &deployment.queue, &deployment.ledger).await);
    }
    deployment.begin(&plan).await;
    for _ in 0..4 {
        deployment.load.goes_on_for(SOME / 2).await;
        servers.push(programs::server(&node.url(), &deployment.queue, &deployment.ledger).await);
        programs::stop(servers.remove(0)).await;
    }
    deployment.load.recovers().await;
    deployment.programs = servers;
    deployment
        .finish(
            node,
            Expected::no_failures()
                .once()
                .streams_too(&[ErrorKind::Cancelled]),
        )
        .await
}

pub(crate) async fn kills_a_client(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url())).await;
    for _ in 0..2 {
        let mut client = programs::client(&node.url(), &deployment.queue).await;
        deployment.load.goes_on_for(SOME / 2).await;
        client.kill().await;
    }
    deployment.load.recovers().await;
    deployment.finish(node, Expected::no_failures()).await
}

pub(crate) async fn closes_a_client_with_calls_in_flight(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url())).await;
    let connection = connect(&[node.url()], programs::CLIENT, "client").await;
    let client = deployment.queue.client(&connection, Sharing::Requests);
    let mut calls = JoinSet::new();
    for number in 0..50 {
        let id = ((programs::CLIENT as u64) << 32) + number;
        let method = Method::ALL[number as usize % Method::ALL.len()];
        calls.spawn(
            method
                .call(&client, id, Duration::from_secs(1))
                .into_future(),
        );
    }
    deployment.load.goes_on_for(SOME / 2).await;
    connection.close().await;
    let all_ended = timeout(Duration::from_millis(500), calls.join_all());
    for outcome in all_ended.await.expect("the calls end at once") {
        let error = outcome.expect_err("a call that takes longer");
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    deployment.load.recovers().await;
    deployment.finish(node, Expected::no_failures()).await
}
