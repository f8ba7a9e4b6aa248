//! Floods of junk beside honest calls.

use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use rpc_core::Connection;
use rpc_tests::broker::{Node, shared_node};
use rpc_tests::hostile;
use rpc_tests::program::{Program, peak_memory};
use rpc_tests::{eventually, unique_queue};

use super::peer::{DIRECT_REPLY_TO, Peer, parts};
use super::{AdderClient, serve};

/// The digits of Base64.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bytes = [0, 1, 2].map(|at| three.get(at).copied().map_or(0, u32::from));
        let bits = bytes[0] << 16 | bytes[1] << 8 | bytes[2];
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            let is_padding = digit > three.len();
            text.push(if is_padding {
                '='
            } else {
                DIGITS[value as usize].into()
            });
        }
    }
    text
}

fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = DIGITS.iter().position(|known| *known == digit).unwrap();
        bits = bits << 6 | u32::try_from(value).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// A direct reply-to address made by the broker, in its parts.
struct Address {
    /// An Erlang process id: the name of its node, and three numbers.
    node: String,
    numbers: [u32; 3],
    key: String,
}

impl Address {
    /// The address of a caller.
    async fn of(caller: &Peer, node: &Node) -> Self {
        let mut other = Peer::with_queue(node).await;
        caller
            .request(&other.queue, BasicProperties::default(), b"")
            .await;
        let request = other.receive().await;
        let address = request.properties.reply_to().clone().unwrap().to_string();
        let (process, key) = address
            .strip_prefix(DIRECT_REPLY_TO)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.split_once('.'))
            .unwrap();
        let process = decode(process);
        let (name, numbers) = process[5..].split_at(process.len() - 5 - 12);
        let number = |at| u32::from_be_bytes(numbers[at..at + 4].try_into().unwrap());
        let made = Self {
            node: String::from_utf8(name.to_vec()).unwrap(),
            numbers: [number(0), number(4), number(8)],
            key: key.to_owned(),
        };
        assert_eq!(made.text(), address);
        made
    }

    fn text(&self) -> String {
        let mut process = vec![131, 88, 118, 0, u8::try_from(self.node.len()).unwrap()];
        process.extend(self.node.as_bytes());
        for number in self.numbers {
            process.extend(number.to_be_bytes());
        }
        format!("{DIRECT_REPLY_TO}.{}.{}", encode(&process), self.key)
    }

    /// An address on a node that does not exist.
    fn elsewhere(&self, node: usize) -> String {
        let [number, serial, creation] = self.numbers;
        let forged = Self {
            node: format!("reply@{node}"),
            numbers: [number, serial, creation],
            key: self.key.clone(),
        };
        forged.text()
    }

    /// Malformed addresses, which the broker ignores or refuses.
    fn altered(&self, n: u32) -> [String; 4] {
        let [number, serial, creation] = self.numbers;
        let altered = |numbers, key: &str| {
            let forged = Self {
                node: self.node.clone(),
                numbers,
                key: key.to_owned(),
            };
            forged.text()
        };
        [
            altered(self.numbers, &encode(&n.to_be_bytes())),
            altered([number + 1 + n, serial, creation], &self.key),
            altered([number | 1 << 28, serial, creation], &self.key),
            altered([number, serial + (1 << 13) + n, creation], &self.key),
        ]
    }
}

fn add() -> BasicProperties {
    BasicProperties::default()
        .with_type("add".into())
        .with_content_type("application/json".into())
}

#[tokio::test]
async fn forged_direct_reply_to_addresses_do_not_delay_honest_calls() {
    const BURST: usize = 500;
    const A_SECOND: usize = 105;
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("forged");
    let _server = serve(&connection, &queue).await;
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    let mut honest = Peer::with_direct_replies(node).await;
    let address = Address::of(&honest, node).await;
    assert_eq!(parts(&honest.call(&queue, add(), b"[1, 1]").await).1, "2");

    let attacker = Peer::with_queue(node).await;
    let attack = async |forged: String| {
        let properties = add().with_reply_to(forged.into());
        attacker.publish(&queue, properties, b"[1, 2]").await;
    };
    for n in 0..BURST {
        attack(address.elsewhere(n)).await;
    }
    for n in 0..50 {
        for forged in address.altered(n) {
            attack(forged).await;
        }
    }
    let mut slowest = Duration::ZERO;
    for n in 0..3 * A_SECOND {
        attack(address.elsewhere(BURST + n)).await;
        let begun = Instant::now();
        assert_eq!(adder.add(1, 2).await.unwrap(), 3);
        if n % 10 == 0 {
            let reply = honest.call(&queue, add(), b"[1, 3]").await;
            assert_eq!(parts(&reply).1, "4");
        }
        slowest = slowest.max(begun.elapsed());
        tokio::time::sleep_until((begun + Duration::from_secs(1) / A_SECOND as u32).into()).await;
    }
    println!("the slowest honest call took {slowest:?}");
    // Allows for a busy machine. Without a limit for forged addresses, the call takes as long as the flood.
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    eventually("every request is acknowledged", async || {
        let left = node.queue(&queue).await?;
        (left.messages == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_first_direct_caller_after_a_flood_of_forged_addresses_gets_a_reply() {
    let node = shared_node().await;
    let connection = Connection::open(&node.url()).await.unwrap();
    let queue = unique_queue("forged");
    let _server = serve(&connection, &queue).await;
    let mut honest = Peer::with_direct_replies(node).await;
    let address = Address::of(&honest, node).await;
    let attacker = Peer::with_queue(node).await;
    for n in 0..500 {
        let properties = add().with_reply_to(address.elsewhere(n).into());
        attacker.publish(&queue, properties, b"[1, 2]").await;
    }
    // No event tells when the server can reply again, so the caller retries, as a real one would.
    let begun = Instant::now();
    let adder = AdderClient::new(connection.client()).with_queue(&queue);
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    let channel = honest.channel.clone();
    let asking = async {
        loop {
            let to = (ShortString::default(), queue.as_str().into());
            let properties = add().with_reply_to(DIRECT_REPLY_TO.into());
            let options = BasicPublishOptions::default();
            let published = channel.basic_publish(to.0, to.1, options, b"[1, 3]", properties);
            published.await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let first = tokio::select! {
        reply = honest.receive() => reply,
        () = asking => unreachable!(),
    };
    assert_eq!(parts(&first).1, "4");
    println!("reply after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Environment variables of the victim process: its broker and its queue.
const VICTIM_URL: &str = "VICTIM_URL";
const VICTIM_QUEUE: &str = "VICTIM_QUEUE";

/// Size of the junk: number of batches, calls in each batch, bytes in each body.
const BATCHES: usize = 1_600;
const CALLS: u16 = 1_000;
const BODY: u8 = 55;

/// A batch of replies to unknown calls, of about 64 KiB.
fn junk() -> Vec<u8> {
    let mut batch = vec![0x92, 0xcd, 0, 16, 0xdc];
    batch.extend(CALLS.to_be_bytes());
    for _ in 0..CALLS {
        batch.extend([0x96, 0xa1, b'a', 0xc0, 0xc0, 0xc0, 0xc0, 0xc4, BODY]);
        batch.extend([0; BODY as usize]);
    }
    batch
}

/// The peak memory of this process in MiB.
fn peak() -> u64 {
    peak_memory("self") >> 20
}

/// A client in a process of its own, so that its memory can be measured. It prints its progress and its measurements.
async fn victim(url: &str, queue: &str) {
    const PATIENCE: Duration = Duration::from_millis(200);
    let connection = Connection::open(url).await.unwrap();
    let client = connection.client();
    let adder = AdderClient::new(client.clone()).with_queue(queue);
    adder.add(0, 0).await.unwrap();
    let before = peak();
    println!("ready");
    let expected = BATCHES as u64 * u64::from(CALLS);
    let (mut calls, mut late) = (0, Duration::ZERO);
    while client.dropped_replies().foreign < expected {
        let begun = Instant::now();
        let answer = adder.stick().timeout(PATIENCE).await;
        answer.expect_err("no server replies");
        late = late.max(begun.elapsed().saturating_sub(PATIENCE));
        calls += 1;
    }
    assert_eq!(adder.add(1, 2).await.unwrap(), 3);
    println!("grown by {} MiB", peak() - before);
    println!("{calls} calls, late by {} ms at most", late.as_millis());
    println!("done");
}

async fn answer(server: &Peer, request: &Delivery, body: &[u8]) {
    let reply_to = request.properties.reply_to().clone().unwrap();
    let id = request.properties.correlation_id().clone().unwrap();
    let reply = BasicProperties::default().with_correlation_id(id);
    server.publish(reply_to.as_str(), reply, body).await;
}

fn number_after<'a>(line: &'a str, words: &str) -> &'a str {
    let (_, rest) = line.split_once(words).unwrap();
    rest.split(' ').next().unwrap()
}

#[tokio::test]
async fn unexpected_messages_in_a_reply_queue_take_little_memory_and_time() {
    // The victim process runs this test again.
    if let (Ok(url), Ok(queue)) = (env::var(VICTIM_URL), env::var(VICTIM_QUEUE)) {
        return victim(&url, &queue).await;
    }
    let node = Node::start().await;
    let queue = unique_queue("junk");
    let mut server = Peer::serving(&node, &queue).await;
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture"])
        .arg("flooding::unexpected_messages_in_a_reply_queue_take_little_memory_and_time")
        .env(VICTIM_URL, node.url())
        .env(VICTIM_QUEUE, &queue);
    let mut victim = Program::start(command.into());
    let request = server.receive().await;
    let reply_to = request.properties.reply_to().as_ref().unwrap().to_string();
    answer(&server, &request, b"0").await;
    victim.line("ready").await;
    let attacker = Peer::with_queue(&node).await;
    let batch = junk();
    for _ in 0..BATCHES {
        let properties = BasicProperties::default()
            .with_content_type("application/vnd.rpc-batch+msgpack".into());
        attacker.publish(&reply_to, properties, &batch).await;
    }
    // The victim's calls to `stick` get no replies, by design.
    let last = loop {
        let request = server.receive().await;
        let kind = request.properties.kind().as_ref().unwrap().to_string();
        if kind == "add" {
            break request;
        }
    };
    answer(&server, &last, b"3").await;
    let grown = victim.line("grown by").await;
    let late = victim.line("late by").await;
    victim.line("done").await;
    println!("{grown}; {late}");
    let grown: u64 = number_after(&grown, "grown by ").parse().unwrap();
    let late: u64 = number_after(&late, "late by ").parse().unwrap();
    assert!(
        grown < 48,
        "the client took {grown} MiB for 100 MiB of junk"
    );
    assert!(late < 500, "a call ended {late} ms late");
}

/// Size of the load: number of batches for one server, and calls in each batch.
const HEAVY: u64 = 16;
const CALLS_OF_HEAVY: u16 = 1_024;

/// A batch of calls of an unknown method, with as many tables in their headers as a batch may hold. The tables take ten times as
/// much memory as they have bytes.
fn heavy() -> Vec<u8> {
    const TABLES: u8 = 47;
    let mut headers = vec![0x81, 0xa1, b'h', 0xdc, 0, TABLES];
    headers.extend(b"\x81\xa0\xc0".repeat(TABLES.into()));
    let calls: Vec<_> = (0..CALLS_OF_HEAVY)
        .map(|_| hostile::call(b"1", b"none", &headers))
        .collect();
    hostile::batch(&calls)
}

/// A server in a process of its own, so that its memory can be measured. It prints its progress and its measurements.
async fn server_victim(url: &str, queue: &str) {
    let connection = Connection::open(url).await.unwrap();
    let server = serve(&connection, queue).await;
    let before = peak();
    println!("ready");
    eventually("every call is refused", async || {
        (server.refused_requests() == HEAVY * u64::from(CALLS_OF_HEAVY)).then_some(())
    })
    .await;
    println!("grown by {} MiB", peak() - before);
    println!("done");
}

#[tokio::test]
async fn waiting_request_batches_take_no_memory() {
    // The victim process runs this test again.
    if let (Ok(url), Ok(queue)) = (env::var(VICTIM_URL), env::var(VICTIM_QUEUE)) {
        return server_victim(&url, &queue).await;
    }
    let node = Node::start().await;
    let queue = unique_queue("heavy");
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture"])
        .arg("flooding::waiting_request_batches_take_no_memory")
        .env(VICTIM_URL, node.url())
        .env(VICTIM_QUEUE, &queue);
    let mut victim = Program::start(command.into());
    victim.line("ready").await;
    let attacker = Peer::with_queue(&node).await;
    let batch = heavy();
    for _ in 0..HEAVY {
        attacker.publish(&queue, hostile::batched(), &batch).await;
    }
    let grown = victim.line("grown by").await;
    victim.line("done").await;
    println!("{grown}");
    let grown: u64 = number_after(&grown, "grown by ").parse().unwrap();
    assert!(grown < 160, "the server took {grown} MiB");
}
