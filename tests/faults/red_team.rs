//! Attackers with permission to publish, beside a normal load: no normal call fails, none is much slower, and memory is bounded.
//!
//! Each attack lasts for a fixed time and sends one message after the other, at a pace that leaves the broker room for the load.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel};
use rpc_tests::broker::Node;
use rpc_tests::hostile;
use rpc_tests::program::{Program, peak_memory};
use rpc_tests::raw::RawPublisher;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::deployment::{Deployment, Plan, connect};
use super::load::Record;
use super::programs;
use super::service::{FaultClient, Method, Sharing};
use super::verdict::{Expected, Verdict};

/// Duration of a measurement, with and without an attack.
const TIMED: Duration = Duration::from_secs(5);

/// The pause between two messages of an attack.
const PACE: Duration = Duration::from_millis(5);

/// Number of replies in one burst to a client.
const FLOOD: usize = 100;

/// Number of concurrent measured calls.
const CALLERS: usize = 4;

/// Factor by which the 99th percentile may grow.
const SLOWER: u32 = 5;

/// Shortest latency that is compared: below it, noise of the machine dominates. A stalled caller waits for seconds.
const LEAST: Duration = Duration::from_millis(50);

/// Memory by which a process may grow.
const MEMORY: u64 = 64 << 20;

/// Attacks the servers of a queue through the queue, through cancel notices, through questions to their instances, through calls to
/// all instances, and through streams.
pub(crate) async fn attacks_servers(node: &Node) -> Verdict {
    let mut plan = Plan::on(node.url()).servers(0);
    let mut deployment = Deployment::prepare(&plan).await;
    for _ in 0..2 {
        let server = programs::server(&node.url(), &deployment.queue, &deployment.ledger).await;
        deployment.programs.push(server);
    }
    plan.clients = 3;
    deployment.begin(&plan).await;
    let mut timing = Timing::start(node, &deployment).await;
    let quiet = timing.slowest(&deployment).await;
    let before = memory_of(&deployment.programs);

    let mut attacker = Attacker::of(node).await;
    let unread = attacker.unread_queue().await;
    let queue = deployment.queue.name.clone();
    let census = node.census().await.expect("the queues' counts");
    let queues = census.queues.into_iter().map(|queue| queue.name);
    let private_queues: Vec<_> = queues
        .filter(|name| name.starts_with("rpc.instance."))
        .collect();
    assert_eq!(private_queues.len(), deployment.programs.len());
    let attack = attacker.goes_on(async |attacker, round| {
        for (properties, body) in requests(round) {
            attacker.send("", &queue, properties, &body).await;
        }
        let notices = format!("rpc.cancel.{queue}");
        for (properties, body) in self::notices() {
            attacker
                .send("amq.direct", &notices, properties, &body)
                .await;
        }
        let all = format!("rpc.all.{queue}");
        for (properties, body) in questions(round, &queue) {
            for topic in ["rpc.instances", "rpc.instances.Fault", &all] {
                attacker
                    .send("amq.direct", topic, properties.clone(), &body)
                    .await;
            }
            attacker.send("", &queue, properties, &body).await;
        }
        for (properties, body) in calls_to_all(round).into_iter().chain(streams()) {
            attacker.send("amq.direct", &all, properties, &body).await;
        }
        attacker.publish_unreadable("", &queue).await;
        for topic in [&notices, &all, "rpc.instances"] {
            attacker.publish_unreadable("amq.direct", topic).await;
        }
        // A small message that every instance answers, again and again.
        for _ in 0..FLOOD {
            let question = question("rpc.stats", "rpc.reply.none");
            attacker
                .publish("amq.direct", "rpc.instances", question, b"{}")
                .await;
        }
        // Streams whose caller reads nothing and says nothing: its silence ends them.
        for number in 0..FLOOD {
            let (method, arguments) = STREAMING[number % STREAMING.len()];
            let request = stream_request(method, [1 << 40, 1 << 40, 2_000], &unread);
            attacker.publish("", &queue, request, arguments).await;
        }
        for (properties, body) in streams() {
            attacker.send("", &queue, properties, &body).await;
        }
        for private_queue in &private_queues {
            let hostile = questions(round, &queue).into_iter().chain(requests(round));
            for (properties, body) in hostile.chain(frames()).chain(streams()) {
                attacker.send("", private_queue, properties, &body).await;
            }
            attacker.publish_unreadable("", private_queue).await;
        }
    });
    let (attacked, ()) = tokio::join!(timing.slowest(&deployment), attack);
    let after = memory_of(&deployment.programs);
    timing.end().await;
    attacker.end().await;
    deployment.load.recovers().await;

    let mut verdict = deployment
        .finish(node, Expected::no_failures().letters())
        .await;
    compare(&mut verdict, quiet, attacked);
    for (before, after) in before.into_iter().zip(after) {
        flat(&mut verdict, before, after);
    }
    verdict
}

/// Attacks clients through their reply queues, as a hostile server could.
pub(crate) async fn attacks_clients(node: &Node) -> Verdict {
    let mut deployment = Deployment::start(Plan::on(node.url())).await;
    // A client in another process, so that its memory can be measured.
    let client = programs::client(&node.url(), &deployment.queue).await;
    let mut timing = Timing::start(node, &deployment).await;
    let quiet = timing.slowest(&deployment).await;
    let before = memory(&client);

    let mut attacker = Attacker::of(node).await;
    let census = node.census().await.expect("the queues' counts");
    let queues = census.queues.into_iter().map(|queue| queue.name);
    let queues: Vec<_> = queues
        .filter(|name| name.starts_with("rpc.reply."))
        .collect();
    assert_eq!(
        queues.len(),
        5,
        "three clients, one that is timed, and a process"
    );
    let attack = attacker.goes_on(async |attacker, round| {
        for queue in &queues {
            for (properties, body) in replies(round).into_iter().chain(frames()) {
                attacker.send("", queue, properties, &body).await;
            }
            attacker.publish_unreadable("", queue).await;
            for _ in 0..FLOOD {
                let reply = BasicProperties::default().with_correlation_id("1".into());
                attacker.publish("", queue, reply, &[0xc0]).await;
            }
        }
    });
    let (attacked, ()) = tokio::join!(timing.slowest(&deployment), attack);
    let after = memory(&client);
    timing.end().await;
    attacker.end().await;
    deployment.load.recovers().await;
    deployment.programs.push(client);
    let mut client = deployment.programs.pop().expect("just pushed");
    client.kill().await;

    let mut verdict = deployment.finish(node, Expected::no_failures()).await;
    compare(&mut verdict, quiet, attacked);
    flat(&mut verdict, before, after);
    verdict
}

/// Measures the latency of calls that do no work.
struct Timing {
    client: FaultClient,
    connection: rpc_core::Connection,
    serial: u64,
}

impl Timing {
    /// The number of its client, which differs from those of the load.
    const CLIENT: u64 = programs::CLIENT as u64 + 1;

    async fn start(node: &Node, deployment: &Deployment) -> Self {
        let connection = connect(&[node.url()], programs::CLIENT, "timing").await;
        let client = deployment.queue.client(&connection, Sharing::Replies);
        Self {
            client,
            connection,
            serial: 0,
        }
    }

    /// The 99th percentile of the latency.
    async fn slowest(&mut self, deployment: &Deployment) -> Duration {
        let end = Instant::now() + TIMED;
        let client = &self.client;
        let first = self.serial;
        let callers = (0..CALLERS as u64).map(async |caller| {
            let mut times = Vec::new();
            let mut serial = first + caller;
            while Instant::now() < end {
                let id = Self::CLIENT << 32 | serial;
                serial += CALLERS as u64;
                let limit = Duration::from_secs(10);
                let record = Record::of(client, id, Method::Plain, Duration::ZERO, limit).await;
                times.push((record.took, serial));
                deployment.load.add(record);
            }
            times
        });
        let mut times: Vec<_> = join_all(callers).await.concat();
        self.serial = times
            .iter()
            .map(|(_, serial)| *serial)
            .max()
            .unwrap_or(first);
        times.sort_unstable();
        times[times.len() * 99 / 100].0
    }

    async fn end(self) {
        self.connection.close().await;
    }
}

fn compare(verdict: &mut Verdict, quiet: Duration, attacked: Duration) {
    println!("  99th percentile: {quiet:?}, under attack {attacked:?}");
    if attacked > SLOWER * quiet.max(LEAST) {
        verdict.problem(format!(
            "99th percentile: {quiet:?}, under attack {attacked:?}"
        ));
    }
}

fn flat(verdict: &mut Verdict, before: u64, after: u64) {
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "  {} MiB before the attack, {} MiB at most during it",
        mib(before),
        mib(after)
    );
    if after > before + MEMORY {
        verdict.problem(format!(
            "memory grew from {} MiB to {} MiB",
            mib(before),
            mib(after)
        ));
    }
}

fn memory_of(programs: &[Program]) -> Vec<u64> {
    programs.iter().map(memory).collect()
}

fn memory(program: &Program) -> u64 {
    peak_memory(&program.pid().expect("a program that runs").to_string())
}

/// An attacker with permission to publish.
struct Attacker {
    connection: lapin::Connection,
    channel: Channel,
    raw: RawPublisher,
    pace: Interval,
}

impl Attacker {
    async fn of(node: &Node) -> Self {
        let connection = node.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let raw = RawPublisher::connect(node).await;
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            connection,
            channel,
            raw,
            pace,
        }
    }

    /// A queue whose messages stay where they are.
    async fn unread_queue(&self) -> String {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = self
            .channel
            .queue_declare("".into(), options, FieldTable::default());
        declared.await.expect("a queue").name().to_string()
    }

    /// Repeats the messages of an attack for the duration of a measurement.
    async fn goes_on(&mut self, mut round: impl AsyncFnMut(&mut Self, u32)) {
        let end = Instant::now() + TIMED;
        for number in 0.. {
            round(self, number).await;
            if Instant::now() >= end {
                return;
            }
        }
    }

    /// Publishes a message at the pace of the attack.
    async fn send(&mut self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) {
        self.pace.tick().await;
        self.publish(exchange, key, properties, body).await;
    }

    async fn publish(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) {
        let options = BasicPublishOptions::default();
        let published =
            self.channel
                .basic_publish(exchange.into(), key.into(), options, body, properties);
        published.await.expect("an open channel");
    }

    /// Publishes messages that AMQP parsers may fail on.
    async fn publish_unreadable(&mut self, exchange: &str, key: &str) {
        for (_, properties) in hostile::unreadable("rpc.reply.none") {
            self.pace.tick().await;
            let (exchange, key) = (exchange.as_bytes(), key.as_bytes());
            self.raw
                .publish(exchange, key, &properties, ARGUMENTS)
                .await;
        }
    }

    async fn end(self) {
        let closed = self.connection.close(200, "done".into()).await;
        closed.expect("an open connection");
    }
}

fn with_header(name: &str, value: AMQPValue) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(name.into(), value);
    request().with_headers(headers)
}

fn request() -> BasicProperties {
    BasicProperties::default()
        .with_type("plain".into())
        .with_content_type("application/json".into())
        .with_correlation_id("1".into())
        // A queue that does not exist.
        .with_reply_to("rpc.reply.none".into())
}

/// The arguments of a call without work, by a client whose calls the verdict ignores.
const ARGUMENTS: &[u8] = b"[18446744073709551615, 0]";

/// Length of the longest header that RabbitMQ accepts in a message of this crate.
const LONGEST_HEADER: usize = 130_700;

fn tiny_tables(count: usize) -> AMQPValue {
    let mut table = FieldTable::default();
    table.insert("".into(), AMQPValue::Void);
    AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(table); count]))
}

/// Messages for a request queue.
fn requests(round: u32) -> Vec<(BasicProperties, Vec<u8>)> {
    let arguments = || ARGUMENTS.to_vec();
    let mut all = Vec::new();
    for (what, body) in hostile::batches() {
        // Sends messages of megabytes in every fifth round only.
        if body.len() < 1 << 20 || round.is_multiple_of(5) {
            let properties = hostile::batched().with_reply_to("rpc.reply.none".into());
            all.push((properties, body));
        } else {
            assert!(what.contains("million"), "{what} is large");
        }
    }
    let count = AMQPValue::LongInt;
    for (name, value) in [
        // A list of 117 KB. It would have eight times as many bytes if its numbers were written as 64-bit integers.
        (
            "numbers",
            AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::ShortShortInt(1); 58_000])),
        ),
        ("tables", tiny_tables(15_000)),
        ("rpc-delivery-count", count(2)),
        ("rpc-delivery-count", count(3)),
        ("rpc-delivery-count", count(i32::MAX)),
        ("x-delivery-count", count(0)),
        ("x-delivery-count", count(100)),
        ("x-acquired-count", count(0)),
        ("rpc-unreadable", AMQPValue::LongString("no".into())),
        ("rpc-deadline", AMQPValue::LongLongInt(0)),
        (
            "rpc-propagate",
            AMQPValue::FieldArray(FieldArray::from(vec![
                AMQPValue::LongString("CC".into());
                900
            ])),
        ),
    ] {
        all.push((with_header(name, value), arguments()));
    }
    // A header that just fits, but not together with the headers of a dead letter.
    let mut headers = FieldTable::default();
    let long = "x".repeat(LONGEST_HEADER);
    headers.insert("long".into(), AMQPValue::LongString(long.into()));
    headers.insert("rpc-delivery-count".into(), count(3));
    all.push((request().with_headers(headers), arguments()));
    for reply_to in [
        "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxOTM3NTYwNAAABhUAAAAAawNeOQ==.tudCZS3y8NhPS5peXZIqhg==",
        "",
    ] {
        all.push((request().with_reply_to(reply_to.into()), arguments()));
    }
    all.push((
        request().with_type("plain\n2026-01-01 INFO forged".into()),
        arguments(),
    ));
    all.push((request(), b"[".repeat(100_000)));
    all.push((
        request().with_content_type("application/msgpack".into()),
        vec![0x91; 100_000],
    ));
    all
}

fn question(method: &str, reply_to: &str) -> BasicProperties {
    request()
        .with_type(method.into())
        .with_reply_to(reply_to.into())
}

/// Messages for the queues of cancel notices.
fn notices() -> Vec<(BasicProperties, Vec<u8>)> {
    let cancel = || {
        BasicProperties::default()
            .with_type("cancel".into())
            .with_content_type("application/msgpack".into())
            .with_reply_to("rpc.reply.none".into())
    };
    let ids = |count: u32| {
        [
            &[0xdd][..],
            &count.to_be_bytes(),
            &b"\xa1a".repeat(count as usize),
        ]
        .concat()
    };
    vec![
        (cancel(), ids(1_000_000)),
        (cancel(), ids(256)),
        (cancel(), vec![0xdd, 0xff, 0xff, 0xff, 0xff]),
        (cancel(), vec![0x91; 100_000]),
        (BasicProperties::default(), vec![0; 1 << 20]),
    ]
}

/// Questions to instances: malformed, and with answers to queues of others.
fn questions(round: u32, queue: &str) -> Vec<(BasicProperties, Vec<u8>)> {
    let mut all = Vec::new();
    for kind in ["rpc.ping", "rpc.describe", "rpc.stats", "rpc.later", "rpc."] {
        let to_nowhere = || question(kind, "rpc.reply.none");
        // Answers must not reach a request queue, where they would be requests.
        let dead_letters = format!("{queue}.dead");
        for reply_to in [queue, &dead_letters, "rpc.instance.none", ""] {
            all.push((question(kind, reply_to), b"{}".to_vec()));
        }
        let long = format!(r#"{{"service":"{}"}}"#, "x".repeat(100_000));
        all.push((to_nowhere(), long.into_bytes()));
        all.push((to_nowhere(), b"[".repeat(4_000)));
        all.push((
            to_nowhere().with_content_type("text/xml".into()),
            Vec::new(),
        ));
        let mut expired = FieldTable::default();
        expired.insert("rpc-deadline".into(), AMQPValue::LongLongInt(0));
        all.push((to_nowhere().with_headers(expired), b"{}".to_vec()));
        if round.is_multiple_of(5) {
            all.push((to_nowhere(), vec![b' '; 1 << 20]));
        }
    }
    let forged = AMQPValue::LongString("x".into());
    all.push((with_header("rpc-instance", forged), ARGUMENTS.to_vec()));
    all
}

/// Calls to all instances that do no work, more than the servers take.
fn calls_to_all(round: u32) -> Vec<(BasicProperties, Vec<u8>)> {
    let call = |number: u32| {
        let id = format!("{round}-{number}");
        (request().with_correlation_id(id.into()), ARGUMENTS.to_vec())
    };
    let mut all: Vec<_> = (0..150).map(call).collect();
    all.push((
        hostile::batched().with_reply_to("rpc.reply.none".into()),
        vec![0x91; 100_000],
    ));
    all.push((BasicProperties::default(), vec![0; 1 << 20]));
    all
}

/// The methods with streams, and arguments for many items. They come with pauses, because a service that makes items as fast as it can takes the
/// time of others with any caller.
const STREAMING: [(&str, &[u8]); 2] = [("numbers", b"[1000000, 50]"), ("in_order", b"[]")];

/// A request for a stream, with its terms: window in items and bytes, and silence in milliseconds.
fn stream_request(method: &str, terms: [i64; 3], reply_to: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in ["rpc-items", "rpc-bytes", "rpc-silence"].iter().zip(terms) {
        headers.insert((*name).into(), AMQPValue::LongLongInt(value));
    }
    let request = request().with_type(method.into()).with_headers(headers);
    request.with_reply_to(reply_to.into())
}

/// Requests for streams with terms, addresses and properties that no client sends.
fn streams() -> Vec<(BasicProperties, Vec<u8>)> {
    let mut all = Vec::new();
    for (method, arguments) in STREAMING {
        for terms in [
            [-1, 1, 1],
            [0, 0, 0],
            [1, 1, 1],
            [i64::MAX; 3],
            [i64::MIN; 3],
        ] {
            let request = stream_request(method, terms, "rpc.reply.none");
            all.push((request, arguments.to_vec()));
        }
        let request = stream_request(method, [1, 1, 30_000], "rpc.instance.none");
        all.push((request, arguments.to_vec()));
        let of_stream = self::request().with_type(method.into());
        all.push((of_stream.with_message_id("1".into()), arguments.to_vec()));
    }
    all
}

/// Messages of streams that never were.
fn frames() -> Vec<(BasicProperties, Vec<u8>)> {
    const KINDS: [&str; 10] = [
        "accepted", "started", "items", "end", "error", "fault", "credit", "alive", "stop",
        "result",
    ];
    let bodies: [&[u8]; 4] = [b"", b"\0\0\0\x01\0", b"\xff\xff\xff\xff\0", &[0; 4_096]];
    let mut all = Vec::new();
    for (number, kind) in KINDS.into_iter().enumerate() {
        let terms = stream_request(kind, [i64::MAX, -1, 1], "rpc.instance.none.none");
        let mut headers = terms.headers().clone().unwrap_or_default();
        headers.insert("rpc-sequence".into(), AMQPValue::LongLongInt(i64::MAX));
        headers.insert("rpc-instance".into(), AMQPValue::LongString("none".into()));
        let properties = terms
            .with_headers(headers)
            .with_message_id("00000000-0000-4000-8000-000000000000".into())
            .with_correlation_id("00000000-0000-4000-8000-000000000000".into());
        all.push((properties, bodies[number % bodies.len()].to_vec()));
    }
    all
}

/// Messages for a reply queue.
fn replies(round: u32) -> Vec<(BasicProperties, Vec<u8>)> {
    let reply = |kind: &str| {
        BasicProperties::default()
            .with_type(kind.into())
            .with_content_type("application/msgpack".into())
            .with_correlation_id("00000000-0000-4000-8000-000000000000".into())
    };
    let mut all = vec![
        (BasicProperties::default(), Vec::new()),
        (
            reply("result").with_correlation_id("no id".into()),
            vec![0xc0],
        ),
        (reply("fault"), vec![0xc1]),
        (
            reply("fault"),
            b"\x82\xa4code\xa1\n\xa7message\xa1\n".to_vec(),
        ),
        (reply("result"), vec![0x91; 100_000]),
        (reply("unknown"), vec![0xff; 1 << 20]),
        (with_header("tables", tiny_tables(15_000)), vec![0xc0]),
    ];
    for (_, body) in hostile::batches() {
        if body.len() < 1 << 20 || round.is_multiple_of(5) {
            all.push((hostile::batched(), body));
        }
    }
    all
}
