//! The limits of watchers, in paused time.

use std::time::Duration;

use futures_util::FutureExt;
use rpc_core::instances::TapEventKind;
use rpc_core::{Tap, TapQuery};
use tokio::time::Instant;

use crate::broker;
use crate::suite::{Setup, client};

/// A served sample service, and a watcher of its calls.
async fn watched(options: impl FnOnce(TapQuery) -> TapQuery) -> (Setup, Tap) {
    let broker = broker().await;
    let setup = broker.sample_with(|server| server.tap(true)).await;
    let query = client(&setup.connection).tap("Sample").expect(1);
    let tap = options(query).await.unwrap();
    (setup, tap)
}

#[tokio::test(start_paused = true)]
async fn a_server_ends_a_tap_after_ten_minutes_at_most() {
    let minute = Duration::from_secs(60);
    for (set, expected) in [
        (None, minute),
        (Some(3 * minute), 3 * minute),
        (Some(60 * minute), 10 * minute),
        (Some(Duration::MAX), 10 * minute),
    ] {
        let (_setup, mut tap) = watched(|query| match set {
            None => query,
            Some(duration) => query.duration(duration),
        })
        .await;
        let started = Instant::now();
        let end = tap.next().await.unwrap();
        assert_eq!(end.kind, TapEventKind::Ended { error: None });
        assert!(tap.next().await.is_none());
        let lasted = started.elapsed();
        let late = lasted.checked_sub(expected).unwrap();
        assert!(late < Duration::from_secs(1), "{lasted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_shows_a_thousand_events_in_a_second() {
    const CALLS: u64 = 1000;
    let (setup, mut tap) = watched(|query| query).await;
    let (mut shown, mut skipped) = (0, 0);
    let mut count = |kind| match kind {
        TapEventKind::Skipped { events } => skipped += events,
        _ => shown += 1,
    };
    let started = Instant::now();
    for n in 0..CALLS {
        assert_eq!(setup.sample.add(n, n).await.unwrap(), n + n);
        while let Some(event) = tap.next().now_or_never() {
            count(event.unwrap().kind);
        }
    }
    let lasted = started.elapsed();
    tokio::time::advance(Duration::from_secs(10)).await;
    // One more call shows that the limit does not hold for longer.
    setup.sample.double(1).await.unwrap();
    loop {
        let event = tap.next().await.unwrap();
        if event
            .call
            .is_some_and(|call| call.method.as_deref() == Some("double"))
        {
            break;
        }
        count(event.kind);
    }
    assert_eq!(shown + skipped, 2 * CALLS);
    let allowed = 1000 + u64::try_from(lasted.as_millis()).unwrap();
    assert!((1000..=allowed).contains(&shown), "{shown} in {lasted:?}");
    assert!(skipped > 0);
}
