//! What can go wrong with a call, with opening a connection and with serving.
//!
//! Three errors for three moments: [`RpcError`] is the fate of one call, [`OpenError`] says why a connection could not
//! be opened, [`ServeError`] why a server cannot go on. A service's own errors are none of these: they reach the caller
//! whole, as [`CallError::App`].

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::queue::Refusal;

/// Any error, as tower's middleware passes it on.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The number of causes of an error that are looked at: a chain of another crate's errors may be endless.
const MAX_CAUSES: usize = 32;

/// What became of a call, one case for each reaction a caller may have.
///
/// New kinds may be added, so a `match` needs a `_` arm; [`RpcError::is_retryable`] and its siblings answer the usual
/// questions without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The deadline passed before an answer came, whatever the reason.
    Timeout,
    /// No queue of that name exists: no server of this service has ever been started on the broker. (A queue stays when its
    /// servers have gone; a call then waits for the next one, until its deadline.)
    Unroutable,
    /// The broker refused the request, for instance because the queue is full.
    Rejected,
    /// The connection to the broker was lost with the call in flight, or is down.
    Disconnected,
    /// The server was told to stop this call, or shut down before running it; or this call was part of another one
    /// ([`Context`](crate::Context)) whose caller has dropped it; or a layer failed with an error that tells no kind.
    Cancelled,
    /// The service has no method of that name.
    UnknownMethod,
    /// The server could not decode the request's arguments.
    BadRequest,
    /// The server does not know the request's content type.
    UnsupportedContentType,
    /// The server did not run the request, or stopped running it, because its deadline or the time limit of a layer had passed.
    DeadlineExceeded,
    /// The handler panicked.
    Panicked,
    /// The request or its reply is larger than allowed.
    TooLarge,
    /// The reply could not be encoded by the server, or not be decoded by the client.
    BadReply,
    /// The request could not be encoded; nothing was sent.
    Encode,
    /// A layer, the server or the broker does not allow this caller the call. Never sent again: the answer would be the same.
    PermissionDenied,
    /// A layer or the server refused the request before it ran, because there was too much to do. May be sent again later.
    Overloaded,
    /// The connection was closed on this side.
    Closed,
}

/// The faults that a server reports to its callers, and their codes in the wire protocol.
const FAULT_CODES: &[(ErrorKind, &str)] = &[
    (ErrorKind::Cancelled, "cancelled"),
    (ErrorKind::UnknownMethod, "unknown_method"),
    (ErrorKind::BadRequest, "bad_request"),
    (
        ErrorKind::UnsupportedContentType,
        "unsupported_content_type",
    ),
    (ErrorKind::DeadlineExceeded, "deadline_exceeded"),
    (ErrorKind::Panicked, "panicked"),
    (ErrorKind::TooLarge, "too_large"),
    (ErrorKind::BadReply, "bad_reply"),
    (ErrorKind::PermissionDenied, "permission_denied"),
    (ErrorKind::Overloaded, "overloaded"),
];

impl ErrorKind {
    /// The code of this kind in a fault reply. A layer of the server may return kinds that no fault has: a time limit that passed
    /// is one that passed on the server, and any other is reported as `cancelled`, because the server did not answer the call.
    pub(crate) fn fault_code(self) -> &'static str {
        let reported = match self {
            Self::Timeout => Self::DeadlineExceeded,
            other => other,
        };
        FAULT_CODES
            .iter()
            .find(|(kind, _)| *kind == reported)
            .map_or("cancelled", |(_, code)| code)
    }

    /// The name of this kind in snake case, for telemetry; that of a fault is its code.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unroutable => "unroutable",
            Self::Rejected => "rejected",
            Self::Disconnected => "disconnected",
            Self::Encode => "encode",
            Self::Closed => "closed",
            Self::Cancelled
            | Self::UnknownMethod
            | Self::BadRequest
            | Self::UnsupportedContentType
            | Self::DeadlineExceeded
            | Self::Panicked
            | Self::TooLarge
            | Self::BadReply
            | Self::PermissionDenied
            | Self::Overloaded => self.fault_code(),
        }
    }

    pub(crate) fn from_fault_code(code: &str) -> Option<Self> {
        FAULT_CODES
            .iter()
            .find(|(_, known)| *known == code)
            .map(|(kind, _)| *kind)
    }

    /// What may have happened to a request that reached the broker, as far as the kind alone tells.
    fn may_follow_execution(self) -> bool {
        !matches!(
            self,
            Self::Unroutable
                | Self::Rejected
                | Self::UnknownMethod
                | Self::BadRequest
                | Self::UnsupportedContentType
                | Self::Encode
                | Self::PermissionDenied
                | Self::Overloaded
        )
    }
}

/// Why a call has no result: an [`ErrorKind`], a sentence, and whether the request may have run.
///
/// One word wide, so a `Result<T, RpcError>` is hardly larger than `T`.
pub struct RpcError(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    may_have_executed: bool,
    source: Option<BoxError>,
}

impl RpcError {
    /// Creates an error of `kind`; `message` is for people and is never interpreted.
    ///
    /// Layers on either side, and services written by hand, refuse a request with this. A server sends kind and message to the caller as
    /// a fault, and says whether a handler saw the request. On the client's side, [`PermissionDenied`](ErrorKind::PermissionDenied),
    /// [`Overloaded`](ErrorKind::Overloaded) and the other kinds that refuse a request count as not executed.
    ///
    /// # Examples
    ///
    /// ```
    /// use rpc_core::{ErrorKind, Request, RpcError};
    ///
    /// fn checked(request: Request) -> Result<Request, RpcError> {
    ///     match request.headers().get_as("token") {
    ///         Some("sesame") => Ok(request),
    ///         _ => Err(RpcError::new(ErrorKind::PermissionDenied, "the token is not known")),
    ///     }
    /// }
    /// # let _layer = tower::filter::FilterLayer::new(checked);
    /// ```
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            may_have_executed: kind.may_follow_execution(),
            source: None,
        }))
    }

    /// Adds the error that caused this one, for [`source`](StdError::source).
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// States that the request certainly did not run.
    #[must_use]
    pub fn not_executed(mut self) -> Self {
        self.0.may_have_executed = false;
        self
    }

    /// Takes back that it certainly did not run, if an earlier attempt or delivery may have.
    #[must_use]
    pub(crate) fn executed_if(mut self, earlier: bool) -> Self {
        self.0.may_have_executed |= earlier;
        self
    }

    /// Takes the cause out, whatever it is; gives it if it is an `E`.
    pub(crate) fn take_source<E: StdError + 'static>(&mut self) -> Option<E> {
        let source = self.0.source.take()?;
        source.downcast().ok().map(|source| *source)
    }

    /// Says more.
    #[must_use]
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        self.0.message += note;
        self
    }

    /// The same error for another call.
    pub(crate) fn copied(&self) -> Self {
        let Inner {
            kind,
            message,
            may_have_executed,
            source,
        } = &*self.0;
        Self(Box::new(Inner {
            kind: *kind,
            message: message.clone(),
            may_have_executed: *may_have_executed,
            source: source.as_ref().map(|source| source.to_string().into()),
        }))
    }

    /// What became of the call.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the deadline passed, seen from here ([`ErrorKind::Timeout`]) or by the server
    /// ([`ErrorKind::DeadlineExceeded`]).
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Timeout | ErrorKind::DeadlineExceeded
        )
    }

    /// Whether the same request, sent again a little later, may well succeed.
    ///
    /// This speaks of the cause alone. Whether it is *safe* to send it again is up to the method: if it is not
    /// idempotent, look at [`may_have_executed`](Self::may_have_executed) as well.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Disconnected
                | ErrorKind::Rejected
                | ErrorKind::Cancelled
                | ErrorKind::Overloaded
        )
    }

    /// Whether a handler may have run this request, in part or whole; `false` only when it certainly did not.
    pub fn may_have_executed(&self) -> bool {
        self.0.may_have_executed
    }

    /// The error of a layer around the service: an `RpcError` as it is, any other as the source of one. The first cause of a known
    /// type decides about the kind, because layers such as tower's `BufferLayer` wrap the errors of what is inside of them.
    pub(crate) fn from_layer(error: impl Into<BoxError>) -> Self {
        let error = match error.into().downcast::<Self>() {
            Ok(error) => return *error,
            Err(error) => error,
        };
        let known = chain(Some(&*error)).find_map(Self::from_cause);
        let failed = || {
            let message = "a layer failed, with an error that tells no kind of refusal; `RpcError::new` makes one that does";
            Self::new(ErrorKind::Cancelled, message)
        };
        known.unwrap_or_else(failed).with_source(error)
    }

    /// The error that a cause stands for, if it is of a type that says so.
    fn from_cause(cause: &(dyn StdError + 'static)) -> Option<Self> {
        if let Some(error) = cause.downcast_ref::<Self>() {
            Some(error.copied())
        } else if cause.is::<tower::load_shed::error::Overloaded>() {
            let message = "a layer refused the request: too much is being done already";
            Some(Self::new(ErrorKind::Overloaded, message))
        } else if cause.is::<tower::timeout::error::Elapsed>()
            || cause.is::<tokio::time::error::Elapsed>()
        {
            let message = "the time limit of a layer passed";
            Some(Self::new(ErrorKind::Timeout, message))
        } else {
            None
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn passed_before_it_was_made() -> Self {
        Self::new(
            ErrorKind::Timeout,
            "the deadline had passed before the call was made; nothing was sent",
        )
        .not_executed()
    }

    pub(crate) fn no_runtime() -> Self {
        Self::new(
            ErrorKind::Closed,
            "a call needs a Tokio runtime and was awaited outside of any: await it inside `Runtime::block_on`",
        )
        .not_executed()
    }

    pub(crate) fn runtime_ended() -> Self {
        Self::new(ErrorKind::Closed, RUNTIME_ENDED).not_executed()
    }

    pub(crate) fn closed() -> Self {
        Self::new(
            ErrorKind::Closed,
            "the connection was closed by this process",
        )
        .not_executed()
    }
}

/// The cause of what happens to the users of a connection in other runtimes than the one that has opened it.
pub(crate) const RUNTIME_ENDED: &str = "the runtime that opened the connection has ended, and the connection with it: open one in each runtime, or keep that runtime running";

impl fmt::Display for RpcError {
    /// The message in one line: control characters are escaped, because the other side may have chosen them to forge lines of a
    /// log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.message.split_inclusive(char::is_control) {
            match part.char_indices().next_back() {
                Some((text, control)) if control.is_control() => {
                    write!(f, "{}{}", &part[..text], control.escape_debug())?;
                }
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RpcError");
        debug
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("may_have_executed", &self.0.may_have_executed);
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for RpcError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

/// What a method that returns `Result<T, E>` gives its caller instead of `T`.
#[derive(Debug)]
pub enum CallError<E> {
    /// The service's own error, as the handler returned it.
    App(E),
    /// The call did not come to an answer of the handler's.
    Rpc(RpcError),
}

impl<E> CallError<E> {
    /// The service's own error, if it is one.
    pub fn app(&self) -> Option<&E> {
        match self {
            Self::App(error) => Some(error),
            Self::Rpc(_) => None,
        }
    }

    /// The call's error, if it is one.
    pub fn rpc(&self) -> Option<&RpcError> {
        match self {
            Self::App(_) => None,
            Self::Rpc(error) => Some(error),
        }
    }
}

impl<E> From<RpcError> for CallError<E> {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(error) => error.fmt(f),
            Self::Rpc(error) => error.fmt(f),
        }
    }
}

impl<E: StdError + 'static> StdError for CallError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::App(error) => error.source(),
            Self::Rpc(error) => error.source(),
        }
    }
}

/// Why a [`Connection`](crate::Connection) could not be opened.
///
/// No variant holds or prints a password.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL cannot be understood, or asks for something this build does not have.
    #[error("invalid broker URL: {0}")]
    InvalidUrl(String),
    /// The connection's name does not fit into AMQP.
    #[error("the connection's name is longer than 255 bytes")]
    InvalidName,
    /// The broker does not accept the user name or the password.
    #[error(
        "the broker at {endpoint} refused the credentials of user '{}': check the user name and password{}",
        user.escape_debug(),
        guest_hint(user)
    )]
    CredentialsRefused {
        /// Host and port.
        endpoint: String,
        /// The user name that was refused.
        user: String,
    },
    /// The broker does not take the client certificate for a login, as `auth_mechanism=external` asks it to.
    #[error(
        "the broker at {endpoint} refused the client certificate as a login: check that a user exists with the name that the broker takes \
         from the certificate, as its setting `ssl_cert_login_from` says"
    )]
    CertificateLoginRefused {
        /// Host and port.
        endpoint: String,
        /// The broker's own words.
        source: BoxError,
    },
    /// The broker does not offer the URL's `auth_mechanism`.
    #[error(
        "the broker at {endpoint} does not offer the login mechanism {mechanism}, but {offered:?}: set `auth_mechanism` in the URL to \
         one of those, or enable {mechanism} there, in `auth_mechanisms` (EXTERNAL needs the plugin rabbitmq_auth_mechanism_ssl)"
    )]
    MechanismRefused {
        /// Host and port.
        endpoint: String,
        /// The mechanism that was asked for.
        mechanism: &'static str,
        /// Those that there are, with spaces between them.
        offered: String,
    },
    /// The callback of [`ConnectionBuilder::credentials`](crate::ConnectionBuilder::credentials) failed, panicked or gave no answer in
    /// time.
    #[error("the credentials callback gave no credentials")]
    CredentialsUnavailable {
        /// The callback's own error, or what else happened.
        source: BoxError,
    },
    /// The connection is to state its user ([`ConnectionBuilder::state_user_id`](crate::ConnectionBuilder::state_user_id)), whose name
    /// is not known on this side.
    #[error(
        "the user's name is not known on this side, so that messages cannot state it: log in with a name and a password, or do not call \
         `state_user_id`"
    )]
    UnknownUser,
    /// A certificate or a key that was given cannot be used.
    #[error("{0}")]
    InvalidCertificate(String),
    /// TLS failed: one side does not accept the other's certificate, or only one side speaks TLS.
    #[error("no TLS connection with the broker at {endpoint}: {reason}")]
    TlsRefused {
        /// Host and port.
        endpoint: String,
        /// The reason, and a way out where one is known.
        reason: &'static str,
        /// The cause, in the words of TLS.
        source: BoxError,
    },
    /// A limit of the broker, of the virtual host or of the user leaves no room for another connection.
    #[error("the broker at {endpoint} has no room for another connection: {hint}")]
    LimitReached {
        /// Host and port.
        endpoint: String,
        /// The limit, and the way to raise it.
        hint: &'static str,
        /// The broker's own words.
        source: BoxError,
    },
    /// The broker does not accept an option of the URL.
    #[error("the broker at {endpoint} refused the option `{option}` of the URL: {hint}")]
    OptionRefused {
        /// Host and port.
        endpoint: String,
        /// The name of the option.
        option: &'static str,
        /// A way out.
        hint: &'static str,
        /// The broker's own words.
        source: BoxError,
    },
    /// The broker has no such virtual host, or the user may not enter it.
    #[error(
        "the broker at {endpoint} does not open virtual host '{}' to user '{}'{hint}",
        virtual_host.escape_debug(),
        user.escape_debug()
    )]
    VirtualHostRefused {
        /// Host and port.
        endpoint: String,
        /// The virtual host that was asked for.
        virtual_host: String,
        /// The user name.
        user: String,
        /// A way out, where one is known.
        hint: &'static str,
        /// The broker's own words.
        source: BoxError,
    },
    /// The future was awaited outside of a Tokio runtime.
    #[error(
        "a connection needs a Tokio runtime and was opened outside of any: open it inside `Runtime::block_on`"
    )]
    NoRuntime,
    /// There is no broker, the connection could not be made or broke while it was being made.
    #[error("cannot connect to the broker at {endpoint}: {hint}")]
    Unreachable {
        /// Host and port.
        endpoint: String,
        /// A way out, where one is known.
        hint: &'static str,
        /// The cause.
        source: BoxError,
    },
    /// Something accepted the connection but did not finish the AMQP handshake in time.
    #[error("no AMQP handshake with {endpoint} within {limit:?}")]
    TimedOut {
        /// Host and port.
        endpoint: String,
        /// The limit, 10 seconds unless the URL has a `connection_timeout` (in milliseconds).
        limit: Duration,
    },
}

impl OpenError {
    /// Tells an outage, of the broker or of the program's credentials, from a refusal.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::CredentialsUnavailable { .. }
        )
    }
}

/// Why a [`Server`](crate::Server) could not start or go on.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Two services of the server would read one queue, be it the one where the other's requests wait for their last attempt
    /// (`<queue>.retry`); a queue belongs to one service.
    #[error(
        "services '{first}' and '{second}' both use queue '{queue}': give one of them another with `with_queue` or `with_queue_prefix`"
    )]
    QueueTaken {
        /// The queue.
        queue: String,
        /// The service that was added first.
        first: &'static str,
        /// The service that was added second.
        second: &'static str,
    },
    /// A queue cannot be what it is said to be, on any broker.
    #[error("queue '{queue}' cannot be served: {reason}")]
    InvalidQueue {
        /// The queue.
        queue: String,
        /// What is wrong with its name or its options.
        reason: String,
    },
    /// A service that was added holds no dispatcher that the server can see, or several.
    #[error("a service cannot be served: {reason}")]
    InvalidService {
        /// The layers that may be at fault, and the remedy.
        reason: String,
    },
    /// The server has no service.
    #[error("the server has no service: add one with `service`")]
    NoService,
    /// The broker refused to declare or consume a queue: it exists with other arguments, or the user lacks the right.
    ///
    /// The message names the argument, both values and the remedy, as far as the broker tells them.
    #[error("{}", Refusal::new(queue, &source.to_string()))]
    QueueRefused {
        /// The queue.
        queue: String,
        /// The broker's own words.
        source: BoxError,
    },
    /// The server may not open the channels that it needs: the connection, its user or the broker's node has as many as are allowed.
    #[error("the server may not open another channel: {source}")]
    NoChannel {
        /// The limit, and its remedy.
        source: BoxError,
    },
    /// The server ended with its connection, because its runtime is shutting down. After any other loss the server waits for another
    /// connection.
    #[error("the server lost its connection to the broker")]
    Disconnected(#[source] BoxError),
    /// The runtime that had opened the connection has ended.
    #[error("{RUNTIME_ENDED}")]
    RuntimeEnded,
    /// The server was started outside of a Tokio runtime.
    #[error(
        "a server needs a Tokio runtime and was started outside of any: start it inside `Runtime::block_on`"
    )]
    NoRuntime,
    /// The connection was closed on this side while the server was running.
    #[error("the connection was closed by this process")]
    Closed,
}

/// The message with its causes: what `main` prints when it returns the error.
impl fmt::Debug for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_causes(self))
    }
}

/// The message with its causes: what `main` prints when it returns the error.
impl fmt::Debug for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_causes(self))
    }
}

/// A reason why RabbitMQ refuses its default user, beside a wrong password
/// (<https://www.rabbitmq.com/docs/access-control#loopback-users>).
fn guest_hint(user: &str) -> &'static str {
    match user {
        "guest" => " (a broker lets its default user log in from its own machine only)",
        _ => "",
    }
}

/// An error and its causes: no more than [`MAX_CAUSES`] in all.
fn chain<'a>(
    first: Option<&'a (dyn StdError + 'static)>,
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(first, |&cause| cause.source()).take(MAX_CAUSES)
}

/// Prints an error and its causes in one line. A cause whose words end the line already is left out.
pub(crate) fn with_causes(error: &dyn StdError) -> String {
    let mut line = error.to_string();
    for cause in chain(error.source()) {
        let said = cause.to_string();
        if !line.ends_with(&said) {
            line += &format!(": {said}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_word_wide() {
        assert_eq!(size_of::<Result<(), RpcError>>(), size_of::<usize>());
    }

    #[test]
    fn an_error_is_shown_in_one_line_and_keeps_its_words() {
        let message = "no method 'a\nb\u{1b}[2J\u{85}\r' – Zoë\\\"\t";
        let error = RpcError::new(ErrorKind::UnknownMethod, message);
        let shown = "no method 'a\\nb\\u{1b}[2J\\u{85}\\r' – Zoë\\\"\\t";
        assert_eq!(error.to_string(), shown);
        assert_eq!(error.message(), message);
        assert_eq!(RpcError::new(ErrorKind::Closed, "").to_string(), "");
    }

    #[test]
    fn fault_codes_are_the_snake_case_names_of_the_kinds() {
        for (kind, code) in FAULT_CODES {
            let mut snake = String::new();
            for letter in format!("{kind:?}").chars() {
                if letter.is_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.extend(letter.to_lowercase());
            }
            assert_eq!(*code, snake);
            assert_eq!(ErrorKind::from_fault_code(code), Some(*kind));
        }
    }

    #[test]
    fn a_layer_keeps_an_rpc_error_whole() {
        let boxed: BoxError = Box::new(RpcError::new(ErrorKind::TooLarge, "big"));
        assert_eq!(RpcError::from_layer(boxed).kind(), ErrorKind::TooLarge);
        let other = RpcError::from_layer("busy");
        assert_eq!(other.kind(), ErrorKind::Cancelled);
        assert_eq!(other.source().expect("kept").to_string(), "busy");
    }

    /// An error of a layer that wraps what is inside of it.
    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] BoxError);

    #[test]
    fn the_causes_of_a_layers_error_decide_about_its_kind() {
        let refusal = || RpcError::new(ErrorKind::PermissionDenied, "no token");
        for (cause, kind, executed) in [
            (
                Box::new(tower::load_shed::error::Overloaded::new()) as BoxError,
                ErrorKind::Overloaded,
                false,
            ),
            (
                Box::new(tower::timeout::error::Elapsed::new()),
                ErrorKind::Timeout,
                true,
            ),
            (Box::new(refusal()), ErrorKind::PermissionDenied, false),
        ] {
            let error = RpcError::from_layer(Wrapped(Box::new(Wrapped(cause))));
            assert_eq!(error.kind(), kind);
            assert_eq!(error.may_have_executed(), executed, "{kind:?}");
            assert!(error.source().expect("kept").is::<Wrapped>());
        }
        let error = RpcError::from_layer(Wrapped(refusal().into()));
        assert_eq!(error.to_string(), "no token");
    }

    /// An error that is its own cause.
    #[derive(Debug)]
    struct Loop;

    impl fmt::Display for Loop {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("round and round")
        }
    }

    impl StdError for Loop {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(self)
        }
    }

    #[test]
    fn an_endless_chain_of_causes_ends() {
        assert_eq!(RpcError::from_layer(Loop).kind(), ErrorKind::Cancelled);
        // The same words are not repeated.
        assert_eq!(with_causes(&Loop), "round and round");
    }

    #[test]
    fn a_time_limit_of_a_servers_layer_is_reported_as_one_of_the_server() {
        assert_eq!(ErrorKind::Timeout.fault_code(), "deadline_exceeded");
        assert_eq!(ErrorKind::Unroutable.fault_code(), "cancelled");
    }
}
