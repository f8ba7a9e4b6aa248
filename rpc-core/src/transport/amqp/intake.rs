//! A bound on what has arrived and has not been taken yet.
//!
//! A queue that is read without acknowledgements has no prefetch limit, and lapin keeps what came from it without a bound. So a
//! connection stops to read once it has read [`LIMIT`] bytes since its consumers last had nothing left to take, and goes on
//! when that is so again. Nothing is counted for a single message: a consumer that has something left is known by its waker, which
//! lapin calls for each delivery, and by its stream, which is pending when there is nothing left.
//!
//! Consumers with a prefetch limit are left out: theirs is the bound, and they may keep a delivery for as long as they work on it.
//!
//! While a connection does not read, heartbeats and the broker's answers wait, too. So a consumer must never wait for either before
//! it takes the next delivery.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::Stream;
use futures_util::task::AtomicWaker;

/// The bytes that are read before all of them must have been taken. In memory they may become many times as many: a message of
/// a hundred bytes takes about a kilobyte there, and headers grow, too.
const LIMIT: usize = 8 << 20;

/// Shared by the reader of a connection and its consumers.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// The number of consumers that may have something left to take.
    busy: AtomicUsize,
    /// The reader, while it waits for them.
    reader: AtomicWaker,
}

impl Intake {
    /// The side that reads.
    pub(super) fn reading(self: &Arc<Self>) -> Reading {
        Reading {
            intake: self.clone(),
            read: 0,
        }
    }

    /// The deliveries of a consumer without acknowledgements.
    pub(super) fn taking<S>(self: &Arc<Self>, deliveries: S) -> Taking<S> {
        // Until it is asked for the first time, there may be something.
        self.busy.fetch_add(1, Ordering::AcqRel);
        let consumer = Arc::new(Consumer {
            intake: self.clone(),
            state: AtomicU8::new(ASKED),
            task: AtomicWaker::new(),
        });
        Taking {
            waker: Waker::from(consumer.clone()),
            consumer,
            deliveries,
        }
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// A consumer has nothing left.
    fn release(&self) {
        if self.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.reader.wake();
        }
    }
}

/// The reading side of a connection. By default, of one without consumers.
#[derive(Debug, Default)]
pub(super) struct Reading {
    intake: Arc<Intake>,
    /// The bytes that were read since the consumers had nothing left to take.
    read: usize,
}

impl Reading {
    /// Waits until there is room for more.
    pub(super) fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.read < LIMIT {
            return Poll::Ready(());
        }
        if self.intake.is_busy() {
            self.intake.reader.register(cx.waker());
            // The last of them may have become idle just before.
            if self.intake.is_busy() {
                return Poll::Pending;
            }
        }
        self.read = 0;
        Poll::Ready(())
    }

    /// Counts what was read.
    pub(super) fn add(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes);
    }
}

/// There was nothing left to take. In all other states the consumer is counted as busy, but for [`GONE`].
const IDLE: u8 = 0;

/// It is being asked, or was and had something.
const ASKED: u8 = 1;

/// Something arrived after it was asked.
const WOKEN: u8 = 2;

/// It takes nothing any more.
const GONE: u8 = 3;

/// The state of a consumer.
#[derive(Debug)]
struct Consumer {
    intake: Arc<Intake>,
    state: AtomicU8,
    /// The task that takes the deliveries.
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
            self.intake.release();
        }
    }
}

impl Wake for Consumer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// Called by lapin where it reads, as soon as there is a delivery.
    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.load(Ordering::Acquire) == IDLE {
            // Counted before it can be released.
            self.intake.busy.fetch_add(1, Ordering::AcqRel);
            if !self.passes(IDLE, WOKEN) {
                self.intake.release();
            }
        }
        self.passes(ASKED, WOKEN);
        self.task.wake();
    }
}

/// The deliveries of a consumer whose backlog is bounded.
#[derive(Debug)]
pub(super) struct Taking<S> {
    deliveries: S,
    consumer: Arc<Consumer>,
    /// The consumer's.
    waker: Waker,
}

impl<S: Stream + Unpin> Stream for Taking<S> {
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
                consumer.intake.busy.fetch_add(1, Ordering::AcqRel);
            }
            GONE => consumer.state.store(GONE, Ordering::Release),
            _ => {}
        }
        let delivery = Pin::new(deliveries).poll_next(&mut Context::from_waker(waker));
        match &delivery {
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => consumer.end(),
            Poll::Pending => {
                // Unless something has arrived since.
                if consumer.passes(ASKED, IDLE) {
                    consumer.intake.release();
                }
            }
        }
        delivery
    }
}

impl<S> Drop for Taking<S> {
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

    /// A reader and the times that it was woken.
    struct Reader {
        reading: Reading,
        woken: Arc<Woken>,
    }

    impl Reader {
        fn of(intake: &Arc<Intake>) -> Self {
            Self {
                reading: intake.reading(),
                woken: Arc::default(),
            }
        }

        fn has_room(&mut self) -> bool {
            let waker = Waker::from(self.woken.clone());
            self.reading
                .poll_room(&Context::from_waker(&waker))
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
    fn take(taking: &mut Taking<impl Stream<Item = u8> + Unpin>) -> Poll<Option<u8>> {
        taking.poll_next_unpin(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn reading_stops_at_the_limit_until_everything_was_taken() {
        let intake = Arc::new(Intake::default());
        let mut reader = Reader::of(&intake);
        let (sender, stream) = deliveries();
        let mut taking = intake.taking(stream);
        assert_eq!(take(&mut taking), Poll::Pending);
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        reader.reading.add(LIMIT - 1);
        assert!(reader.has_room(), "below the limit nothing is asked");
        reader.reading.add(1);
        assert!(!reader.has_room());
        assert_eq!(take(&mut taking), Poll::Ready(Some(1)));
        assert!(!reader.has_room());
        assert_eq!(take(&mut taking), Poll::Ready(Some(2)));
        assert!(!reader.has_room(), "there may be a third");
        assert_eq!(reader.times_woken(), 0);
        assert_eq!(take(&mut taking), Poll::Pending);
        assert_eq!(reader.times_woken(), 1);
        assert!(reader.has_room());
        sender.send(3).unwrap();
        assert!(reader.has_room(), "counting begins anew");
    }

    #[test]
    fn what_is_larger_than_the_limit_is_read_while_there_is_nothing_to_take() {
        let intake = Arc::new(Intake::default());
        let mut reader = Reader::of(&intake);
        let (_sender, stream) = deliveries();
        let mut taking = intake.taking(stream);
        assert_eq!(take(&mut taking), Poll::Pending);
        for _ in 0..5 {
            reader.reading.add(LIMIT);
            assert!(reader.has_room());
        }
    }

    #[test]
    fn a_guarded_stream_is_not_read_while_there_is_too_much_to_take() {
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

        let intake = Arc::new(Intake::default());
        let (_sender, stream) = deliveries();
        let mut taking = intake.taking(stream);
        let mut guarded = GuardedStream::new(Bodies(0), None).for_intake(&intake);
        let mut buffer = vec![0; 1 << 20];
        let mut read = || {
            let mut cx = Context::from_waker(Waker::noop());
            Pin::new(&mut guarded).poll_read(&mut cx, &mut buffer)
        };
        let mut total = 0;
        while let Poll::Ready(bytes) = read() {
            total += bytes.unwrap();
            assert!(total <= 2 * LIMIT, "it goes on reading");
        }
        // The beginning of a frame is kept.
        assert!(total > LIMIT - FRAME.len(), "{total}");
        assert_eq!(take(&mut taking), Poll::Pending);
        assert!(read().is_ready());
    }

    #[test]
    fn every_consumer_is_waited_for_and_none_that_is_gone() {
        let intake = Arc::new(Intake::default());
        let mut reader = Reader::of(&intake);
        reader.reading.add(LIMIT);
        let (_first_sender, first) = deliveries();
        let (second_sender, second) = deliveries();
        let mut first = intake.taking(first);
        let mut second = intake.taking(second);
        assert!(!reader.has_room(), "neither was asked yet");
        assert_eq!(take(&mut first), Poll::Pending);
        assert!(!reader.has_room());
        drop(second_sender);
        assert_eq!(take(&mut second), Poll::Ready(None));
        assert!(reader.has_room(), "the second has ended");
        let (sender, third) = deliveries();
        let mut third = intake.taking(third);
        assert_eq!(take(&mut third), Poll::Pending);
        sender.send(1).unwrap();
        reader.reading.add(LIMIT);
        assert!(!reader.has_room());
        let woken = reader.times_woken();
        drop(third);
        assert_eq!(reader.times_woken(), woken + 1);
        assert!(reader.has_room());
        drop((first, second));
        assert_eq!(intake.busy.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_that_is_asked_again_and_again_and_has_nothing_stays_idle() {
        let intake = Arc::new(Intake::default());
        let (_sender, stream) = deliveries();
        let mut taking = intake.taking(stream);
        for _ in 0..3 {
            assert_eq!(take(&mut taking), Poll::Pending);
            assert_eq!(intake.busy.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_and_its_consumers_never_wait_for_each_other() {
        const MESSAGES: usize = 20_000;
        let intake = Arc::new(Intake::default());
        let (senders, takers): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| {
                let (sender, stream) = deliveries();
                let mut taking = intake.taking(stream);
                let taken = tokio::spawn(async move {
                    let mut taken = 0;
                    while taking.next().await.is_some() {
                        taken += 1;
                    }
                    taken
                });
                (sender, taken)
            })
            .unzip();
        let mut reading = intake.reading();
        for message in 0..MESSAGES {
            std::future::poll_fn(|cx| reading.poll_room(cx)).await;
            reading.add(LIMIT / 3 + 1);
            senders[message % senders.len()].send(0).unwrap();
        }
        drop(senders);
        let mut taken = 0;
        for taker in takers {
            taken += taker.await.unwrap();
        }
        assert_eq!(taken, MESSAGES);
        assert_eq!(intake.busy.load(Ordering::Relaxed), 0);
    }
}
