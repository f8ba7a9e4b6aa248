//! Tests of the private RabbitMQ nodes: they do what other tests rely on, and leave nothing behind.
//!
//! ```text
//! cargo test -p rpc-tests --features broker --test harness
//! ```
#![cfg(target_os = "linux")] // it looks for processes in /proc
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{fs, io, thread};

use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use rpc_tests::broker::{
    Cluster, Cut, Direction, Node, NodeBuilder, Proxy, QueueInfo, shared_node,
};
use rpc_tests::{eventually, unique_queue};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn shared_node_reports_queues() {
    let node = shared_node().await;
    let queue = unique_queue("harness");
    assert_eq!(node.queue(&queue).await, None);
    assert!(!node.has_queue(&queue).await);

    let connection = node.connect().await;
    let channel = connection.create_channel().await.unwrap();
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.as_str().into(), exclusive, FieldTable::default())
        .await
        .unwrap();
    assert!(
        node.has_queue(&queue).await,
        "an exclusive queue exists for other connections"
    );
    connection.close(200, "done".into()).await.unwrap();
}

#[test]
fn shared_node_outlives_the_runtime_that_started_it() {
    let urls = [(); 2].map(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let node = shared_node().await;
            node.connect()
                .await
                .close(200, "done".into())
                .await
                .unwrap();
            node.url()
        })
    });
    assert_eq!(urls[0], urls[1]);
}

#[tokio::test]
async fn node_keeps_port_and_data_when_stopped_killed_or_paused() {
    let node = Node::builder().conf("heartbeat = 17").start().await;
    let queue = unique_queue("durable");
    let full = QueueInfo {
        messages: 1,
        consumers: 0,
    };
    publish_to_durable_queue(&node, &queue).await;
    assert_eq!(node.queue(&queue).await, Some(full));
    assert_eq!(
        node.ctl(&["-q", "eval", "application:get_env(rabbit, heartbeat)."])
            .await
            .trim(),
        "{ok,17}"
    );

    let url = node.url();
    node.restart().await;
    assert_eq!(node.url(), url, "a restarted node keeps its port");
    assert_eq!(
        node.queue(&queue).await,
        Some(full),
        "a restarted node keeps its data"
    );

    node.kill().await;
    assert!(
        TcpStream::connect(("127.0.0.1", node.port()))
            .await
            .is_err(),
        "a killed node does not listen"
    );
    node.restart().await;
    assert_eq!(
        node.queue(&queue).await,
        Some(full),
        "a killed node keeps its data"
    );

    node.pause().await;
    let connecting = Connection::connect(&url, ConnectionProperties::default());
    assert!(
        timeout(Duration::from_millis(300), connecting)
            .await
            .is_err(),
        "a paused node does not respond"
    );
    node.resume().await;

    let connection = node.connect().await;
    node.close_connections("on purpose").await;
    eventually("the broker closes the connection", async || {
        (!connection.status().connected()).then_some(())
    })
    .await;

    node.stop().await;
    assert!(
        node.log().contains("stopped TCP listener"),
        "a stopped node logs its graceful end: {}",
        node.log()
    );
}

#[tokio::test]
async fn dropping_a_node_leaves_nothing() {
    let node = Node::start().await;
    let folder = node.folder().to_owned();
    assert!(
        processes_of(&folder).contains_key("beam.smp"),
        "{:?}",
        processes_of(&folder)
    );
    assert!(
        processes_of(&folder).contains_key("epmd"),
        "{:?}",
        processes_of(&folder)
    );
    node.pause().await;
    drop(node);
    assert_nothing_left(&folder);
}

#[tokio::test]
async fn abandoning_a_start_leaves_nothing() {
    let folder = std::env::temp_dir().join(unique_queue("rpc-node-abandoned"));
    let starting = Node::builder().folder(&folder).start();
    assert!(
        timeout(Duration::from_millis(500), starting).await.is_err(),
        "a start takes longer"
    );
    assert_nothing_left(&folder);
}

#[tokio::test]
async fn killing_the_owner_of_a_node_leaves_nothing() {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_broker"))
        .args(["run", "sh", "-c", "echo $AMQP_URL; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().expect("the URL");
    Connection::connect(&url, ConnectionProperties::default())
        .await
        .expect("the node accepts connections");
    let folder = folder_of_node_owned_by(owner.id().unwrap());

    owner.kill().await.unwrap(); // SIGKILL: the owner cannot clean up
    assert_nothing_left(&folder);
}

#[tokio::test]
async fn processes_of_a_node_have_a_session_of_their_own() {
    let node = Node::start().await;
    let processes = processes_of(node.folder());
    let session = session_of(processes["beam.smp"]);
    assert_ne!(session, session_of(std::process::id()));
    assert_eq!(session, session_of(processes["epmd"]));
    let leader = fs::read_to_string(format!("/proc/{session}/cmdline")).unwrap();
    assert!(leader.contains("watchdog.sh"), "{leader}");
}

#[tokio::test]
async fn node_starts_beside_busy_processes_in_the_session_of_the_tests() {
    const LIMIT: Duration = Duration::from_secs(60);
    let busy = [(); 2].map(|()| {
        Command::new("/bin/sh")
            .args(["-c", "while :; do :; done"])
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    });
    let session = session_of(std::process::id());
    for process in &busy {
        assert_eq!(session_of(process.id().unwrap()), session);
    }
    timeout(LIMIT, Node::start())
        .await
        .expect("the node starts in time");
}

#[tokio::test]
async fn node_with_tls_and_management_listens_for_both() {
    let node = Node::builder().tls().management().start().await;
    assert!(node.ca_pem().starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(fs::read_to_string(node.ca_file()).unwrap(), node.ca_pem());
    let tls = node
        .tls_url()
        .strip_prefix("amqps://guest:guest@")
        .unwrap()
        .strip_suffix("/%2f")
        .unwrap()
        .to_owned();
    TcpStream::connect(tls).await.expect("a listener for TLS");

    let mut web = TcpStream::connect(node.management_url().trim_start_matches("http://"))
        .await
        .unwrap();
    web.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    web.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("RabbitMQ Management"), "{answer}");
}

#[tokio::test]
async fn a_failed_start_reports_the_reason() {
    let builder: NodeBuilder = Node::builder().conf("no_such_setting = 1");
    let error = builder.try_start().await.unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn cluster_shares_queues_and_survives_the_loss_of_a_leader() {
    let cluster = Cluster::start(3).await;
    let queue = unique_queue("quorum");
    let connection = cluster.nodes()[1].connect().await;
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let mut quorum = FieldTable::default();
    quorum.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    channel
        .queue_declare(queue.as_str().into(), durable, quorum)
        .await
        .unwrap();
    for node in cluster.nodes() {
        assert!(node.queue(&queue).await.is_some(), "{}", node.name());
    }
    assert!(cluster.leader_of("no such queue").await.is_none());

    let first = cluster.leader_of(&queue).await.expect("a leader");
    first.kill().await;
    let second = eventually("another leader", async || cluster.leader_of(&queue).await).await;
    assert_ne!(first.name(), second.name());
    first.restart().await;
    assert!(
        first.queue(&queue).await.is_some(),
        "the restarted node knows the queue"
    );

    let folders: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| node.folder().to_owned())
        .collect();
    drop(cluster);
    folders
        .iter()
        .for_each(|folder| assert_nothing_left(folder));
}

/// A connection through a proxy: the proxy and both ends.
async fn proxied() -> (Proxy, TcpStream, TcpStream) {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(target.local_addr().unwrap().port()).await;
    let client = TcpStream::connect(("127.0.0.1", proxy.port())).await;
    let (broker, _) = target.accept().await.unwrap();
    (proxy, client.unwrap(), broker)
}

async fn receive<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let reading = timeout(Duration::from_secs(10), stream.read_exact(&mut bytes));
    reading.await.expect("something arrives").map(|_| bytes)
}

async fn receives_nothing(stream: &mut TcpStream) -> bool {
    let reading = stream.read_u8();
    timeout(Duration::from_millis(100), reading).await.is_err()
}

#[tokio::test]
async fn proxy_connects_clients_to_a_node() {
    let node = shared_node().await;
    let proxy = Proxy::start(node.port()).await;
    assert_eq!(proxy.connections(), 0);
    let connection = Connection::connect(&proxy.url(), ConnectionProperties::default())
        .await
        .unwrap();
    assert_eq!(proxy.connections(), 1);
    proxy.cut(Cut::Reset).await;
    eventually("the client notices the loss", async || {
        (!connection.status().connected()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn proxy_cuts_and_refuses_connections() {
    let (proxy, mut client, mut broker) = proxied().await;
    client.write_all(b"hello").await.unwrap();
    assert_eq!(receive(&mut broker).await.unwrap(), *b"hello");
    proxy.cut(Cut::Reset).await;
    for end in [&mut client, &mut broker] {
        let error = receive::<1>(end).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(proxy.connections(), 0);

    let (proxy, mut client, mut broker) = proxied().await;
    client.write_all(b"bye").await.unwrap();
    assert_eq!(receive(&mut broker).await.unwrap(), *b"bye");
    proxy.refuse().await;
    let address = ("127.0.0.1", proxy.port());
    // A child process that another test is starting holds a copy of the listener between `fork` and `exec`.
    let refused = eventually("new connections are refused", async || {
        TcpStream::connect(address).await.err()
    });
    assert_eq!(refused.await.kind(), io::ErrorKind::ConnectionRefused);
    broker.write_all(b"still here").await.unwrap();
    assert_eq!(receive(&mut client).await.unwrap(), *b"still here");
    proxy.cut(Cut::Close).await;
    for end in [&mut client, &mut broker] {
        let error = receive::<1>(end).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    proxy.accept().await;
    TcpStream::connect(address).await.unwrap();

    drop(proxy);
    eventually("a dropped proxy does not listen", async || {
        TcpStream::connect(address).await.err()
    })
    .await;
}

#[tokio::test]
async fn proxy_holds_back_one_direction_and_delivers_later() {
    let (proxy, mut client, mut broker) = proxied().await;
    proxy.blackhole(Direction::ToBroker);
    client.write_all(b"ping").await.unwrap();
    broker.write_all(b"pong").await.unwrap();
    assert_eq!(receive(&mut client).await.unwrap(), *b"pong");
    assert!(receives_nothing(&mut broker).await);
    proxy.lift_blackholes();
    assert_eq!(receive(&mut broker).await.unwrap(), *b"ping");

    proxy.blackhole(Direction::ToClient);
    broker.write_all(b"last").await.unwrap();
    broker.shutdown().await.unwrap();
    assert!(
        receives_nothing(&mut client).await,
        "the end of the connection is held back, too"
    );
    proxy.lift_blackholes();
    assert_eq!(receive(&mut client).await.unwrap(), *b"last");
    let error = receive::<1>(&mut client).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn proxy_delays_and_throttles() {
    let (proxy, mut client, mut broker) = proxied().await;
    proxy.latency(Duration::from_millis(150));
    let sent = Instant::now();
    client.write_all(b"ping").await.unwrap();
    assert_eq!(receive(&mut broker).await.unwrap(), *b"ping");
    assert!(sent.elapsed() >= Duration::from_millis(150));

    proxy.latency(Duration::ZERO);
    proxy.trickle(2, Duration::from_millis(20));
    let sent = Instant::now();
    broker.write_all(b"0123456789").await.unwrap();
    assert_eq!(receive(&mut client).await.unwrap(), *b"0123456789");
    assert!(sent.elapsed() >= Duration::from_millis(80));
    proxy.lift_trickle();
}

async fn publish_to_durable_queue(node: &Node, queue: &str) {
    let connection = node.connect().await;
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(Default::default()).await.unwrap();
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.into(), durable, FieldTable::default())
        .await
        .unwrap();
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let publishing = channel.basic_publish(
        "".into(),
        queue.into(),
        BasicPublishOptions::default(),
        b"kept",
        persistent,
    );
    publishing.await.unwrap().await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test]
async fn ctl_script_works_in_any_shell() {
    let node = shared_node().await;
    let script = std::env::temp_dir().join(unique_queue("it's-ctl"));
    fs::write(&script, node.ctl_script()).unwrap();
    let asking = Command::new("/bin/sh")
        .arg(&script)
        .args(["-q", "eval", "node()."])
        .env_clear()
        .output()
        .await;
    fs::remove_file(&script).unwrap();
    let output = asking.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        said.trim(),
        node.ctl(&["-q", "eval", "node()."]).await.trim()
    );
}

/// The processes of a node, from name to id. All of them have the node's folder in their environment.
fn processes_of(folder: &Path) -> HashMap<String, u32> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let mut found = HashMap::new();
    for process in fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
    {
        let Some(pid) = process
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
        else {
            continue;
        };
        // The process has ended meanwhile, or belongs to another user.
        let Ok(environment) = fs::read(process.join("environ")) else {
            continue;
        };
        if environment
            .windows(needle.len())
            .any(|window| window == needle)
        {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            found.insert(name.trim_end().to_owned(), pid);
        }
    }
    found
}

fn session_of(process: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The process name, in parentheses, may contain any character. The fields after it: state, parent, group, session.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let session = fields.split_whitespace().nth(3).unwrap();
    session.parse().unwrap()
}

fn folder_of_node_owned_by(owner: u32) -> PathBuf {
    let started = format!("rpc-node-{owner}-");
    let mut folders = fs::read_dir(std::env::temp_dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    folders
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(&started)
        })
        .expect("the node's folder")
}

fn assert_nothing_left(folder: &Path) {
    for _ in 0..100 {
        if processes_of(folder).is_empty() && !folder.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!(
        "left after 5 s: processes {:?}, folder {}",
        processes_of(folder),
        folder.exists()
    );
}
