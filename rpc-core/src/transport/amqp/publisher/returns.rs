//! Returned messages of a channel without confirms.
//!
//! lapin collects them silently, and has to be asked for them.

use std::time::Duration;

use lapin::Channel;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::transport::amqp::properties::to_message;
use crate::transport::message::Message;

/// Time from a publish to the first check. With a shorter one, a client that waits for each response before its next call would be
/// woken as often by checks as by replies.
const FIRST_CHECK: Duration = Duration::from_millis(4);

/// Times at which lapin is asked. The pauses grow with the time since the last publish, so that a return is noticed after at most a
/// quarter more time than it took, and an idle channel is left alone.
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
    /// Records a mandatory message.
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

    /// Sends returned messages to `returns` for as long as the future is polled.
    pub(super) async fn run(&self, channel: &Channel, returns: &mpsc::UnboundedSender<Message>) {
        loop {
            self.due().await;
            // Resolves at once: there are no confirms to wait for.
            for returned in channel.wait_for_confirms().await.unwrap_or_default() {
                let delivery = returned.delivery;
                let message = to_message(&delivery.properties, delivery.data);
                let _ = returns.send(message); // The receiver may be gone.
            }
        }
    }

    /// Resolves when it is time for a check.
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
        self.times.lock()
    }
}
