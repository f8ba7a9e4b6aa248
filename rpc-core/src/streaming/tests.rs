//! Both sides of a stream, joined without a broker.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::error::ErrorKind;
use crate::message::{ItemStream, StreamError};
use crate::telemetry::StreamMeter;
use crate::wire::Amount;

const SECOND: Duration = Duration::from_secs(1);

fn meter() -> StreamMeter {
    StreamMeter::of_server("Service", "method")
}

fn limits() -> Limits {
    Limits {
        silence: 30 * SECOND,
        deadline: None,
        result_within: None,
    }
}

fn window(items: u64, bytes: u64) -> Amount {
    Amount { items, bytes }
}

/// Way to the inbox of the other side, by a queue in memory.
#[derive(Clone)]
struct Way {
    frames: mpsc::UnboundedSender<Frame>,
    blocked: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
}

impl Outlet for Way {
    async fn send(&self, frame: Frame) -> Result<(), RpcError> {
        if let Frame::Items { body, .. } = &frame {
            self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        }
        self.frames
            .send(frame)
            .map_err(|_| RpcError::new(ErrorKind::Disconnected, "gone"))
    }

    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    fn max_len(&self) -> usize {
        1 << 16
    }
}

/// Returns a way, and the messages that take it.
fn way() -> (Way, mpsc::UnboundedReceiver<Frame>) {
    let (frames, sent) = mpsc::unbounded_channel();
    let way = Way {
        frames,
        blocked: Arc::default(),
        bytes: Arc::default(),
    };
    (way, sent)
}

/// A server that sends items to a caller.
struct Pair {
    caller: Inbox,
    /// The way of the server.
    way: Way,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Pair {
    fn new(receives: Amount, items: ItemStream) -> Self {
        let (caller, server) = (
            Inbox::new(Side::Caller, Some(receives), meter()),
            Inbox::new(Side::Server, None, meter()),
        );
        server.open(Some(receives));
        caller.open(None);
        let (to_caller, mut sent) = way();
        let (to_server, mut controls) = way();
        let mut tasks = Vec::new();
        let mut spawn = |task| tasks.push(AbortOnDropHandle::new(tokio::spawn(task)));
        let (inbox, outlet) = (server.clone(), to_caller.clone());
        spawn(
            async move {
                tokio::select! {
                    sent = send_items(&inbox, &outlet, items) => drop(sent),
                    _ = send_controls(&inbox, limits(), &outlet) => {}
                }
            }
            .boxed(),
        );
        let inbox = caller.clone();
        spawn(
            async move {
                send_controls(&inbox, limits(), &to_server).await;
            }
            .boxed(),
        );
        let inbox = caller.clone();
        spawn(
            async move {
                while let Some(frame) = sent.recv().await {
                    inbox.take(frame);
                }
            }
            .boxed(),
        );
        spawn(
            async move {
                while let Some(frame) = controls.recv().await {
                    server.take(frame);
                }
            }
            .boxed(),
        );
        Self {
            caller,
            way: to_caller,
            _tasks: tasks,
        }
    }
}

fn numbers(numbers: std::ops::Range<u64>) -> ItemStream {
    stream::iter(numbers)
        .map(|number| Ok(Bytes::from(number.to_string())))
        .boxed()
}

/// Reads a stream to its end.
async fn all(mut items: ItemStream) -> (Vec<String>, Option<StreamError>) {
    let mut read = Vec::new();
    while let Some(item) = items.next().await {
        match item {
            Ok(item) => read.push(String::from_utf8(item.to_vec()).unwrap()),
            Err(error) => {
                assert!(items.next().await.is_none());
                return (read, Some(error));
            }
        }
    }
    (read, None)
}

fn texts(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn all_items_arrive_in_order_through_any_window() {
    for window in [
        window(1, 1),
        window(2, 3),
        window(7, 1 << 20),
        DEFAULT_WINDOW,
    ] {
        let pair = Pair::new(window, numbers(0..3_000));
        let (read, error) = all(pair.caller.reader()).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(read, texts(0..3_000), "{window:?}");
    }
}

#[tokio::test]
async fn what_came_before_an_error_is_read_before_it() {
    let own = stream::iter([Err(StreamError::Own(Bytes::from_static(b"own")))]);
    let pair = Pair::new(window(3, 100), numbers(0..10).chain(own).boxed());
    let (read, error) = all(pair.caller.reader()).await;
    assert_eq!(read, texts(0..10));
    assert!(matches!(error, Some(StreamError::Own(own)) if &own[..] == b"own"));

    let pair = Pair::new(
        DEFAULT_WINDOW,
        numbers(0..10).chain(stream::pending()).boxed(),
    );
    let mut reader = pair.caller.reader();
    reader.next().await.unwrap().unwrap();
    pair.caller
        .fail(RpcError::new(ErrorKind::Disconnected, "cut"));
    let (read, error) = all(reader).await;
    assert_eq!(read, texts(1..10));
    assert!(
        matches!(error, Some(StreamError::Rpc(error)) if error.kind() == ErrorKind::Disconnected)
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_reading_stops_the_source() {
    let produced = Arc::new(AtomicU64::new(0));
    let count = produced.clone();
    let endless = stream::repeat_with(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Bytes::from_static(b"0123456789"))
    });
    let pair = Pair::new(window(1_000_000, 1_000), endless.boxed());
    let mut reader = pair.caller.reader();
    tokio::time::sleep(SECOND).await;
    // One item more is held back until there is credit.
    assert_eq!(produced.load(Ordering::Relaxed), 101);
    for _ in 0..100 {
        reader.next().await.unwrap().unwrap();
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(produced.load(Ordering::Relaxed), 201);
}

#[tokio::test]
async fn items_that_are_ready_together_share_a_message() {
    let (way, mut sent) = way();
    let server = Inbox::new(Side::Server, None, meter());
    server.open(Some(DEFAULT_WINDOW));
    send_items(&server, &way, numbers(0..600)).await.unwrap();
    let mut messages = 0;
    while let Ok(frame) = sent.try_recv() {
        messages += 1;
        if let Frame::End { items, error } = frame {
            assert_eq!((items, error.is_none()), (600, true));
        }
    }
    // A slow machine may send shorter ones.
    assert!(messages < 60, "{messages}");
    assert_eq!(server.sent(), 600);
}

#[tokio::test]
async fn an_item_that_is_too_long_ends_the_stream() {
    let long = stream::iter([Ok(Bytes::from(vec![0; 1 << 16]))]);
    let pair = Pair::new(DEFAULT_WINDOW, numbers(0..1).chain(long).boxed());
    let (read, error) = all(pair.caller.reader()).await;
    assert_eq!(read, texts(0..1));
    assert!(matches!(error, Some(StreamError::Rpc(error)) if error.kind() == ErrorKind::TooLarge));
}

#[tokio::test]
async fn a_source_that_is_always_ready_leaves_time_for_other_tasks() {
    let (way, _sent) = way();
    let server = Inbox::new(Side::Server, None, meter());
    server.open(Some(window(u64::MAX, u64::MAX)));
    let endless = stream::repeat_with(|| Ok(Bytes::from_static(b"0123456789")));
    let sending = send_items(&server, &way, endless.boxed());
    let other = tokio::spawn(tokio::task::yield_now());
    tokio::select! {
        _ = sending => unreachable!("the source has no end"),
        ended = other => ended.unwrap(),
    }
}

#[tokio::test]
async fn a_violation_of_the_rules_ends_the_stream_with_an_error() {
    let items = |first| Frame::Items {
        first,
        body: Bytes::from_static(b"\0\0\0\x01a\0\0\0\x01b"),
    };
    let end = |items| Frame::End { items, error: None };
    let cut = Frame::Items {
        first: 0,
        body: Bytes::from_static(b"\0\0\0\x09a"),
    };
    for (frames, text) in [
        (vec![items(0), items(3)], "item 2 was expected"),
        (vec![items(0), items(0)], "item 2 was expected"),
        (vec![items(0), end(3)], "item 2 was expected"),
        (vec![items(0), items(2)], "room"),
        (vec![cut], "malformed"),
    ] {
        let caller = Inbox::new(Side::Caller, Some(window(3, 100)), meter());
        for frame in frames {
            caller.take(frame);
        }
        let (way, _sent) = way();
        let ended = watch(&caller, limits(), &way).await;
        assert!(
            matches!(&ended, End::Failed(error) if error.message().contains(text)),
            "{ended:?}"
        );
        let (_, error) = all(caller.reader()).await;
        let Some(StreamError::Rpc(error)) = error else {
            panic!("no error: {error:?}");
        };
        assert_eq!(error.kind(), ErrorKind::BadReply);
        assert!(error.may_have_executed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_side_gives_signs_of_life_and_credit_counts_as_one() {
    let (way, mut sent) = way();
    let inbox = Inbox::new(Side::Caller, Some(window(2, 100)), meter());
    inbox.open(None);
    let begun = Instant::now();
    let keeping = inbox.clone();
    let _keeping = AbortOnDropHandle::new(tokio::spawn(async move {
        send_controls(&keeping, limits(), &way).await;
    }));
    assert!(matches!(sent.recv().await, Some(Frame::Alive)));
    assert_eq!(begun.elapsed().as_secs(), 10);
    tokio::time::sleep(9 * SECOND).await;
    inbox.take(Frame::Items {
        first: 0,
        body: Bytes::from_static(b"\0\0\0\x01a"),
    });
    let mut reader = inbox.reader();
    reader.next().await.unwrap().unwrap();
    assert!(reader.next().now_or_never().is_none());
    let credit = sent.recv().await;
    assert!(
        matches!(credit, Some(Frame::Credit(amount)) if amount == window(1, 1)),
        "{credit:?}"
    );
    assert!(matches!(sent.recv().await, Some(Frame::Alive)));
    assert_eq!(begun.elapsed().as_secs(), 29);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_stream_later_if_this_side_is_blocked() {
    for (blocked, expected) in [(false, 30), (true, 90)] {
        let (way, _sent) = way();
        way.blocked.store(blocked, Ordering::Relaxed);
        let inbox = Inbox::new(Side::Caller, Some(DEFAULT_WINDOW), meter());
        inbox.open(None);
        let begun = Instant::now();
        let ended = watch(&inbox, limits(), &way).await;
        assert!(matches!(ended, End::Silent), "{ended:?}");
        assert_eq!(begun.elapsed().as_secs(), expected);
    }
}

/// The process was held up for the whole silence, and for the shortest time more.
#[tokio::test(start_paused = true)]
async fn messages_that_wait_at_the_end_of_a_silence_come_first() {
    let (way, _sent) = way();
    let inbox = Inbox::new(Side::Caller, Some(DEFAULT_WINDOW), meter());
    inbox.open(None);
    let late = inbox.clone();
    let _late = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::time::sleep(30 * SECOND + SECOND / 20).await;
        late.take(Frame::Alive);
    }));
    let begun = Instant::now();
    let ended = watch(&inbox, limits(), &way).await;
    assert!(matches!(ended, End::Silent), "{ended:?}");
    assert_eq!(begun.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_and_a_missing_result_end_a_stream_that_shows_signs_of_life() {
    let (way, _sent) = way();
    let inbox = Inbox::new(Side::Caller, None, meter());
    inbox.open(Some(DEFAULT_WINDOW));
    let alive = inbox.clone();
    let _alive = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(SECOND).await;
            alive.take(Frame::Alive);
        }
    }));
    let begun = Instant::now();
    let deadline = Limits {
        deadline: Some(begun + 100 * SECOND),
        ..limits()
    };
    let ended = watch(&inbox, deadline, &way).await;
    assert!(matches!(ended, End::DeadlinePassed), "{ended:?}");
    assert_eq!(begun.elapsed().as_secs(), 100);
    send_items(&inbox, &way, numbers(0..3)).await.unwrap();
    let result = Limits {
        result_within: Some(5 * SECOND),
        ..limits()
    };
    let ended = watch(&inbox, result, &way).await;
    assert!(matches!(ended, End::NoResult), "{ended:?}");
    assert_eq!(begun.elapsed().as_secs(), 105);
}

#[tokio::test]
async fn a_side_learns_that_its_reader_is_gone_or_that_the_caller_has_stopped() {
    let (way, _sent) = way();
    let caller = Inbox::new(Side::Caller, Some(DEFAULT_WINDOW), meter());
    drop(caller.reader());
    let ended = watch(&caller, limits(), &way).await;
    assert!(matches!(ended, End::Abandoned), "{ended:?}");
    // A handler may leave the items of its caller unread.
    let server = Inbox::new(Side::Server, Some(DEFAULT_WINDOW), meter());
    drop(server.reader());
    assert!(watch(&server, limits(), &way).now_or_never().is_none());
    server.take(Frame::Stop);
    let ended = watch(&server, limits(), &way).await;
    assert!(matches!(ended, End::Stopped), "{ended:?}");
}

#[tokio::test]
async fn a_side_without_a_reader_drops_the_items() {
    let pair = Pair::new(
        window(10, 1_000),
        numbers(0..100).chain(stream::pending()).boxed(),
    );
    drop(pair.caller.reader());
    pending::<()>().now_or_never();
    while pair.way.bytes.load(Ordering::Relaxed) < 50 {
        tokio::task::yield_now().await;
    }
    // No credit is given for items that no reader takes.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(pair.way.bytes.load(Ordering::Relaxed), 50);
}
