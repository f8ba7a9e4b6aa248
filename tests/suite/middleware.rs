//! tower layers on both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_core::{ErrorKind, Request, RpcError};
use tower::ServiceBuilder;
use tower::limit::ConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;
use tower::util::MapRequestLayer;

use super::BenchClient;
use crate::broker;

#[tokio::test]
async fn a_layer_of_the_server_sees_requests_and_may_refuse_them() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let count = tower::filter::FilterLayer::new(move |request: Request| {
        counted.fetch_add(1, Ordering::SeqCst);
        match request.headers().get("tenant") {
            Some(_) => Ok(request),
            None => Err(RpcError::new(ErrorKind::BadRequest, "no tenant")),
        }
    });
    let setup = broker()
        .await
        .bench_with(|server| server.layer(count))
        .await;
    let error = setup.bench.add(1, 2).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::BadRequest, "no tenant".to_owned())
    );
    assert_eq!(
        setup.bench.add(1, 2).header("tenant", "a").await.unwrap(),
        3
    );
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn layers_of_the_server_run_in_the_order_they_were_added() {
    let append = |text: &'static str| {
        MapRequestLayer::new(move |mut request: Request| {
            let so_far = request
                .headers()
                .get("tenant")
                .and_then(|value| value.as_str())
                .unwrap_or_default()
                .to_owned();
            request.headers_mut().insert("tenant", so_far + text);
            request
        })
    };
    let setup = broker()
        .await
        .bench_with(|server| server.layer(append("a")).layer(append("b")))
        .await;
    assert_eq!(
        setup.bench.describe().await.unwrap().tenant.as_deref(),
        Some("ab")
    );
}

#[tokio::test]
async fn a_panicking_layer_is_a_fault() {
    let panicking = MapRequestLayer::new(|_: Request| -> Request { panic!("as it was told to") });
    let setup = broker()
        .await
        .bench_with(|server| server.layer(panicking))
        .await;
    assert_eq!(
        setup.bench.add(1, 2).await.unwrap_err().kind(),
        ErrorKind::Panicked
    );
}

#[tokio::test]
async fn layers_of_towers_own_go_around_a_client() {
    let setup = broker().await.bench().await;
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_millis(100)))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(setup.connection.client());
    let bench = BenchClient::new(service).with_queue(&setup.queue);
    assert_eq!(bench.add(1, 2).await.unwrap(), 3);
    let error = bench.hold().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let error = bench
        .hold()
        .timeout(Duration::from_millis(10))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}
