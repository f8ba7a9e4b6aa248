//! The error for bytes that no broker sends.

use std::fmt;
use std::io;

/// The error for bytes that no broker sends.
pub(super) fn malformed(what: impl fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the broker sent {what}"),
    )
}
