//! Decides when messages with several calls are sent to a queue.
//!
//! Answers pace the messages. While no message is unanswered, a call is sent alone and at once. Later calls share the few messages that
//! may be unanswered. Further calls wait, and go together when a message is answered. A full message may be sent while a few more are
//! unanswered. So a client with few calls notices nothing, and a busy client sends as many messages as its servers answer.
//!
//! Answers take long if handlers are slow or a server hangs. If no message is sent or answered for a moment, the window opens, and
//! all waiting calls are sent.
//!
//! The code has neither a runtime nor a clock of its own: its callers pass the time.

use std::time::Duration;

use tokio::time::Instant;

use super::format::Batch;

/// Most messages that may be unanswered when calls are sent: a server works on one while the other is on its way.
const MAX_UNANSWERED: usize = 2;

/// Most messages that may be unanswered when a full one is sent.
const MAX_UNANSWERED_IF_FULL: usize = 4;

/// Time without a message sent or answered after which the window opens.
const OPENS_AFTER: Duration = Duration::from_millis(1);

/// Counts of the messages to a queue and of the calls that wait for one.
#[derive(Debug)]
pub(super) struct Window {
    unanswered: usize,
    waiting: usize,
    /// Bytes that the waiting calls take in a message.
    bytes: usize,
    /// Time at which a message was last sent or answered.
    last_activity: Instant,
    /// Lifts the limits for the calls that wait.
    is_open: bool,
}

/// Next step of the task that sends the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Sends a message.
    Send,
    /// Waits until the window opens, or until a call is added or a message answered.
    WaitUntil(Instant),
    /// Waits until a call is added.
    WaitForCalls,
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            unanswered: 0,
            waiting: 0,
            bytes: 0,
            last_activity: now,
            is_open: false,
        }
    }

    /// Returns `true` if no call waits and no message is unanswered.
    pub(super) fn is_idle(&self) -> bool {
        self.unanswered == 0 && self.waiting == 0
    }

    /// Counts a message that was sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.unanswered += 1;
        self.last_activity = now;
    }

    /// Counts a message as answered. Returns `true` if calls wait, for which there may be room now.
    pub(super) fn answered(&mut self, now: Instant) -> bool {
        self.unanswered -= 1;
        self.last_activity = now;
        self.waiting > 0
    }

    /// Counts a call that waits. Returns `true` if the task that sends has something to do; `capacity` is the number of calls that a
    /// message holds.
    pub(super) fn add(&mut self, bytes: usize, capacity: usize) -> bool {
        self.waiting += 1;
        self.bytes += bytes;
        self.waiting == 1 || self.may_send(capacity)
    }

    /// Counts a call that waits no longer.
    pub(super) fn remove(&mut self, bytes: usize) {
        self.waiting -= 1;
        self.bytes -= bytes;
        self.is_open &= self.waiting > 0;
    }

    /// Returns the next step. A capacity of one call opens the window: a message with one call has nothing to wait for.
    pub(super) fn next_step(&mut self, capacity: usize, now: Instant) -> Step {
        if self.waiting == 0 {
            return Step::WaitForCalls;
        }
        let opens = self.last_activity + OPENS_AFTER;
        self.is_open |= capacity == 1 || opens <= now;
        match self.may_send(capacity) {
            true => Step::Send,
            false => Step::WaitUntil(opens),
        }
    }

    /// Returns the number of calls that the next message may hold, 0 if it has to wait. The waiting calls are spread over the
    /// messages that may be sent.
    pub(super) fn next_len(&self, capacity: usize) -> usize {
        if !self.may_send(capacity) {
            return 0;
        }
        let messages = MAX_UNANSWERED.saturating_sub(self.unanswered).max(1);
        capacity.min(self.waiting.div_ceil(messages))
    }

    fn may_send(&self, capacity: usize) -> bool {
        let is_full = self.waiting >= capacity || self.bytes >= Batch::MAX_LEN;
        let limit = match is_full {
            true => MAX_UNANSWERED_IF_FULL,
            false => MAX_UNANSWERED,
        };
        self.unanswered < limit || self.is_open
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: usize = 8;
    const LEN: usize = 100;

    fn window(unanswered: usize, waiting: usize, now: Instant) -> Window {
        let mut window = Window::new(now);
        (0..unanswered).for_each(|_| window.sent(now));
        (0..waiting).for_each(|_| {
            window.add(LEN, CAPACITY);
        });
        window
    }

    #[test]
    fn a_window_without_calls_waits_for_them() {
        let now = Instant::now();
        let mut window = window(0, 0, now);
        assert!(window.is_idle());
        assert_eq!(window.next_step(CAPACITY, now), Step::WaitForCalls);
        assert_eq!(window.next_len(CAPACITY), 0);
        window.sent(now);
        assert!(!window.is_idle());
        assert!(!window.answered(now));
        assert!(window.is_idle());
    }

    #[test]
    fn calls_wait_while_two_messages_are_unanswered() {
        let now = Instant::now();
        let mut window = window(2, 3, now);
        assert_eq!(
            window.next_step(CAPACITY, now),
            Step::WaitUntil(now + OPENS_AFTER)
        );
        assert_eq!(window.next_len(CAPACITY), 0);
        assert!(window.answered(now));
        assert_eq!(window.next_step(CAPACITY, now), Step::Send);
        assert_eq!(window.next_len(CAPACITY), 3);
    }

    #[test]
    fn waiting_calls_are_spread_over_the_messages_that_may_be_sent() {
        let now = Instant::now();
        assert_eq!(window(0, 5, now).next_len(CAPACITY), 3);
        assert_eq!(window(1, 5, now).next_len(CAPACITY), 5);
        assert_eq!(window(0, 100, now).next_len(CAPACITY), CAPACITY);
    }

    #[test]
    fn a_full_message_is_sent_while_fewer_than_four_are_unanswered() {
        let now = Instant::now();
        assert_eq!(window(3, CAPACITY - 1, now).next_len(CAPACITY), 0);
        assert_eq!(window(3, CAPACITY, now).next_len(CAPACITY), CAPACITY);
        assert_eq!(window(4, CAPACITY, now).next_len(CAPACITY), 0);
        let mut long = window(3, 0, now);
        assert!(long.add(Batch::MAX_LEN, CAPACITY));
        assert_eq!(long.next_len(CAPACITY), 1);
    }

    #[test]
    fn a_pause_without_activity_opens_the_window_for_waiting_calls() {
        let start = Instant::now();
        let mut window = window(4, 2 * CAPACITY, start);
        let almost = start + OPENS_AFTER - Duration::from_nanos(1);
        assert_eq!(
            window.next_step(CAPACITY, almost),
            Step::WaitUntil(start + OPENS_AFTER)
        );
        assert_eq!(window.next_step(CAPACITY, start + OPENS_AFTER), Step::Send);
        for _ in 0..2 * CAPACITY {
            assert!(window.next_len(CAPACITY) > 0);
            window.remove(LEN);
        }
        window.sent(start + OPENS_AFTER);
        window.add(LEN, CAPACITY);
        assert_eq!(window.next_len(CAPACITY), 0, "the window has closed");
    }

    #[test]
    fn an_answer_postpones_the_opening() {
        let start = Instant::now();
        let mut window = window(5, 1, start);
        let later = start + OPENS_AFTER / 2;
        window.answered(later);
        assert_eq!(
            window.next_step(CAPACITY, start + OPENS_AFTER),
            Step::WaitUntil(later + OPENS_AFTER)
        );
    }

    #[test]
    fn single_calls_do_not_wait() {
        let now = Instant::now();
        let mut window = window(4, 3, now);
        assert_eq!(window.next_step(1, now), Step::Send);
        assert_eq!(window.next_len(1), 1);
    }

    #[test]
    fn the_sender_is_woken_for_the_first_call_and_for_those_that_may_be_sent() {
        let now = Instant::now();
        let mut window = window(2, 0, now);
        let woken: Vec<bool> = (0..CAPACITY).map(|_| window.add(LEN, CAPACITY)).collect();
        let expected = (1..=CAPACITY).map(|calls| calls == 1 || calls == CAPACITY);
        assert_eq!(woken, Vec::from_iter(expected));
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Add(usize),
        Answer,
        Pass(Duration),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            6 => (1..Batch::MAX_LEN).prop_map(Event::Add),
            3 => Just(Event::Answer),
            1 => (1..2_000_u64).prop_map(|micros| Event::Pass(Duration::from_micros(micros))),
        ];
        prop::collection::vec(event, 1..200)
    }

    proptest! {
        #[test]
        fn unanswered_messages_are_limited_until_the_window_opens(
            events in events(),
            capacity in 1..20_usize,
        ) {
            let mut now = Instant::now();
            let mut window = Window::new(now);
            let mut calls = std::collections::VecDeque::new();
            let mut unanswered = 0;
            for event in events {
                match event {
                    Event::Add(bytes) => {
                        window.add(bytes, capacity);
                        calls.push_back(bytes);
                    }
                    Event::Answer if unanswered > 0 => {
                        prop_assert_eq!(window.answered(now), !calls.is_empty());
                        unanswered -= 1;
                    }
                    Event::Answer => {}
                    Event::Pass(time) => now += time,
                }
                let is_inactive = now >= window.last_activity + OPENS_AFTER;
                while window.next_step(capacity, now) == Step::Send {
                    let len = window.next_len(capacity);
                    prop_assert!((1..=capacity.min(calls.len())).contains(&len));
                    calls.drain(..len).for_each(|bytes| window.remove(bytes));
                    prop_assert!(unanswered < MAX_UNANSWERED_IF_FULL || is_inactive || capacity == 1);
                    window.sent(now);
                    unanswered += 1;
                }
                prop_assert!(calls.is_empty() || !is_inactive);
                prop_assert!(calls.is_empty() || unanswered >= MAX_UNANSWERED);
                prop_assert_eq!((window.waiting, window.unanswered), (calls.len(), unanswered));
                prop_assert_eq!(window.bytes, calls.iter().sum::<usize>());
            }
        }
    }
}
