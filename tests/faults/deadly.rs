//! Requests that kill the servers that run them.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::BasicGetOptions;
use rpc_tests::broker::Node;

use super::deployment::{Deployment, Plan, connect};
use super::load::{PATIENT, Record};
use super::programs;
use super::service::{Method, Sharing};
use super::verdict::{Expected, Verdict};

/// Number of servers that a request may kill.
const SERVERS: usize = 3;

/// Number of concurrent calls.
const CALLS: u64 = 24;

/// The number of the call that kills its server.
const DEADLY: u64 = 17;

/// Maximum number of requests that go alone: the first four, and two more if this program is interrupted between calls.
const ALONE: usize = 6;

pub(crate) async fn kills_servers_from_a_batch(node: &Node) -> Verdict {
    let mut plan = Plan::on(node.url()).servers(0);
    plan.clients = 0;
    let mut deployment = Deployment::start(plan).await;
    let connection = connect(&[node.url()], programs::CLIENT, "client").await;
    let client = deployment.queue.client(&connection, Sharing::Requests);
    let client = &client;
    let call = async |number: u64, method, work_millis| {
        let id = (programs::CLIENT as u64) << 32 | number;
        let work = Duration::from_millis(work_millis);
        let record = Record::of(client, id, method, work, PATIENT).await;
        deployment.load.add(record);
    };

    // From here on, the queue exists without a server: all calls below wait for the same server.
    let server = programs::server(&node.url(), &deployment.queue, &deployment.ledger).await;
    call(0, Method::Plain, 1).await;
    programs::stop(server).await;
    let calls = join_all((1..=CALLS).map(|number| match number {
        DEADLY => call(number, Method::Deadly, 150),
        // Some of these have ended by then.
        _ => call(number, Method::Idempotent, 1 + number % 2 * 300),
    }));
    let serving = async {
        for _ in 0..SERVERS {
            let server = programs::server(&node.url(), &deployment.queue, &deployment.ledger).await;
            let (status, printed) = server.end().await;
            assert!(status.signal().is_some(), "{status}: {printed:?}");
        }
        programs::server(&node.url(), &deployment.queue, &deployment.ledger).await
    };
    let (_, server) = tokio::join!(calls, serving);
    deployment.programs.push(server);
    connection.close().await;

    let letters = dead_letters(node, &deployment.queue.name).await;
    let mut verdict = deployment.finish(node, Expected::deadly()).await;
    if letters != ["deadly"] {
        verdict.problem(format!("the dead letters are {letters:?}"));
    }
    if verdict.counts.batched.requests < CALLS as usize - ALONE {
        verdict.problem("too few requests shared a message".to_owned());
    }
    verdict
}

/// The methods of the dead letters of a queue.
async fn dead_letters(node: &Node, queue: &str) -> Vec<String> {
    let connection = node.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    let queue = format!("{queue}.dead");
    let mut methods = Vec::new();
    // The messages return to the queue when the connection closes.
    while let Some(letter) = channel
        .basic_get(queue.as_str().into(), BasicGetOptions::default())
        .await
        .expect("the queue is there")
    {
        let method = letter.delivery.properties.kind().as_ref();
        methods.push(method.map(ToString::to_string).unwrap_or_default());
    }
    let closed = connection.close(200, "done".into()).await;
    closed.expect("an open connection");
    methods
}
