//! What happens to the network between a broker and its clients and servers.

use std::time::Duration;

use rpc_core::ErrorKind;
use rpc_tests::broker::{Cut, Direction, Node, Proxy};

use super::bench::{Bench, Plan};
use super::broker::is_reconnecting;
use super::verdict::{Expected, Verdict};

pub(crate) async fn cuts_connections(node: &Node) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let bench = Bench::start(Plan::on(proxy.url())).await;
    for cut in [Cut::Reset, Cut::Close] {
        proxy.cut(cut).await;
        bench.load.recovers().await;
    }
    proxy.refuse().await;
    proxy.cut(Cut::Reset).await;
    bench.until_all("reconnecting", is_reconnecting).await;
    proxy.accept().await;
    bench.load.recovers().await;
    bench.finish(node, Expected::outage()).await
}

pub(crate) async fn swallows_what_goes_to_the_broker(node: &Node) -> Verdict {
    swallows(node, Direction::ToBroker).await
}

pub(crate) async fn swallows_what_comes_from_the_broker(node: &Node) -> Verdict {
    swallows(node, Direction::ToClient).await
}

async fn swallows(node: &Node, direction: Direction) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let bench = Bench::start(Plan::on(proxy.url())).await;
    proxy.blackhole(direction);
    bench.until_all("reconnecting", is_reconnecting).await;
    proxy.lift_blackholes();
    bench.load.recovers().await;
    bench.finish(node, Expected::outage()).await
}

/// Clients keep their connections, and their requests get to a server later.
pub(crate) async fn swallows_what_servers_say(node: &Node) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let plan = Plan::on(node.url()).server_url(proxy.url());
    let plan = plan.patience(Duration::from_secs(20));
    let bench = Bench::start(plan).await;
    proxy.blackhole(Direction::ToBroker);
    bench.until_servers("reconnecting", is_reconnecting).await;
    proxy.lift_blackholes();
    bench.load.recovers().await;
    let expected =
        Expected::failures(&[ErrorKind::Timeout]).at_most_once_too(&[ErrorKind::Cancelled]);
    bench.finish(node, expected).await
}

pub(crate) async fn delays_everything(node: &Node) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let bench = Bench::start(Plan::on(proxy.url())).await;
    proxy.latency(Duration::from_millis(150));
    bench.load.recovers().await;
    bench.finish(node, Expected::no_failures().once()).await
}

pub(crate) async fn trickles(node: &Node) -> Verdict {
    let proxy = Proxy::start(node.port()).await;
    let bench = Bench::start(Plan::on(proxy.url())).await;
    // More than the load needs, though timers are late on a busy machine, in pieces that end anywhere.
    proxy.trickle(2_003, Duration::from_millis(10));
    bench.load.goes_on_for(400).await;
    bench.finish(node, Expected::no_failures().once()).await
}
