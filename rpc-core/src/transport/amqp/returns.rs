//! Messages that no queue took, of a channel without confirms.
//!
//! lapin collects them silently, to be asked for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::Channel;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::properties::to_message;
use crate::transport::Message;

/// How soon after a publish lapin is asked first: a client that waits for each answer before the next call would otherwise be
/// woken as often by this as by its replies.
const FIRST_CHECK: Duration = Duration::from_millis(4);

/// When to ask: the pauses grow with the time since the last publish, so that a return is noticed after at most a quarter more
/// time than it took, and an idle channel is left alone.
#[derive(Debug, Default)]
pub(super) struct ReturnChecks {
    times: Mutex<Times>,
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Times {
    last_publish: Option<Instant>,
    next: Option<Instant>,
}

impl ReturnChecks {
    /// A message that may come back was published.
    pub(super) fn published(&self) {
        let now = Instant::now();
        let soon = now + FIRST_CHECK;
        let mut times = self.times();
        times.last_publish = Some(now);
        if times.next.is_none_or(|next| soon < next) {
            times.next = Some(soon);
            drop(times);
            self.sooner.notify_one();
        }
    }

    /// Hands over what comes back, for as long as it is polled.
    pub(super) async fn run(&self, channel: &Channel, returns: &mpsc::UnboundedSender<Message>) {
        loop {
            self.due().await;
            // Resolves at once: there are no confirms to wait for.
            for returned in channel.wait_for_confirms().await.unwrap_or_default() {
                let delivery = returned.delivery;
                let message = to_message(&delivery.properties, delivery.data);
                let _ = returns.send(message); // Nobody listens: nobody waits.
            }
        }
    }

    /// Resolves when it is time to ask.
    async fn due(&self) {
        loop {
            let next = self.times().next;
            match next {
                None => self.sooner.notified().await,
                Some(next) => {
                    tokio::select! {
                        () = self.sooner.notified() => {}
                        () = tokio::time::sleep_until(next) => break,
                    }
                }
            }
        }
        let mut times = self.times();
        let now = Instant::now();
        let since = times.last_publish.map_or(Duration::ZERO, |last| now - last);
        times.next = Some(now + (since / 4).max(FIRST_CHECK));
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        // Nothing under the lock leaves the times half changed.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
