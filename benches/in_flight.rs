//! The table of waiting calls: the cost of a call while others wait on the same client.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rpc_benches::contender::ours::{EchoClient, serve};
use rpc_benches::contender::{Outcome, Traffic};
use rpc_core::testing::EmbeddedBroker;
use rpc_core::{Client, Connection, ServerHandle};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

/// Timeout that is longer than a benchmark.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Client with waiting calls, and a server that answers its other calls.
struct Setting {
    client: EchoClient<Client>,
    _server: ServerHandle,
    _waiting: JoinSet<()>,
}

impl Setting {
    async fn new(waiting: usize) -> Outcome<Self> {
        let broker = EmbeddedBroker::named(format!("in-flight-{waiting}"));
        let connection = Connection::open(&broker.url()).await?;
        let traffic = Traffic::default();
        let server = serve(&connection, "served", traffic, 1).await?;
        // The queue remains, without a consumer.
        serve(&connection, "left", traffic, 1)
            .await?
            .shutdown()
            .await?;
        let client = connection.client_builder().timeout(TIMEOUT).build();
        let client = EchoClient::new(client);
        let left = client.clone().with_queue("left-0");
        let mut calls = JoinSet::new();
        for _ in 0..waiting {
            let call = left.echo(Bytes::from_static(b"0123456789"));
            calls.spawn(async move {
                call.await.expect_err("no server answers");
            });
        }
        let sent = async {
            while broker
                .queue("left-0")
                .is_none_or(|queue| queue.ready < waiting)
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TIMEOUT, sent).await?;
        Ok(Self {
            client: client.with_queue("served-0"),
            _server: server,
            _waiting: calls,
        })
    }
}

fn in_flight(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let body = Bytes::from_static(b"0123456789");
    let mut group = criterion.benchmark_group("a call beside others that wait");
    for waiting in [0, 1_000, 100_000] {
        let setting = runtime
            .block_on(Setting::new(waiting))
            .expect("calls that wait");
        group.bench_function(BenchmarkId::from_parameter(waiting), |bencher| {
            let call = || setting.client.echo(body.clone());
            bencher.iter(|| black_box(runtime.block_on(call())));
        });
    }
    group.finish();
}

criterion_group!(benches, in_flight);
criterion_main!(benches);
