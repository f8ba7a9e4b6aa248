//! Flow control: a slow reader holds up the sender, and nothing else.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use rpc_tests::eventually;
use tokio::time::Instant;

use super::{Setup, next};

#[tokio::test]
async fn a_reader_that_stops_reading_stops_the_handler() {
    let setup = Setup::new().await;
    let mut items = setup.feed.endless(10).await.unwrap();
    let produced = setup.probe.settled(super::Probe::produced).await;
    assert!((1_024..=1_025).contains(&produced), "{produced}");
    for _ in 0..1_024 {
        next(&mut items).await.unwrap().unwrap();
    }
    eventually("the handler goes on", async || {
        (setup.probe.produced() > 1_500).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_window_counts_items_and_bytes() {
    let setup = Setup::new().await;
    let _items = setup.feed.endless(10).window(8).await.unwrap();
    let produced = setup.probe.settled(super::Probe::produced).await;
    assert!((8..=9).contains(&produced), "{produced}");

    // 1 MiB holds fifteen of these, with their prefixes.
    let setup = Setup::new().await;
    let mut items = setup.feed.endless(64 << 10).await.unwrap();
    let produced = setup.probe.settled(super::Probe::produced).await;
    assert!((15..=17).contains(&produced), "{produced}");
    for _ in 0..100 {
        assert_eq!(next(&mut items).await.unwrap().unwrap().len(), 64 << 10);
    }
}

#[tokio::test]
async fn an_item_may_be_longer_than_the_window() {
    let setup = Setup::new().await;
    let mut items = setup.feed.endless(3 << 20).window(2).await.unwrap();
    for _ in 0..5 {
        assert_eq!(next(&mut items).await.unwrap().unwrap().len(), 3 << 20);
    }
}

#[tokio::test]
async fn a_handler_that_stops_taking_stops_the_caller() {
    let setup = Setup::with(|server| server.window(8), |client| client).await;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = sent.clone();
    let numbers = stream::iter(0..100).inspect(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    });
    let call = tokio::spawn(setup.feed.slowly(numbers));
    setup.probe.until_begun(1).await;
    let sent_so_far = || sent.load(std::sync::atomic::Ordering::SeqCst);
    let stopped = setup.probe.settled(|_| sent_so_far()).await;
    assert!((8..=9).contains(&stopped), "{stopped}");
    setup.probe.release(101);
    assert_eq!(call.await.unwrap().unwrap(), (0..100).sum::<u64>());
}

#[tokio::test]
async fn calls_keep_their_speed_beside_a_stream_that_is_not_read() {
    let setup = Setup::new().await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(setup.feed.endless(1 << 10).await.unwrap());
    }
    let begun = Instant::now();
    for n in 0..100 {
        assert_eq!(setup.feed.single(n).await.unwrap(), n);
    }
    // Far more than they take, and far less than they would wait for a reader.
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let setup = Setup::new().await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let items = setup.feed.count(500).await.unwrap();
        readers.spawn(super::all(items));
    }
    while let Some(read) = readers.join_next().await {
        let (read, error) = read.unwrap();
        assert!(error.is_none());
        assert_eq!(read.len(), 500);
    }
}

#[tokio::test]
async fn a_stream_takes_no_place_of_the_prefetch() {
    let setup = Setup::with(|server| server.prefetch(1).concurrency(1), |client| client).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut items = setup.feed.held().await.unwrap();
        assert_eq!(next(&mut items).await.unwrap().unwrap(), 0);
        open.push(items);
    }
    assert_eq!(setup.feed.single(1).await.unwrap(), 1);
    let said = setup
        .feed
        .echo(stream::iter(["a".to_owned()]).chain(stream::pending()));
    let mut heard = said.await.unwrap();
    assert_eq!(next(&mut heard).await.unwrap().unwrap(), "a");
    assert_eq!(setup.feed.single(2).await.unwrap(), 2);
}
