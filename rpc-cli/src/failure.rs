//! Failures of commands, and the exit codes of the program.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use rpc_core::{ErrorKind, OpenError, RpcError};

use crate::output::visible_lines;

/// Text of `rpc help exit-codes`.
pub(crate) const EXIT_CODES: &str = "\
The exit code tells the outcome of a command:

   0  success
   1  another failure: a file that cannot be written, a dead letter that is not there, …
   2  wrong usage: an unknown option, or arguments or items that do not fit the method
   3  the service answered with its own error
   4  a fault: the server, a layer or the broker refused the call, or the handler failed
   5  timeout: no answer in time
   6  unroutable: there is no such service, instance or queue
   7  no broker: it cannot be reached, it refuses the login, or the connection was lost
   8  permission denied: by the broker or by the server
 130  interrupted by Ctrl-C
 143  ended by SIGTERM

A closed pipe, as in `rpc list | head -1`, is a success.";

/// Exit codes of commands that end early, or with a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    ClosedPipe = 0,
    Failed = 1,
    Usage = 2,
    ServiceError = 3,
    Fault = 4,
    Timeout = 5,
    Unroutable = 6,
    NoBroker = 7,
    PermissionDenied = 8,
    Interrupted = 130,
    Terminated = 143,
}

/// Failure of a command: an exit code, and a message for standard error.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// Empty if everything has been said.
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// Failure of a command that makes no sense as it was typed.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "")
    }

    pub(crate) fn terminated() -> Self {
        Self::new(Exit::Terminated, "")
    }

    /// Failure of a call that the service answered with its own error.
    pub(crate) fn service_error(error: &str) -> Self {
        Self::new(
            Exit::ServiceError,
            format!("the service's own error: {error}"),
        )
    }

    /// Adds a remark to the message.
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        self.message = format!("{} ({note})", self.message);
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Writes the message to standard error, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            // There is no place left to report a standard error that is closed.
            let _ = writeln!(
                anstream::stderr(),
                "{style}error:{style:#} {}",
                visible_lines(&self.message)
            );
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        let exit = match error.kind() {
            ErrorKind::Timeout | ErrorKind::DeadlineExceeded => Exit::Timeout,
            ErrorKind::Unroutable => Exit::Unroutable,
            ErrorKind::Disconnected => Exit::NoBroker,
            ErrorKind::PermissionDenied => Exit::PermissionDenied,
            ErrorKind::Encode => Exit::Usage,
            ErrorKind::Closed => Exit::Failed,
            _ => Exit::Fault,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let exit = match &error {
            OpenError::InvalidUrl(_) | OpenError::InvalidCertificate(_) => Exit::Usage,
            OpenError::VirtualHostRefused { .. } => Exit::PermissionDenied,
            _ => Exit::NoBroker,
        };
        let message = match (&error, error.source()) {
            // The reason is that of the password command, which the library does not know.
            (OpenError::CredentialsUnavailable { .. }, Some(reason)) => reason.to_string(),
            // Such as "connection refused" or an unknown host.
            (OpenError::Unreachable { .. }, Some(reason)) => format!("{error} ({reason})"),
            _ => error.to_string(),
        };
        Self::new(exit, message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::ClosedPipe, ""),
            _ => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        match error.io_error_kind() {
            Some(kind) => io::Error::from(kind).into(),
            None => Self::new(Exit::Failed, error.to_string()),
        }
    }
}
