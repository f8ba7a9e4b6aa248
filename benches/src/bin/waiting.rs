//! Memory of a waiting call: many calls on one client, to a server that answers none of them.
//!
//! ```text
//! waiting <url> [<calls>]
//! ```
//!
//! Counts the allocations of a call and its task, and the growth of the process. The growth includes memory that the allocator
//! and lapin keep.

use std::alloc::System;
use std::fs;
use std::time::Duration;

use bytes::Bytes;
use rpc_benches::contender::Outcome;
use rpc_benches::contender::ours::{Echo, EchoClient, EchoDispatcher};
use rpc_core::{Connection, Server};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Handler that never returns.
struct Silent;

impl Echo for Silent {
    async fn echo(&self, _: Bytes) -> Bytes {
        std::future::pending().await
    }

    async fn echo_again(&self, _: Bytes) -> Bytes {
        std::future::pending().await
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("expected the URL of a broker")?;
    let calls = match arguments.next() {
        Some(number) => number.parse()?,
        None => 100_000,
    };

    // Most requests stay in the queue. The server has a connection of its own, whose memory does not matter here.
    let serving = Connection::open(&url).await?;
    let dispatcher = EchoDispatcher::new(Silent).with_queue("waiting");
    let _server = Server::builder(&serving)
        .service(dispatcher)
        .prefetch(1)
        .build()
        .start()
        .await?;
    let connection = Connection::open(&url).await?;
    let client = connection
        .client_builder()
        .timeout(Duration::from_secs(600))
        .build();
    let client = EchoClient::new(client).with_queue("waiting");

    let body = Bytes::from_static(b"0123456789");
    let call = || tokio::spawn(client.echo(body.clone()));
    let _first = call();
    settle().await;
    let before = used()?;
    let waiting: Vec<_> = (0..calls).map(|_| call()).collect();
    settle().await;
    let after = used()?;

    let over = waiting.iter().filter(|call| call.is_finished()).count();
    let each = |after: usize, before: usize| after.saturating_sub(before) / calls;
    println!(
        "{calls} calls wait ({over} ended): {} bytes allocated for each, task and handle included; resident: {} bytes",
        each(after.allocated, before.allocated),
        each(after.resident, before.resident)
    );
    let tasks: Vec<_> = (0..calls)
        .map(|_| tokio::spawn(std::future::pending::<()>()))
        .collect();
    let with_tasks = used()?;
    println!(
        "of which {} bytes for an empty task and its handle",
        each(with_tasks.allocated, after.allocated)
    );
    drop(tasks);
    Ok(())
}

/// Waits until allocations stop, because every request has been written.
async fn settle() {
    let mut last = ALLOCATOR.stats();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let stats = ALLOCATOR.stats();
        // Heartbeats and timers continue.
        if stats.allocations - last.allocations < 1000 {
            return;
        }
        last = stats;
    }
}

/// Returns the resident memory of this process in bytes.
struct Memory {
    allocated: usize,
    resident: usize,
}

fn used() -> Outcome<Memory> {
    let stats = ALLOCATOR.stats();
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = resident
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .ok_or("no VmRSS")?;
    Ok(Memory {
        allocated: stats.bytes_allocated - stats.bytes_deallocated,
        resident: kibibytes.parse::<usize>()? * 1024,
    })
}
