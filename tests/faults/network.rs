//! Faults of the network between a broker and its clients and servers.

use std::time::Duration;

use rpc_core::ErrorKind;
use rpc_tests::broker::{Cut, Direction, Node, Proxy};

use super::broker::is_reconnecting;
use super::deployment::{Deployment, Plan};
use super::verdict::{Expected, Verdict};

pub(crate) async fn cuts_connections(node: &Node) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let deployment = Deployment::start(Plan::on(proxy.url())).await;
    for cut in [Cut::Reset, Cut::Close] {
        proxy.cut(cut).await;
        deployment.load.recovers().await;
    }
    proxy.refuse().await;
    proxy.cut(Cut::Reset).await;
    deployment.until_all("reconnecting", is_reconnecting).await;
    proxy.accept().await;
    deployment.load.recovers().await;
    deployment.finish(node, Expected::outage()).await
}

pub(crate) async fn blackholes_the_way_to_the_broker(node: &Node) -> Verdict {
    blackholes(node, Direction::ToBroker).await
}

pub(crate) async fn blackholes_the_way_from_the_broker(node: &Node) -> Verdict {
    blackholes(node, Direction::ToClient).await
}

async fn blackholes(node: &Node, direction: Direction) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let deployment = Deployment::start(Plan::on(proxy.url())).await;
    proxy.blackhole(direction);
    deployment.until_all("reconnecting", is_reconnecting).await;
    proxy.lift_blackholes();
    deployment.load.recovers().await;
    deployment.finish(node, Expected::outage()).await
}

/// Clients keep their connections. Their requests reach a server later.
pub(crate) async fn blackholes_the_way_from_servers(node: &Node) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let plan = Plan::on(node.url()).server_url(proxy.url());
    let plan = plan.patience(Duration::from_secs(20));
    let deployment = Deployment::start(plan).await;
    proxy.blackhole(Direction::ToBroker);
    deployment
        .until_servers("reconnecting", is_reconnecting)
        .await;
    proxy.lift_blackholes();
    deployment.load.recovers().await;
    let expected =
        Expected::failures(&[ErrorKind::Timeout]).at_most_once_too(&[ErrorKind::Cancelled]);
    deployment.finish(node, expected).await
}

pub(crate) async fn delays_everything(node: &Node) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let deployment = Deployment::start(Plan::on(proxy.url())).await;
    proxy.latency(Duration::from_millis(150));
    deployment.load.recovers().await;
    deployment
        .finish(node, Expected::no_failures().once())
        .await
}

pub(crate) async fn throttles(node: &Node) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let deployment = Deployment::start(Plan::on(proxy.url())).await;
    // More bandwidth than the load needs, though timers are late on a busy machine, in chunks that end anywhere.
    proxy.trickle(2_003, Duration::from_millis(2));
    deployment.load.goes_on_for(400).await;
    deployment
        .finish(node, Expected::no_failures().once())
        .await
}
