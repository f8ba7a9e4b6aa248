//! Backpressure: a bound on deliveries that have arrived and that their consumers have not taken yet.
//!
//! A consumer without acknowledgements has no prefetch limit, and lapin buffers its deliveries without a bound. So a connection
//! stops reading once it has read [`LIMIT`] bytes since all its consumers were last idle, and continues when all are idle again.
//! No message is counted by itself: a consumer becomes busy when lapin calls its waker for a delivery, and idle when its
//! stream is pending.
//!
//! Consumers with a prefetch limit are not tracked: the prefetch bounds them, and they may keep a delivery for as long as they work on
//! it.
//!
//! While a connection does not read, heartbeats and the broker's answers wait, too. So a consumer must never wait for either before
//! it takes the next delivery.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::Stream;
use futures_util::task::AtomicWaker;

/// Number of bytes that are read before the consumers have to be idle. As deliveries they take several times as much memory: a message of a
/// hundred bytes takes about a kilobyte, and headers grow, too.
const LIMIT: usize = 8 << 20;

/// State that the reader of a connection shares with its consumers.
#[derive(Debug, Default)]
pub(super) struct Backpressure {
    /// Number of busy consumers: those that may have deliveries to take.
    busy: AtomicUsize,
    /// Waker of the reader, while it waits for the consumers.
    reader: AtomicWaker,
}

impl Backpressure {
    /// Returns the reading side of a connection.
    pub(super) fn throttle(self: &Arc<Self>) -> ReadThrottle {
        ReadThrottle {
            backpressure: self.clone(),
            read: 0,
        }
    }

    /// Tracks the deliveries of a consumer without acknowledgements.
    pub(super) fn track<S>(self: &Arc<Self>, deliveries: S) -> TrackedDeliveries<S> {
        // A new consumer is busy until its first poll.
        self.busy.fetch_add(1, Ordering::AcqRel);
        let consumer = Arc::new(Consumer {
            backpressure: self.clone(),
            state: AtomicU8::new(ASKED),
            task: AtomicWaker::new(),
        });
        TrackedDeliveries {
            waker: Waker::from(consumer.clone()),
            consumer,
            deliveries,
        }
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// Counts a consumer as idle.
    fn release(&self) {
        if self.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.reader.wake();
        }
    }
}

/// Reading side of a connection. The default is that of a connection without consumers.
#[derive(Debug, Default)]
pub(super) struct ReadThrottle {
    backpressure: Arc<Backpressure>,
    /// Number of bytes that were read since all consumers were last idle.
    read: usize,
}

impl ReadThrottle {
    /// Resolves when the connection may read.
    pub(super) fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.read < LIMIT {
            return Poll::Ready(());
        }
        if self.backpressure.is_busy() {
            self.backpressure.reader.register(cx.waker());
            // The last busy consumer may have become idle just before.
            if self.backpressure.is_busy() {
                return Poll::Pending;
            }
        }
        self.read = 0;
        Poll::Ready(())
    }

    /// Counts bytes that were read.
    pub(super) fn add(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes);
    }
}

/// The consumer has no delivery to take. In all other states it is counted as busy, except in [`GONE`].
const IDLE: u8 = 0;

/// The consumer is being polled, or was polled and had a delivery.
const ASKED: u8 = 1;

/// A delivery arrived after the poll began.
const WOKEN: u8 = 2;

/// The consumer has ended.
const GONE: u8 = 3;

/// The state of a consumer.
#[derive(Debug)]
struct Consumer {
    backpressure: Arc<Backpressure>,
    state: AtomicU8,
    /// Task that takes the deliveries.
    task: AtomicWaker,
}

impl Consumer {
    fn passes(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn end(&self) {
        if !matches!(self.state.swap(GONE, Ordering::AcqRel), IDLE | GONE) {
            self.backpressure.release();
        }
    }
}

impl Wake for Consumer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// Called by lapin's reader as soon as there is a delivery.
    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.load(Ordering::Acquire) == IDLE {
            // Counted before the consumer can be released.
            self.backpressure.busy.fetch_add(1, Ordering::AcqRel);
            if !self.passes(IDLE, WOKEN) {
                self.backpressure.release();
            }
        }
        self.passes(ASKED, WOKEN);
        self.task.wake();
    }
}

/// Deliveries of a consumer with a bounded backlog.
#[derive(Debug)]
pub(super) struct TrackedDeliveries<S> {
    deliveries: S,
    consumer: Arc<Consumer>,
    /// Waker of the consumer.
    waker: Waker,
}

impl<S: Stream + Unpin> Stream for TrackedDeliveries<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let Self {
            deliveries,
            consumer,
            waker,
        } = &mut *self;
        consumer.task.register(cx.waker());
        match consumer.state.swap(ASKED, Ordering::AcqRel) {
            IDLE => {
                consumer.backpressure.busy.fetch_add(1, Ordering::AcqRel);
            }
            GONE => consumer.state.store(GONE, Ordering::Release),
            _ => {}
        }
        let delivery = Pin::new(deliveries).poll_next(&mut Context::from_waker(waker));
        match &delivery {
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => consumer.end(),
            Poll::Pending => {
                // Unless a delivery has arrived since.
                if consumer.passes(ASKED, IDLE) {
                    consumer.backpressure.release();
                }
            }
        }
        delivery
    }
}

impl<S> Drop for TrackedDeliveries<S> {
    fn drop(&mut self) {
        self.consumer.end();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::AtomicUsize;

    use futures_io::AsyncRead;
    use futures_util::stream::StreamExt;
    use tokio::sync::mpsc;

    use super::super::guard::GuardedStream;
    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A reader and its wakes.
    struct Reader {
        throttle: ReadThrottle,
        woken: Arc<Woken>,
    }

    impl Reader {
        fn of(backpressure: &Arc<Backpressure>) -> Self {
            Self {
                throttle: backpressure.throttle(),
                woken: Arc::default(),
            }
        }

        fn has_room(&mut self) -> bool {
            let waker = Waker::from(self.woken.clone());
            self.throttle
                .poll_ready(&Context::from_waker(&waker))
                .is_ready()
        }

        fn times_woken(&self) -> usize {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    fn deliveries() -> (
        mpsc::UnboundedSender<u8>,
        impl Stream<Item = u8> + Send + Unpin,
    ) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        (sender, stream)
    }

    /// The next delivery, if there is one.
    fn take(tracked: &mut TrackedDeliveries<impl Stream<Item = u8> + Unpin>) -> Poll<Option<u8>> {
        tracked.poll_next_unpin(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn reading_stops_at_the_limit_until_all_deliveries_are_taken() {
        let backpressure = Arc::new(Backpressure::default());
        let mut reader = Reader::of(&backpressure);
        let (sender, stream) = deliveries();
        let mut tracked = backpressure.track(stream);
        assert_eq!(take(&mut tracked), Poll::Pending);
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        reader.throttle.add(LIMIT - 1);
        assert!(reader.has_room(), "below the limit no consumer matters");
        reader.throttle.add(1);
        assert!(!reader.has_room());
        assert_eq!(take(&mut tracked), Poll::Ready(Some(1)));
        assert!(!reader.has_room());
        assert_eq!(take(&mut tracked), Poll::Ready(Some(2)));
        assert!(!reader.has_room(), "there may be a third delivery");
        assert_eq!(reader.times_woken(), 0);
        assert_eq!(take(&mut tracked), Poll::Pending);
        assert_eq!(reader.times_woken(), 1);
        assert!(reader.has_room());
        sender.send(3).unwrap();
        assert!(reader.has_room(), "counting starts again");
    }

    #[test]
    fn bytes_beyond_the_limit_are_read_while_all_consumers_are_idle() {
        let backpressure = Arc::new(Backpressure::default());
        let mut reader = Reader::of(&backpressure);
        let (_sender, stream) = deliveries();
        let mut tracked = backpressure.track(stream);
        assert_eq!(take(&mut tracked), Poll::Pending);
        for _ in 0..5 {
            reader.throttle.add(LIMIT);
            assert!(reader.has_room());
        }
    }

    #[test]
    fn a_guarded_stream_stops_reading_at_the_limit() {
        const FRAME: [u8; 9] = [3, 0, 1, 0, 0, 0, 1, b'0', 0xce];

        /// An endless stream of frames with the body `0`.
        struct Bodies(usize);

        impl AsyncRead for Bodies {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                for byte in buffer.iter_mut() {
                    *byte = FRAME[self.0 % FRAME.len()];
                    self.0 += 1;
                }
                Poll::Ready(Ok(buffer.len()))
            }
        }

        let backpressure = Arc::new(Backpressure::default());
        let (_sender, stream) = deliveries();
        let mut tracked = backpressure.track(stream);
        let mut guarded = GuardedStream::new(Bodies(0), None).with_backpressure(&backpressure);
        let mut buffer = vec![0; 1 << 20];
        let mut read = || {
            let mut cx = Context::from_waker(Waker::noop());
            Pin::new(&mut guarded).poll_read(&mut cx, &mut buffer)
        };
        let mut total = 0;
        while let Poll::Ready(bytes) = read() {
            total += bytes.unwrap();
            assert!(total <= 2 * LIMIT, "the stream is read beyond the limit");
        }
        // The guard keeps the beginning of a frame.
        assert!(total > LIMIT - FRAME.len(), "{total}");
        assert_eq!(take(&mut tracked), Poll::Pending);
        assert!(read().is_ready());
    }

    #[test]
    fn the_reader_waits_for_all_consumers_except_ended_ones() {
        let backpressure = Arc::new(Backpressure::default());
        let mut reader = Reader::of(&backpressure);
        reader.throttle.add(LIMIT);
        let (_first_sender, first) = deliveries();
        let (second_sender, second) = deliveries();
        let mut first = backpressure.track(first);
        let mut second = backpressure.track(second);
        assert!(!reader.has_room(), "neither was polled yet");
        assert_eq!(take(&mut first), Poll::Pending);
        assert!(!reader.has_room());
        drop(second_sender);
        assert_eq!(take(&mut second), Poll::Ready(None));
        assert!(reader.has_room(), "the second has ended");
        let (sender, third) = deliveries();
        let mut third = backpressure.track(third);
        assert_eq!(take(&mut third), Poll::Pending);
        sender.send(1).unwrap();
        reader.throttle.add(LIMIT);
        assert!(!reader.has_room());
        let woken = reader.times_woken();
        drop(third);
        assert_eq!(reader.times_woken(), woken + 1);
        assert!(reader.has_room());
        drop((first, second));
        assert_eq!(backpressure.busy.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn polling_an_idle_consumer_leaves_it_idle() {
        let backpressure = Arc::new(Backpressure::default());
        let (_sender, stream) = deliveries();
        let mut tracked = backpressure.track(stream);
        for _ in 0..3 {
            assert_eq!(take(&mut tracked), Poll::Pending);
            assert_eq!(backpressure.busy.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_and_its_consumers_never_wait_for_each_other() {
        const MESSAGES: usize = 20_000;
        let backpressure = Arc::new(Backpressure::default());
        let (senders, takers): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| {
                let (sender, stream) = deliveries();
                let mut tracked = backpressure.track(stream);
                let taken = tokio::spawn(async move {
                    let mut taken = 0;
                    while tracked.next().await.is_some() {
                        taken += 1;
                    }
                    taken
                });
                (sender, taken)
            })
            .unzip();
        let mut throttle = backpressure.throttle();
        for message in 0..MESSAGES {
            std::future::poll_fn(|cx| throttle.poll_ready(cx)).await;
            throttle.add(LIMIT / 3 + 1);
            senders[message % senders.len()].send(0).unwrap();
        }
        drop(senders);
        let mut taken = 0;
        for taker in takers {
            taken += taker.await.unwrap();
        }
        assert_eq!(taken, MESSAGES);
        assert_eq!(backpressure.busy.load(Ordering::Relaxed), 0);
    }
}
