//! Bodies: what MessagePack and JSON cost for arguments of several shapes.
//!
//! The codec itself is private. This is what it does for a body, through the same crates.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Number {
    n: u64,
}

#[derive(Serialize, Deserialize)]
struct Blob {
    body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Order {
    customer: String,
    express: bool,
    items: Vec<Item>,
}

#[derive(Serialize, Deserialize)]
struct Item {
    name: String,
    amount: u32,
    price: f64,
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
    both(criterion, "a number", &Number { n: 30 });
    both(
        criterion,
        "1 KiB of bytes",
        &Blob {
            body: vec![b'x'; 1024].into(),
        },
    );
    both(criterion, "an order of 20 items", &order());
}

fn both<T: Serialize + DeserializeOwned>(criterion: &mut Criterion, name: &str, value: &T) {
    let packed = rmp_serde::to_vec_named(value).expect("a value that can be written");
    let json = serde_json::to_vec(value).expect("a value that can be written");
    let mut group = criterion.benchmark_group(name);
    group.bench_function(BenchmarkId::new("MessagePack", "write"), |bencher| {
        bencher.iter(|| rmp_serde::to_vec_named(black_box(value)));
    });
    group.bench_function(BenchmarkId::new("MessagePack", "read"), |bencher| {
        bencher.iter(|| rmp_serde::from_slice::<T>(black_box(&packed)));
    });
    group.bench_function(BenchmarkId::new("JSON", "write"), |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(value)));
    });
    group.bench_function(BenchmarkId::new("JSON", "read"), |bencher| {
        bencher.iter(|| serde_json::from_slice::<T>(black_box(&json)));
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
