//! Faults of a broker.

use std::time::Duration;

use rpc_core::{ConnectionState, ErrorKind};
use rpc_tests::broker::Node;

use super::deployment::{Deployment, Plan};
use super::verdict::{Expected, Verdict};

pub(crate) fn is_reconnecting(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Reconnecting { .. })
}

pub(crate) async fn killed_and_restarted(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url())).await;
    node.kill().await;
    node.restart().await;
    deployment.load.recovers().await;
    deployment.finish(node, Expected::outage()).await
}

pub(crate) async fn stopped_and_restarted(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url())).await;
    node.stop().await;
    node.restart().await;
    deployment.load.recovers().await;
    deployment.finish(node, Expected::outage()).await
}

pub(crate) async fn paused_beyond_the_heartbeat(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url())).await;
    node.pause().await;
    deployment.until_all("reconnecting", is_reconnecting).await;
    node.resume().await;
    deployment.load.recovers().await;
    deployment.finish(node, Expected::outage()).await
}

pub(crate) async fn closes_connections(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url())).await;
    for _ in 0..2 {
        node.close_connections("by an operator").await;
        deployment.load.recovers().await;
    }
    deployment.finish(node, Expected::outage()).await
}

pub(crate) async fn raises_the_memory_alarm(node: &Node) -> Verdict {
    let deployment = Deployment::start(Plan::on(node.url())).await;
    node.ctl(&["set_vm_memory_high_watermark", "0.0000001"])
        .await;
    let is_blocked = |state: &ConnectionState| matches!(state, ConnectionState::Blocked { .. });
    deployment.until_clients("blocked", is_blocked).await;
    // Longer than the timeout of impatient calls.
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    deployment.load.recovers().await;
    deployment
        .finish(node, Expected::failures(&[ErrorKind::Timeout]))
        .await
}
