//! Sending a request again: when that does no harm, may help, and there is time for it.
//!
//! The [`Client`](crate::Client) does so by itself, following its policy; the layer does the same around anything else. Both
//! are loops around [`Attempts`], which decides.

use std::task::{Context, Poll};
use std::time::Duration;

use backon::ExponentialBackoff;
use tokio::time::{Instant, timeout_at};
use tower_layer::Layer;
use tower_service::Service;
use tracing::debug;

use crate::backoff::pauses;
use crate::client::DEFAULT_TIMEOUT;
use crate::error::{ErrorKind, RpcError};
use crate::message::{Request, Response, deadline_after};
use crate::service::{self, ResponseFuture, RpcService};
use crate::telemetry::metrics;

/// The pauses before a request is sent again, unless set.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How often, and for how long, a request is sent again.
///
/// Only calls of `idempotent` methods are repeated, only after failures that may pass
/// ([`is_retryable`](RpcError::is_retryable)), and never beyond the call's deadline. (A request that never left, because the
/// connection is down, waits for it and is no attempt, whatever the method and the policy.) A call that fails after several attempts
/// has the error of the last one, which says how many there were, how long they took together, and how the first one failed.
///
/// [`ClientBuilder::retry`](crate::ClientBuilder::retry) gives it to a client, [`RetryLayer`] puts it around any service.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use rpc_core::{Connection, OpenError};
/// use rpc_core::middleware::RetryPolicy;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), OpenError> {
/// # let connection = Connection::open("memory:").await?;
/// let policy = RetryPolicy::new()
///     .attempts(3)
///     .attempt_timeout(Duration::from_secs(1))
///     .reserve(Duration::from_millis(100));
/// let client = connection.client_builder().retry(policy).build();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a policy does nothing until a client or a layer has it"]
pub struct RetryPolicy {
    attempts: u32,
    min_pause: Duration,
    max_pause: Duration,
    attempt_timeout: Option<Duration>,
    reserve: Duration,
}

impl RetryPolicy {
    /// As often as the deadline allows, with pauses from 10 milliseconds to 1 second. What clients do unless told otherwise.
    pub fn new() -> Self {
        Self {
            attempts: u32::MAX,
            min_pause: MIN_PAUSE,
            max_pause: MAX_PAUSE,
            attempt_timeout: None,
            reserve: Duration::ZERO,
        }
    }

    /// No second attempt.
    pub fn never() -> Self {
        Self::new().attempts(1)
    }

    /// How often a request is sent in all. Default: no limit but the deadline. 0 counts as 1.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The pauses between attempts: they double from `min` to `max`, each lengthened at random, to twice as long at most, so that
    /// many who fail together do not come back in step. Default: 10 milliseconds to 1 second. `max` counts as `min` at least.
    pub fn pauses(mut self, min: Duration, max: Duration) -> Self {
        self.min_pause = min;
        self.max_pause = max.max(min);
        self
    }

    /// How long one attempt may take; one that has no answer by then is given up, the server is told by the attempt's own
    /// deadline, and another is made. Default: as long as the call.
    ///
    /// It keeps a server that hangs from using up the whole deadline. Zero lets no attempt succeed.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Makes no further attempt with less than this left of the call's time: the call then fails at once with the last
    /// failure, instead of trying what it has no time for. Default: zero.
    pub fn reserve(mut self, time: Duration) -> Self {
        self.reserve = time;
        self
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    policy: &'a RetryPolicy,
    /// Whether another may be made after one that may have run.
    repeats: bool,
    started: Instant,
    deadline: Instant,
    made: u32,
    /// Whether one of them may have run.
    executed: bool,
    /// From the first failure on.
    failures: Option<Box<Failures>>,
}

#[derive(Debug)]
struct Failures {
    pauses: ExponentialBackoff,
    /// The message of the first attempt's error.
    first: Option<String>,
}

/// The most that is told of the first failure, in characters: another program may have chosen the text.
const MAX_FIRST: usize = 200;

impl<'a> Attempts<'a> {
    pub(crate) fn of(
        request: &Request,
        policy: &'a RetryPolicy,
        started: Instant,
        deadline: Instant,
    ) -> Self {
        Self {
            policy,
            repeats: request.0.idempotent && policy.attempts > 1,
            started,
            deadline,
            made: 0,
            executed: false,
            failures: None,
        }
    }

    /// Tells whether one has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures.is_some()
    }

    /// When the attempt that is about to be made is given up, if that is before the call's deadline.
    pub(crate) fn limit(&self) -> Option<Instant> {
        let timeout = self.policy.attempt_timeout.filter(|_| self.repeats)?;
        Some(deadline_after(timeout)).filter(|limit| *limit < self.deadline)
    }

    /// Takes the failure of an attempt. Returns after a pause if another is to be made, else fails with what the caller is to know:
    /// `explained` adds what else there is to say of the last failure.
    pub(crate) async fn failed(
        &mut self,
        request: &Request,
        error: RpcError,
        explained: impl FnOnce(RpcError) -> RpcError,
    ) -> Result<(), RpcError> {
        let error = error.executed_if(self.executed);
        let never_left = error.kind() == ErrorKind::Disconnected && !error.may_have_executed();
        if !never_left {
            self.made += 1;
        }
        // A time limit that passes before the call's own is that of a layer, or of an attempt.
        let may_pass = error.is_retryable()
            || error.kind() == ErrorKind::Timeout
            || self.policy.attempt_timeout.is_some() && error.is_timeout();
        let may_repeat = self.repeats && may_pass && self.made < self.policy.attempts;
        if !never_left && !may_repeat {
            return Err(self.summed_up(explained(error)));
        }
        let pause = self.pause();
        let next = Instant::now() + pause;
        if !never_left && next + self.policy.reserve >= self.deadline {
            return Err(self.summed_up(explained(error)));
        }
        if let Some(failures) = &mut self.failures
            && !never_left
        {
            let text = || error.message().chars().take(MAX_FIRST).collect();
            failures.first.get_or_insert_with(text);
        }
        self.executed |= error.may_have_executed();
        if !never_left {
            metrics::retried(request.0.service, request.method().unwrap_or_default());
        }
        debug!(service = request.0.service, method = request.method(), %error, "sending the request again");
        // A request that never left may wait for as long as there is time.
        tokio::time::sleep_until(next.min(self.deadline)).await;
        Ok(())
    }

    /// The error of the last attempt, as that of all.
    fn summed_up(&self, error: RpcError) -> RpcError {
        let failures = self.failures.as_ref();
        let Some(first) = failures.and_then(|failures| failures.first.as_deref()) else {
            return error;
        };
        let (made, took) = (self.made, self.started.elapsed());
        let note = if error.message().starts_with(first) {
            format!(" (the last of {made} attempts in {took:.1?})")
        } else {
            format!(" (the last of {made} attempts in {took:.1?}; the first failed: {first})")
        };
        error.with_note(&note)
    }

    fn pause(&mut self) -> Duration {
        let RetryPolicy {
            min_pause,
            max_pause,
            ..
        } = *self.policy;
        let none = || {
            Box::new(Failures {
                pauses: pauses(min_pause, max_pause),
                first: None,
            })
        };
        let failures = self.failures.get_or_insert_with(none);
        failures.pauses.next().unwrap_or(max_pause) // There is always another.
    }
}

/// Repeats calls of idempotent methods around a service that does not, or does it too far inside.
///
/// A [`Client`](crate::Client) repeats by itself, below all layers. This layer is for what refuses calls above it: a load
/// limit that sheds, a circuit breaker, a choice among several clients. Switch the client's own repetition off then
/// ([`RetryPolicy::never`]), or the attempts multiply.
///
/// A call without a deadline of its own counts as one of 30 seconds when it comes to another attempt. On a server the layer
/// does nothing: whether a method is idempotent is known to its callers.
///
/// # Examples
///
/// ```
/// # use rpc_core::{Connection, Server, rpc};
/// use rpc_core::middleware::{RetryLayer, RetryPolicy};
/// use tower::ServiceBuilder;
///
/// #[rpc]
/// pub trait Fib {
///     #[rpc(idempotent)]
///     async fn fib(n: u64) -> u64;
/// }
/// # struct Calculator;
/// # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let connection = Connection::open("memory:").await?;
/// # let _server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
/// let client = connection.client_builder().retry(RetryPolicy::never()).build();
/// let service = ServiceBuilder::new()
///     .layer(RetryLayer::new(RetryPolicy::new().attempts(5)))
///     .load_shed()
///     .concurrency_limit(8) // refuses a ninth call at once, which is tried again a little later
///     .service(client);
/// let fib = FibClient::new(service);
/// assert_eq!(fib.fib(30).await?, 30);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct RetryLayer(RetryPolicy);

impl RetryLayer {
    /// Repeats calls as the policy says.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self(policy)
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry {
            inner,
            policy: self.0.clone(),
        }
    }
}

/// A service with a [`RetryLayer`] around it.
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    policy: RetryPolicy,
}

impl<S: RpcService> Service<Request> for Retry<S> {
    type Response = Response;
    type Error = RpcError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        // Each attempt waits for its own clone, so that a service which refuses to be ready can be asked again.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture {
        ResponseFuture::new(repeat(self.clone(), request))
    }
}

async fn repeat<S: RpcService>(service: Retry<S>, request: Request) -> Result<Response, RpcError> {
    let Retry { inner, policy } = service;
    let started = Instant::now();
    let deadline = request.deadline_or(DEFAULT_TIMEOUT, started);
    let mut attempts = Attempts::of(&request, &policy, started, deadline);
    loop {
        let mut attempt = request.clone();
        let limit = attempts.limit();
        attempt.0.deadline = limit.or(attempt.0.deadline);
        let attempt = service::call(inner.clone(), attempt);
        let answer = match limit {
            None => attempt.await,
            Some(limit) => timeout_at(limit, attempt).await.unwrap_or_else(|_| {
                Err(RpcError::new(
                    ErrorKind::Timeout,
                    "the attempt was given up in a layer around the client",
                ))
            }),
        };
        match answer {
            Ok(response) => return Ok(response),
            Err(error) => attempts.failed(&request, error, |error| error).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::codec::ContentType;
    use crate::definition::{Method, Service as Definition};
    use crate::message::Outcome;

    const GET: &Method = &Method::new("get", &[]).idempotent();
    const PUT: &Method = &Method::new("put", &[]);
    const STORE: &Definition = &Definition::new("Store", "store", &[GET, PUT]);

    /// Answers with one failure after the other, then with nothing but success.
    #[derive(Clone)]
    struct Failing {
        failures: Arc<Mutex<VecDeque<RpcError>>>,
        calls: Arc<Mutex<Vec<Instant>>>,
    }

    impl Service<Request> for Failing {
        type Response = Response;
        type Error = RpcError;
        type Future = ResponseFuture;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request) -> ResponseFuture {
            self.calls.lock().unwrap().push(Instant::now());
            let failure = self.failures.lock().unwrap().pop_front();
            ResponseFuture::new(async move {
                match failure {
                    // A server that hangs.
                    Some(error) if error.kind() == ErrorKind::Timeout => {
                        std::future::pending().await
                    }
                    Some(error) => Err(error),
                    None => Ok(Response::new(
                        Outcome::Result,
                        ContentType::MessagePack,
                        vec![0xc0].into(),
                    )),
                }
            })
        }
    }

    async fn try_with(
        policy: RetryPolicy,
        method: &'static Method,
        timeout: Duration,
        failures: impl IntoIterator<Item = ErrorKind>,
    ) -> (Result<Response, RpcError>, Vec<Instant>) {
        let failing = Failing {
            failures: Arc::new(Mutex::new(
                failures
                    .into_iter()
                    .map(|kind| RpcError::new(kind, format!("{kind:?}")))
                    .collect(),
            )),
            calls: Arc::default(),
        };
        let mut request = Request::new(STORE, method, "store", &()).unwrap();
        request.0.deadline = Some(deadline_after(timeout));
        let layered = RetryLayer::new(policy).layer(failing.clone());
        let answer = service::call(layered, request).await;
        let calls = failing.calls.lock().unwrap().clone();
        (answer, calls)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn idempotent_calls_are_repeated_after_failures_that_may_pass() {
        let failures = [ErrorKind::Disconnected, ErrorKind::Cancelled];
        let (answer, calls) = try_with(RetryPolicy::new(), GET, SECOND, failures).await;
        answer.unwrap();
        assert_eq!(calls.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn other_calls_and_other_failures_are_final() {
        let failures = [ErrorKind::Disconnected];
        let (answer, calls) = try_with(RetryPolicy::new(), PUT, SECOND, failures).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Disconnected);
        assert_eq!(calls.len(), 1);
        let failures = [ErrorKind::BadRequest];
        let (answer, calls) = try_with(RetryPolicy::new(), GET, SECOND, failures).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::BadRequest);
        assert_eq!(calls.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_limited() {
        let failures = [ErrorKind::Cancelled; 9];
        let policy = RetryPolicy::new().attempts(4);
        let (answer, calls) = try_with(policy, GET, SECOND, failures).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(calls.len(), 4);
        let (_, calls) = try_with(RetryPolicy::never(), GET, SECOND, failures).await;
        assert_eq!(calls.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_of_a_repeated_call_speaks_of_all_attempts() {
        let policy = || RetryPolicy::new().pauses(SECOND, SECOND);
        let shown = async |policy, failures: &[ErrorKind]| {
            let failures = failures.iter().copied();
            let (answer, _) = try_with(policy, GET, 60 * SECOND, failures).await;
            answer.unwrap_err().to_string()
        };
        let final_one = [ErrorKind::Disconnected, ErrorKind::BadRequest];
        let text = shown(policy(), &final_one).await;
        let (before, after) = text.split_once(" in ").unwrap();
        assert_eq!(before, "BadRequest (the last of 2 attempts");
        assert!(
            after.ends_with("s; the first failed: Disconnected)"),
            "{text}"
        );
        let text = shown(policy().attempts(3), &[ErrorKind::Cancelled; 9]).await;
        assert!(
            text.starts_with("Cancelled (the last of 3 attempts in "),
            "{text}"
        );
        assert!(!text.contains("first"), "{text}");
        assert_eq!(
            shown(policy(), &[ErrorKind::BadRequest]).await,
            "BadRequest"
        );
        assert_eq!(
            shown(RetryPolicy::never(), &[ErrorKind::Cancelled]).await,
            "Cancelled"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(40));
        let policy = RetryPolicy::new().pauses(min, max);
        let (answer, calls) = try_with(policy, GET, SECOND, [ErrorKind::Cancelled; 5]).await;
        answer.unwrap();
        let least = [10, 20, 40, 40, 40].map(Duration::from_millis);
        for (pair, least) in calls.windows(2).zip(least) {
            let pause = pair[1] - pair[0];
            assert!(
                pause >= least && pause <= least + max,
                "{pause:?} for {least:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_is_made_that_there_is_no_time_for() {
        let started = Instant::now();
        let policy = RetryPolicy::new().reserve(SECOND / 2);
        let (answer, calls) = try_with(policy, GET, SECOND, [ErrorKind::Cancelled; 99]).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Cancelled);
        let last = *calls.last().unwrap();
        assert!(last - started < SECOND / 2, "{:?}", last - started);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_leaves_time_for_another() {
        let policy = RetryPolicy::new().attempt_timeout(SECOND / 4);
        let (answer, calls) = try_with(policy, GET, SECOND, [ErrorKind::Timeout]).await;
        answer.unwrap();
        assert!(calls[1] - calls[0] >= SECOND / 4);
    }
}
