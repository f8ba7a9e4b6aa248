//! Free ports on the loopback interface.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use super::BrokerError;

/// Below the range that systems take the ports of outgoing connections from, so that a port is still free when a
/// killed node comes back to it.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A port of 127.0.0.1 that nobody listens on and that this process has not handed out lately.
///
/// Another process may still take it before the caller does: each begins its search at a random place, which makes
/// that rare, and a node that finds its port taken starts again on others.
pub(super) fn free_port() -> Result<u16, BrokerError> {
    Ok(listen_on_free_port()?.1)
}

/// A listener on such a port, and which port that is.
///
/// Whoever listens in this process takes this, not a [`free_port`]: listening once more may fail, because a process that
/// another thread is about to start has the first listener, too, until it is one.
pub(super) fn listen_on_free_port() -> Result<(TcpListener, u16), BrokerError> {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        AtomicU16::new((RandomState::new().hash_one(std::process::id()) % u64::from(COUNT)) as u16)
    });
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok((listener, port));
        }
    }
    Err(BrokerError::new(format!(
        "no free port between {FIRST} and {} on 127.0.0.1",
        FIRST + COUNT - 1
    )))
}
