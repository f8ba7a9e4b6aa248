//! Errors of calls, with the facts that the client knows.

use std::time::Duration;

use tokio::time::Instant;

use crate::connection::{Connection, ConnectionState};
use crate::deadline::{self, CLOCK_TOLERANCE, shown};
use crate::error::{ErrorKind, RpcError};

/// A shorter silence may end a stream whose server is alive.
const SHORT_SILENCE: Duration = Duration::from_secs(3);

/// Adds the facts that the client knows to the error of an attempt.
pub(super) fn explained(
    error: RpcError,
    connection: &Connection,
    service: &str,
    queue: &str,
    started: Instant,
    deadline: Instant,
) -> RpcError {
    match error.kind() {
        // The server noticed the deadline first.
        ErrorKind::DeadlineExceeded if Instant::now() + CLOCK_TOLERANCE >= deadline => {
            timed_out(connection, service, deadline - started, true)
        }
        ErrorKind::DeadlineExceeded => {
            let left = deadline.saturating_duration_since(Instant::now());
            deadline::passed_early_at_the_server(error, left)
        }
        ErrorKind::Unroutable => RpcError::new(
            ErrorKind::Unroutable,
            format!("there is no queue '{queue}': is a server of {service} running?"),
        )
        .executed_if(error.may_have_executed()),
        _ => error,
    }
}

/// Error of a call that had no response in time; names the obstacle if it is known.
pub(super) fn timed_out(
    connection: &Connection,
    service: &str,
    timeout: Duration,
    sent: bool,
) -> RpcError {
    let mut message = match sent {
        true => format!("no response within {}", shown(timeout)),
        false => format!("the request could not be sent within {}", shown(timeout)),
    };
    match connection.state_now() {
        ConnectionState::Reconnecting { error } => {
            message += &format!("; the connection to the broker is down: {error}");
        }
        ConnectionState::Blocked { reason } => {
            message += &format!("; the broker is blocking publishers: {reason}");
        }
        ConnectionState::Connected | ConnectionState::Closed if !sent => {}
        ConnectionState::Connected | ConnectionState::Closed => {
            message += &format!(": is a server of {service} running, and fast enough?");
        }
    }
    if connection.is_of_another_runtime() {
        message += "; the connection belongs to another runtime: is that runtime running?";
    }
    executed_if(sent, RpcError::new(ErrorKind::Timeout, message))
}

/// Error of a stream whose server sent nothing, not even a sign of life, for the timeout of the call.
pub(super) fn silent(connection: &Connection, service: &str, silence: Duration) -> RpcError {
    let mut message = format!(
        "the server has been silent for {}, the timeout of the stream",
        shown(silence)
    );
    match connection.state_now() {
        ConnectionState::Blocked { reason } => {
            message += &format!("; the broker is blocking publishers: {reason}");
        }
        _ => {
            message += &format!(": is the server of {service} still running, and not overloaded?");
        }
    }
    if silence < SHORT_SILENCE {
        message += " A stream that may pause needs a timeout of 3 seconds or more: signs of life come at most once a second";
    }
    RpcError::new(ErrorKind::Timeout, message)
}

/// Error of a call whose own stream has ended, and whose result did not follow within the timeout of the call.
pub(super) fn no_result(service: &str, timeout: Duration) -> RpcError {
    let timeout = shown(timeout);
    let message = format!(
        "no result within {timeout} after the last item was sent: is the handler of {service} fast enough? A longer timeout of the call \
         gives it more time"
    );
    RpcError::new(ErrorKind::Timeout, message)
}

/// Error of a stream that was open at its deadline.
pub(super) fn stream_deadline_passed(lasted: Duration) -> RpcError {
    let lasted = shown(lasted);
    let message = format!(
        "the deadline of the stream passed after {lasted}: set a later one, or only a timeout, which limits silences"
    );
    RpcError::new(ErrorKind::Timeout, message)
}

/// Explains the fault of a server that noticed the deadline of an open stream before this client.
pub(super) fn explained_in_stream(
    error: RpcError,
    started: Instant,
    deadline: Option<Instant>,
) -> RpcError {
    let now = Instant::now();
    match deadline {
        Some(deadline) if error.kind() == ErrorKind::DeadlineExceeded => {
            if now + CLOCK_TOLERANCE >= deadline {
                return stream_deadline_passed(now - started);
            }
            deadline::passed_early_at_the_server(error, deadline - now)
        }
        _ => error,
    }
}

/// Error of an attempt that took longer than the retry policy allows.
pub(super) fn attempt_timed_out(sent: bool) -> RpcError {
    let message = "no response within the retry policy's timeout for one attempt";
    executed_if(sent, RpcError::new(ErrorKind::Timeout, message))
}

/// Error of a call that waited until its deadline for other calls of its client to end.
pub(super) fn too_many_in_flight(limit: usize, waited: Duration) -> RpcError {
    let waited = shown(waited);
    let message = format!(
        "the request could not be sent within {waited}: the client was at its limit of {limit} calls in flight all that time"
    );
    RpcError::new(ErrorKind::Timeout, message).not_executed()
}

fn executed_if(sent: bool, error: RpcError) -> RpcError {
    if sent { error } else { error.not_executed() }
}
