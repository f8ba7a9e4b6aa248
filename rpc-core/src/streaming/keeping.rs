//! Keeps an open stream: watches its limits, gives signs of life and credit.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Outlet;
use super::inbox::{Inbox, Side};
use crate::error::RpcError;
use crate::wire::Frame;

/// Bounds of the time between two signs of life, which is a third of the longest silence otherwise.
const MIN_PERIOD: Duration = Duration::from_secs(1);
const MAX_PERIOD: Duration = Duration::from_secs(60);

/// Multiple of the longest silence for which a side waits whose own connection is blocked.
const BLOCKED_FACTOR: u32 = 3;

/// Time that a side waits at the end of a silence. If its process was held up, the messages that arrived meanwhile come first.
const GRACE: Duration = Duration::from_millis(250);

/// Limits of an open stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest silence of the other side.
    pub(crate) silence: Duration,
    /// Deadline of the whole stream.
    pub(crate) deadline: Option<Instant>,
    /// Time for the result after this side has sent its last item; `None` if the other side may go on as long as it likes.
    pub(crate) result_within: Option<Duration>,
}

/// Reason why an open stream ends on this side.
#[derive(Debug)]
pub(crate) enum End {
    /// The other side has ended the stream: the caller has nothing left to do.
    Finished,
    /// The reader of the items is gone.
    Abandoned,
    /// The caller has stopped the stream.
    Stopped,
    /// The other side was silent for too long.
    Silent,
    /// The deadline has passed.
    DeadlinePassed,
    /// No result came in time after the last item.
    NoResult,
    Failed(RpcError),
}

/// Waits for the end of a stream.
pub(crate) async fn watch(inbox: &Inbox, limits: Limits, outlet: &impl Outlet) -> End {
    let (side, shared) = (inbox.side(), inbox.shared());
    loop {
        // Registered before the state is read, so that no change is missed.
        let changed = shared.changed.notified();
        let (heard, sent_end) = {
            let mut state = shared.state.lock();
            if let Some(error) = state.failure.take() {
                return End::Failed(error);
            }
            if state.stopped {
                return End::Stopped;
            }
            if side == Side::Caller && state.has_ended() {
                return End::Finished;
            }
            if side == Side::Caller && state.reader_is_gone() {
                return End::Abandoned;
            }
            (state.heard, state.sent_end)
        };
        let now = Instant::now();
        let factor = match outlet.is_blocked() {
            true => BLOCKED_FACTOR,
            false => 1,
        };
        let silent_at = heard + limits.silence.saturating_mul(factor);
        let result_at = sent_end
            .zip(limits.result_within)
            .map(|(sent, within)| sent + within);
        if limits.deadline.is_some_and(|deadline| now >= deadline) {
            return End::DeadlinePassed;
        }
        if result_at.is_some_and(|result| now >= result) {
            return End::NoResult;
        }
        if now >= silent_at {
            return End::Silent;
        }
        let moments = [Some(silent_at), limits.deadline, result_at];
        let next = moments.into_iter().flatten().min().unwrap_or(silent_at);
        tokio::select! {
            () = changed => {}
            () = sleep_until(next) => {
                if next == silent_at {
                    tokio::time::sleep(GRACE).await;
                }
            }
        }
    }
}

/// Sends the credit that is due and signs of life. Resolves only if nothing can be sent any more.
pub(crate) async fn send_controls(inbox: &Inbox, limits: Limits, outlet: &impl Outlet) -> RpcError {
    let period = (limits.silence / 3).clamp(MIN_PERIOD, MAX_PERIOD);
    let shared = inbox.shared();
    loop {
        let due = shared.due.notified();
        let (credit, spoken) = {
            let state = shared.state.lock();
            (state.due, state.spoken)
        };
        let frame = match credit {
            Some(amount) => Frame::Credit(amount),
            None if spoken.elapsed() >= period => Frame::Alive,
            None => {
                tokio::select! {
                    () = due => {}
                    () = sleep_until(spoken + period) => {}
                }
                continue;
            }
        };
        if let Err(error) = outlet.send(frame).await {
            return error;
        }
        let mut state = shared.state.lock();
        state.spoken = Instant::now();
        if let Some(sent) = credit {
            // More may have become due while this was sent.
            state.due = state.due.and_then(|due| due.less(sent));
        }
    }
}
