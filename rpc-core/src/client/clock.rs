//! Clocks that differ: deadlines travel as moments, so a server whose clock is ahead finds them passed too early.

use std::time::Duration;

use crate::error::RpcError;
use crate::wire::ServerClock;

/// How much earlier than the caller a server on the same clock may find a deadline to have passed.
pub(super) const TOLERANCE: Duration = Duration::from_millis(20);

/// The error of a call whose deadline had passed for the server, with so much of its time left here; says so if the server's
/// clock is the likely cause.
pub(super) fn refused_early(mut error: RpcError, left: Duration) -> RpcError {
    let ahead = match error.take_source() {
        Some(ServerClock { ahead_millis }) => {
            let ahead = Duration::from_millis(u64::try_from(ahead_millis).unwrap_or(0));
            if ahead + TOLERANCE < left {
                return error; // A time limit of a layer of the server, for instance.
            }
            format!("about {ahead:.1?}")
        }
        // A server that does not tell its time.
        None => format!("at least {left:.1?}"),
    };
    let note = format!(
        ", {left:.1?} too early: it probably is {ahead} ahead of this machine's; synchronise the two (NTP)"
    );
    error.with_note(&note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const LEFT: Duration = Duration::from_millis(4900);

    fn refused() -> RpcError {
        let message = "the request's deadline had passed by the server's clock";
        RpcError::new(ErrorKind::DeadlineExceeded, message)
    }

    fn refused_at(ahead_millis: i64) -> String {
        let error = refused().with_source(ServerClock { ahead_millis });
        refused_early(error, LEFT).to_string()
    }

    #[test]
    fn a_clock_that_is_ahead_is_named_with_the_difference() {
        assert_eq!(
            refused_at(60_000),
            "the request's deadline had passed by the server's clock, 4.9s too early: it probably is about 60.0s ahead of \
             this machine's; synchronise the two (NTP)"
        );
    }

    #[test]
    fn a_server_that_does_not_tell_its_time_is_ahead_by_what_was_left_at_least() {
        let error = refused_early(refused(), LEFT).to_string();
        assert!(error.contains("at least 4.9s ahead"), "{error}");
    }

    #[test]
    fn a_clock_that_is_right_or_behind_or_hardly_ahead_is_not_blamed() {
        for ahead in [0, 20, 4_000, -60_000, i64::MIN] {
            assert_eq!(refused_at(ahead), refused().to_string());
        }
    }
}
