//! Dead letters on RabbitMQ: counts of quorum queues, operators that are killed, and permissions.

use std::collections::{BTreeSet, HashSet};
use std::env;
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::BasicProperties;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use rpc_core::dead_letters::{DeadLetters, Selection};
use rpc_core::{Connection, ErrorKind};
use rpc_tests::broker::{Node, shared_node};
use rpc_tests::program::Program;
use rpc_tests::{eventually, unique_queue};

/// A request queue and its dead-letter queue of one type.
struct Queues {
    channel: lapin::Channel,
    queue: String,
    dead: String,
}

impl Queues {
    async fn new(node: &Node, kind: &str) -> Self {
        let channel = node.connect().await.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        let queue = unique_queue("requests");
        let dead = format!("{queue}.dead");
        for name in [&queue, &dead] {
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
            let options = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(name.as_str().into(), options, arguments)
                .await
                .unwrap();
        }
        Self {
            channel,
            queue,
            dead,
        }
    }

    /// Writes letters with numbers as bodies.
    async fn add(&self, numbers: std::ops::Range<u32>) {
        let mut headers = FieldTable::default();
        let reason = AMQPValue::LongString("delivery-limit".into());
        headers.insert("rpc-death-reason".into(), reason);
        let queue = AMQPValue::LongString(self.queue.as_str().into());
        headers.insert("rpc-death-queue".into(), queue);
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_delivery_mode(2);
        let mut confirms = Vec::new();
        for number in numbers {
            let body = number.to_string();
            let confirm = self.channel.basic_publish(
                "".into(),
                self.dead.as_str().into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                properties.clone(),
            );
            confirms.push(confirm.await.unwrap());
        }
        try_join_all(confirms).await.unwrap();
    }

    /// Takes all messages of a queue: their numbers and delivery counts.
    async fn drain(&self, queue: &str) -> Vec<(u32, i64)> {
        let mut taken = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(got) = self.channel.basic_get(queue.into(), options).await.unwrap() {
            let number = std::str::from_utf8(&got.delivery.data).unwrap();
            let headers = got.delivery.properties.headers().clone();
            let count = headers.unwrap_or_default();
            let count = match count.inner().get("x-delivery-count") {
                Some(AMQPValue::LongLongInt(count)) => *count,
                None => 0,
                other => panic!("{other:?}"),
            };
            taken.push((number.parse().unwrap(), count));
        }
        taken
    }
}

/// The first number of the node's version.
async fn major_version(node: &Node) -> u32 {
    let version = node.ctl(&["version"]).await;
    let major = version.trim().split('.').next().unwrap();
    major.parse().unwrap()
}

#[tokio::test]
async fn looks_at_a_quorum_queue_lose_no_letter() {
    const LOOKS: i64 = 12;
    // More than RabbitMQ sends to a quorum queue before the queue has answered.
    const LETTERS: u32 = 200;
    let node = shared_node().await;
    let queues = Queues::new(node, "quorum").await;
    queues.add(0..LETTERS).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let dead = connection.dead_letters(&queues.dead);
    let ids = async || {
        let letters = dead.list(1000).await.unwrap();
        letters
            .into_iter()
            .map(|letter| letter.id)
            .collect::<BTreeSet<_>>()
    };
    let first = ids().await;
    assert_eq!(first.len() as u32, LETTERS);
    for _ in 1..LOOKS {
        assert_eq!(ids().await, first);
    }
    // RabbitMQ 3 counts each look, and has no limit unless the queue sets one.
    let looks = if major_version(node).await < 4 {
        LOOKS
    } else {
        0
    };
    let expected: Vec<_> = (0..LETTERS).map(|number| (number, looks)).collect();
    // The queue chooses a new order.
    let mut left = queues.drain(&queues.dead).await;
    left.sort_unstable();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn other_operations_do_not_count_the_letters_that_stay() {
    let node = shared_node().await;
    let queues = Queues::new(node, "quorum").await;
    queues.add(0..5).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let dead = connection.dead_letters(&queues.dead);
    let letters = dead.list(100).await.unwrap();
    let id = |place: usize| letters[place].id.clone();
    assert!(dead.find(&id(4)).await.unwrap().is_some());
    assert_eq!(dead.retry([id(1)]).await.unwrap().retried, [id(1)]);
    assert_eq!(dead.discard([id(3)]).await.unwrap().discarded, [id(3)]);
    // A look that is dropped.
    let _ = tokio::time::timeout(Duration::ZERO, dead.list(100)).await;
    assert_eq!(queues.drain(&queues.queue).await, [(1, 0)]);
    let left = eventually("the letters are back", async || {
        let status = connection.queue_status(&queues.dead).await.unwrap();
        (status.unwrap().messages == 3).then_some(())
    });
    left.await;
    let left = queues.drain(&queues.dead).await;
    let mut numbers: Vec<_> = left.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 2, 4]);
    if major_version(node).await >= 4 {
        assert!(left.iter().all(|(_, count)| *count == 0), "{left:?}");
    }
}

/// The variables that give another process of this program its part.
const URL: &str = "RPC_TEST_DEAD_LETTERS_URL";
const QUEUE: &str = "RPC_TEST_DEAD_LETTERS_QUEUE";

/// Starts another process of a test that retries letters.
async fn operator(node: &Node, queue: &str, test: &str) -> Program {
    let mut command = std::process::Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture"])
        .arg(format!("dead_letters::{test}"))
        .env(URL, node.url())
        .env(QUEUE, queue);
    let mut program = Program::start(command.into());
    program.line("begun").await;
    program
}

/// Retries letters in the process of an operator. Returns `false` in the process of a test.
async fn operate(select: impl AsyncFnOnce(&DeadLetters) -> Selection) -> bool {
    let (Ok(url), Ok(queue)) = (env::var(URL), env::var(QUEUE)) else {
        return false;
    };
    let connection = Connection::open(&url).await.unwrap();
    let dead = connection.dead_letters(queue);
    let selection = select(&dead).await;
    println!("begun");
    let outcome = dead.retry(selection).await.unwrap();
    println!("retried {}", outcome.retried.len());
    true
}

/// Every second letter, so that no acknowledgement covers two of them.
async fn every_second(dead: &DeadLetters) -> Vec<String> {
    let letters = dead.list(10_000).await.unwrap();
    let ids = letters.into_iter().map(|letter| letter.id);
    ids.step_by(2).collect()
}

#[tokio::test]
async fn a_retry_of_scattered_letters_loses_and_doubles_none() {
    if operate(async |dead| every_second(dead).await.into()).await {
        return;
    }
    const LETTERS: u32 = 1200;
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    for goal in [None, Some(100), Some(300)] {
        let queues = Queues::new(node, "quorum").await;
        queues.add(0..LETTERS).await;
        let count = async |queue: &str| {
            let status = connection.queue_status(queue).await.unwrap();
            status.unwrap().messages
        };
        match goal {
            // To its end.
            None => {
                let dead = connection.dead_letters(&queues.dead);
                // A slow broker does not list all.
                let ids = every_second(&dead).await;
                let outcome = dead.retry(ids.clone()).await.unwrap();
                assert_eq!(outcome.retried.len(), ids.len());
                assert_eq!(count(&queues.queue).await as usize, ids.len());
            }
            // Until a kill.
            Some(goal) => {
                let test = "a_retry_of_scattered_letters_loses_and_doubles_none";
                let mut operator = operator(node, &queues.dead, test).await;
                eventually("some letters are retried", async || {
                    (count(&queues.queue).await >= goal).then_some(())
                })
                .await;
                operator.kill().await;
            }
        }
        eventually("no letter is in the hands of an operator", async || {
            let (dead, retried) = (count(&queues.dead).await, count(&queues.queue).await);
            println!("{dead} dead, {retried} retried");
            (dead + retried == LETTERS).then_some(())
        })
        .await;
        let mut numbers = queues.drain(&queues.queue).await;
        numbers.extend(queues.drain(&queues.dead).await);
        let different: HashSet<_> = numbers.iter().map(|(number, _)| *number).collect();
        assert_eq!((numbers.len(), different.len()), (1200, 1200), "{goal:?}");
    }
}

#[tokio::test]
async fn a_killed_retry_loses_and_doubles_no_letter() {
    if operate(async |_| Selection::All).await {
        return;
    }
    const LETTERS: u32 = 3000;
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    for kind in ["classic", "quorum"] {
        let queues = Queues::new(node, kind).await;
        queues.add(0..LETTERS).await;
        let retried = async || {
            let status = connection.queue_status(&queues.queue).await.unwrap();
            status.unwrap().messages
        };
        let mut kills = 0;
        for goal in [1, 500, 1500] {
            let test = "a_killed_retry_loses_and_doubles_no_letter";
            let mut operator = operator(node, &queues.dead, test).await;
            eventually("some letters are retried", async || {
                (retried().await >= goal).then_some(())
            })
            .await;
            operator.kill().await;
            kills += u32::from(retried().await < LETTERS);
        }
        assert!(kills > 0, "each retry was complete before its kill");
        // The broker has noticed the ends of the connections, and all letters are in a queue.
        eventually("no letter is in the hands of an operator", async || {
            let status = connection.queue_status(&queues.dead).await.unwrap();
            let dead = status.unwrap().messages;
            println!("{kind}: {dead} dead, {} retried", retried().await);
            (dead + retried().await == LETTERS).then_some(())
        })
        .await;
        let outcome = connection
            .dead_letters(&queues.dead)
            .retry(Selection::All)
            .await
            .unwrap();
        assert!(outcome.interrupted.is_none() && outcome.kept.is_empty());
        let numbers = queues.drain(&queues.queue).await;
        let different: HashSet<_> = numbers.iter().map(|(number, _)| *number).collect();
        assert_eq!((numbers.len(), different.len()), (3000, 3000), "{kind}");
        assert!(queues.drain(&queues.dead).await.is_empty());
    }
}

#[tokio::test]
async fn missing_permissions_of_operators_are_named() {
    let node = Node::start().await;
    let queues = Queues::new(&node, "classic").await;
    queues.add(0..3).await;
    node.ctl(&["add_user", "limited", "secret"]).await;
    let connect = async |permissions: [&str; 3]| {
        let [configure, write, read] = permissions;
        let set = ["set_permissions", "limited", configure, write, read];
        node.ctl(&set).await;
        let url = node.url_with("limited", "secret", "%2f");
        Connection::open(&url).await.unwrap()
    };
    let blind = connect(["^$", ".*", "^$"]).await;
    let error = blind.dead_letters(&queues.dead).list(9).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("grant"), "{error}");

    let reader = connect(["^$", "^$", ".*"]).await;
    let dead = reader.dead_letters(&queues.dead);
    assert_eq!(dead.list(9).await.unwrap().len(), 3);
    let error = dead.retry(Selection::All).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(error.to_string().contains("amq.default"), "{error}");
    eventually("the letters are back", async || {
        let waiting = dead.list(9).await.unwrap();
        (waiting.len() == 3).then_some(())
    })
    .await;
    assert!(queues.drain(&queues.queue).await.is_empty());

    let operator = connect(["^$", "^amq.default$", ".*"]).await;
    let dead = operator.dead_letters(&queues.dead);
    let outcome = dead.retry(Selection::All).await.unwrap();
    assert_eq!(outcome.retried.len(), 3);
}

#[tokio::test]
async fn a_lost_connection_in_a_retry_loses_and_doubles_no_letter() {
    const LETTERS: u32 = 2000;
    let node = Node::start().await;
    let queues = Queues::new(&node, "quorum").await;
    queues.add(0..LETTERS).await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let dead = connection.dead_letters(&queues.dead);
    let watching = Connection::open(&node.url()).await.unwrap();
    let retrying = tokio::spawn(async move { dead.retry(Selection::All).await });
    eventually("some letters are retried", async || {
        let status = watching.queue_status(&queues.queue).await.unwrap();
        (status.unwrap().messages > 0).then_some(())
    })
    .await;
    node.close_connections("a test").await;
    // The retry may have been faster than the tool.
    let outcome = retrying.await.unwrap().unwrap();
    println!(
        "{} of {LETTERS}, {:?}",
        outcome.retried.len(),
        outcome.interrupted
    );
    let queues = Queues {
        channel: node.connect().await.create_channel().await.unwrap(),
        ..queues
    };
    let mut numbers = queues.drain(&queues.queue).await;
    numbers.extend(queues.drain(&queues.dead).await);
    let different: HashSet<_> = numbers.iter().map(|(number, _)| *number).collect();
    assert_eq!((numbers.len(), different.len()), (2000, 2000));
}
