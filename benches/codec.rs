//! Bodies: the cost of encoding and decoding several kinds of values, compared with the libraries alone.

use std::future::Future;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rpc_core::{ContentType, Response, RpcError, rpc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

/// Returns its argument.
#[rpc]
trait Mirror {
    async fn number(n: u64) -> u64;
    async fn blob(body: Bytes) -> Bytes;
    async fn order(order: Order) -> Order;
}

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    customer: String,
    express: bool,
    items: Vec<Item>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Item {
    name: String,
    amount: u32,
    price: f64,
}

struct Mirroring;

impl Mirror for Mirroring {
    async fn number(&self, n: u64) -> u64 {
        n
    }

    async fn blob(&self, body: Bytes) -> Bytes {
        body
    }

    async fn order(&self, order: Order) -> Order {
        order
    }
}

fn order() -> Order {
    let item = |amount| Item {
        name: format!("item {amount}"),
        amount,
        price: 9.99,
    };
    Order {
        customer: "Ada Lovelace".to_owned(),
        express: true,
        items: (0..20).map(item).collect(),
    }
}

fn codec(criterion: &mut Criterion) {
    let mirror = MirrorClient::new(MirrorDispatcher::new(Mirroring));
    shape(criterion, "a number", 30, |n| mirror.number(n));
    let bytes = Bytes::from(vec![b'x'; 1024]);
    shape(criterion, "1 KiB of bytes", bytes, |body| mirror.blob(body));
    shape(criterion, "an order of 20 items", order(), |order| {
        mirror.order(order)
    });
}

/// Measures `call`, which encodes and decodes the value as an argument and as a result. Without a broker it does little else.
fn shape<T, F>(criterion: &mut Criterion, name: &str, value: T, call: impl Fn(T) -> F)
where
    T: Clone + Serialize + DeserializeOwned,
    F: Future<Output = Result<T, RpcError>>,
{
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group(name);
    for content_type in [ContentType::MessagePack, ContentType::Json] {
        group.bench_function(BenchmarkId::new("written as", content_type), |bencher| {
            bencher.iter(|| Response::result(content_type, black_box(&value)));
        });
    }
    group.bench_function("written by rmp_serde", |bencher| {
        bencher.iter(|| rmp_serde::to_vec_named(black_box(&value)));
    });
    group.bench_function("written by serde_json", |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(&value)));
    });
    group.bench_function("there and back", |bencher| {
        bencher.iter(|| runtime.block_on(call(black_box(value.clone()))));
    });
    let there = |value: &T| -> T {
        let body = rmp_serde::to_vec_named(value).expect("a value that can be written");
        rmp_serde::from_slice(&body).expect("what was written can be read")
    };
    group.bench_function("there and back by rmp_serde", |bencher| {
        bencher.iter(|| there(&there(&black_box(value.clone()))));
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
