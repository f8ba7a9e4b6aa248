//! A call without RabbitMQ: through the stub and the dispatcher, and through the embedded broker.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use rpc_benches::contender::Traffic;
use rpc_benches::contender::ours::{EchoClient, EchoDispatcher, Echoing, serve};
use rpc_core::Connection;
use tokio::runtime::{Builder, Runtime};

fn direct(criterion: &mut Criterion) {
    let client = EchoClient::new(EchoDispatcher::new(Echoing));
    let body = Bytes::from_static(b"0123456789");
    let runtime = runtime();
    criterion.bench_function("direct dispatch", |bencher| {
        bencher.iter(|| black_box(runtime.block_on(client.echo(body.clone()))));
    });
}

fn embedded(criterion: &mut Criterion) {
    let runtime = runtime();
    let (connection, _server) = runtime.block_on(async {
        let connection = Connection::open("memory:")
            .await
            .expect("an embedded broker");
        let server = serve(&connection, "dispatch", Traffic::default(), 1)
            .await
            .expect("a server");
        (connection, server)
    });
    let client = EchoClient::new(connection.client()).with_queue("dispatch-0");
    let body = Bytes::from_static(b"0123456789");
    criterion.bench_function("embedded broker", |bencher| {
        bencher.iter(|| black_box(runtime.block_on(client.echo(body.clone()))));
    });
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

criterion_group!(benches, direct, embedded);
criterion_main!(benches);
