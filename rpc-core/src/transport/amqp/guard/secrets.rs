//! Passwords on their way to a broker, hidden from lapin.
//!
//! At the level TRACE, lapin logs every method that it sends, including those with a password. So lapin gets a stand-in of the same
//! length, and the stream puts the password in its place.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;

/// Secrets of a connection that are about to be sent: at most one.
#[derive(Default)]
pub(crate) struct Secrets {
    /// `true` while a secret waits. Most writes check nothing else.
    waits: AtomicBool,
    waiting: Mutex<Option<Disguised>>,
}

/// A secret and its stand-in, each as AMQP's long string.
struct Disguised {
    stand_in: Vec<u8>,
    secret: Vec<u8>,
}

impl Secrets {
    /// Returns a stand-in for lapin to send. It is random, so that no other bytes are taken for it.
    pub(crate) fn disguise(&self, secret: &[u8]) -> Vec<u8> {
        let mut stand_in = Vec::new();
        while stand_in.len() < secret.len() {
            stand_in.extend(Uuid::new_v4().simple().to_string().into_bytes());
        }
        stand_in.truncate(secret.len());
        let disguised = Disguised {
            stand_in: long_string(&stand_in),
            secret: long_string(secret),
        };
        *self.waiting.lock() = Some(disguised);
        self.waits.store(true, Ordering::Release);
        stand_in
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// Replaces the stand-in by the secret, once; `false` if the stand-in is not in these bytes. lapin writes whole frames at once.
    pub(super) fn reveal(&self, bytes: &mut [u8]) -> bool {
        let mut waiting = self.waiting.lock();
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
