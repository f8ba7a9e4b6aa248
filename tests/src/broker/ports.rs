//! Free ports on the loopback interface.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use super::BrokerError;

/// Below the range from which systems take the ports of outgoing connections, so that a port is still free when a killed
/// node restarts.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// Returns a free port of 127.0.0.1 that this process has not used lately.
///
/// Another process may take the port before the caller does. Each process begins its search at a random port, which makes that
/// rare, and a node whose port is taken starts again on other ports.
pub(super) fn free_port() -> Result<u16, BrokerError> {
    Ok(listen_on_free_port()?.1)
}

/// Returns a listener on a free port, and the port.
///
/// Listeners in this process use this function instead of [`free_port`]: binding a port again may fail, because a child process
/// of another thread holds a copy of the first listener between `fork` and `exec`.
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
