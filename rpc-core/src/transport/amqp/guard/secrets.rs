//! Passwords on their way to a broker, which lapin does not see.
//!
//! At the level TRACE, lapin logs every method that it sends, those with a password included. So it is given another text of the same
//! length, and the stream puts the password in its place.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

/// The secrets of a connection that are about to be sent: one at most.
#[derive(Default)]
pub(in crate::transport::amqp) struct Secrets {
    /// True while one waits. Most writes ask for nothing else.
    waits: AtomicBool,
    waiting: Mutex<Option<Disguised>>,
}

/// A secret and its place, each as AMQP's long string.
struct Disguised {
    stand_in: Vec<u8>,
    secret: Vec<u8>,
}

impl Secrets {
    /// Gives a text for lapin to send in place of the secret, at random so that nothing else is taken for it.
    pub(in crate::transport::amqp) fn disguise(&self, secret: &[u8]) -> Vec<u8> {
        let mut stand_in = Vec::new();
        while stand_in.len() < secret.len() {
            stand_in.extend(Uuid::new_v4().simple().to_string().into_bytes());
        }
        stand_in.truncate(secret.len());
        let disguised = Disguised {
            stand_in: long_string(&stand_in),
            secret: long_string(secret),
        };
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(disguised);
        self.waits.store(true, Ordering::Release);
        stand_in
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// Puts the secret into its place, once; `false` if its place is not there. lapin writes whole frames at once.
    pub(super) fn reveal(&self, bytes: &mut [u8]) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Disguised { stand_in, secret }) = &*waiting else {
            return false;
        };
        let length = stand_in.len();
        let Some(at) = bytes.windows(length).position(|window| window == stand_in) else {
            return false;
        };
        bytes[at..at + length].copy_from_slice(secret);
        *waiting = None;
        self.waits.store(false, Ordering::Release);
        true
    }
}

fn long_string(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), text].concat()
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}
