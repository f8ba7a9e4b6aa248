//! Streams of one contender, in a process of its own.
//!
//! ```text
//! streaming server <contender> <url> <queue>
//! streaming client <contender> <url> <queue> <items> <bytes>
//! streaming first <url> <queue> <rounds>
//! streaming idle <url> <queue> <streams> <seconds>
//! ```
//!
//! Contenders are `ours`, `by-hand` and `grpc`. A server prints `ready`, and that of `grpc` its address. A client prints a report as JSON.
//! `first` compares the first item of a stream with a single call. `idle` counts the memory of open streams, on both sides of
//! this process, and measures single calls beside them.

use std::alloc::System;
use std::time::{Duration, Instant};

use rpc_benches::contender::Outcome;
use rpc_benches::streaming::ours::{ItemsClient, read};
use rpc_benches::streaming::{Times, by_hand, grpc, measure, ours};
use rpc_core::Connection;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Items that are read before the measurement.
const WARM_UP: u64 = 20_000;

#[tokio::main]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", "ours", url, queue] => {
            let connection = Connection::open(url).await?;
            let _server = ours::serve(&connection, queue).await?;
            println!("ready");
            std::future::pending().await
        }
        ["server", "by-hand", url, queue] => by_hand::serve(url, queue, || println!("ready")).await,
        ["server", "grpc", _, _] => grpc::serve(|address| println!("ready {address}")).await,
        ["client", contender, url, queue, items, len] => {
            let (items, len) = (items.parse()?, len.parse()?);
            let report = match contender {
                "ours" => {
                    let connection = Connection::open(url).await?;
                    let client = ItemsClient::new(connection.client()).with_queue(queue);
                    read(&client, WARM_UP, len).await?;
                    measure(items, read(&client, items, len)).await?
                }
                "by-hand" => {
                    let mut client = by_hand::Client::connect(url, queue).await?;
                    client.read(WARM_UP, len).await?;
                    measure(items, client.read(items, len)).await?
                }
                "grpc" => {
                    let mut client = grpc::Client::connect(url).await?;
                    client.read(WARM_UP, len).await?;
                    measure(items, client.read(items, len)).await?
                }
                _ => return Err(format!("there is no contender '{contender}'").into()),
            };
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
        ["first", url, queue, rounds] => first(url, queue, rounds.parse()?).await,
        ["idle", url, queue, streams, seconds] => {
            idle(url, queue, streams.parse()?, seconds.parse()?).await
        }
        _ => Err("expected server, client, first or idle: see the head of this program".into()),
    }
}

/// Measures the first item of a stream and a single call in turns.
async fn first(url: &str, queue: &str, rounds: usize) -> Outcome {
    let connection = Connection::open(url).await?;
    let client = ItemsClient::new(connection.client()).with_queue(queue);
    let (mut items, mut calls) = (Times::default(), Times::default());
    for round in 0..rounds + 100 {
        let warm = round >= 100;
        let mut unused = Times::default();
        let (items, calls) = match warm {
            true => (&mut items, &mut calls),
            false => (&mut unused.clone(), &mut unused),
        };
        let stream = items
            .measure(async {
                let mut stream = client.items(1, 10).await?;
                stream.next().await.ok_or("no item")??;
                Ok(stream)
            })
            .await?;
        drop(stream);
        calls.measure(async { Ok(client.item(10).await?) }).await?;
    }
    println!(
        "{}",
        json!({"item": items.percentile(0.5), "call": calls.percentile(0.5)})
    );
    Ok(())
}

/// Measures open streams, and single calls without and beside them.
async fn idle(url: &str, queue: &str, streams: usize, seconds: u64) -> Outcome {
    let serving = Connection::open(url).await?;
    let _server = ours::serve(&serving, queue).await?;
    let connection = Connection::open(url).await?;
    let client = ItemsClient::new(connection.client()).with_queue(queue);
    let window = Duration::from_secs(seconds);
    let alone = calls(&client, window).await?;
    let before = allocated();
    let mut open = Vec::with_capacity(streams);
    for _ in 0..streams {
        let mut stream = client.idle().await?;
        stream.next().await.ok_or("no item")??;
        open.push(stream);
    }
    let each = allocated().saturating_sub(before) / streams;
    let beside = calls(&client, window).await?;
    println!(
        "{}",
        json!({
            "bytes": each,
            "alone": {"p50": alone.percentile(0.5), "p99": alone.percentile(0.99)},
            "beside": {"p50": beside.percentile(0.5), "p99": beside.percentile(0.99)},
        })
    );
    Ok(())
}

async fn calls(client: &ItemsClient, window: Duration) -> Outcome<Times> {
    let mut times = Times::default();
    let begun = Instant::now();
    while begun.elapsed() < window {
        times.measure(async { Ok(client.item(10).await?) }).await?;
    }
    Ok(times)
}

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}
