//! Retries of idempotent calls after transient failures, within the deadline.
//!
//! A [`Client`](crate::Client) retries according to its policy. [`RetryLayer`] does the same around any other service. Both loop over
//! [`Attempts`], which makes the decisions.

use std::borrow::Borrow;
use std::task::{Context, Poll};
use std::time::Duration;

use backon::ExponentialBackoff;
use tokio::time::{Instant, timeout_at};
use tower_layer::Layer;
use tower_service::Service;
use tracing::debug;

use crate::backoff::pauses;
use crate::deadline::{self, DEFAULT_TIMEOUT};
use crate::error::{ErrorKind, RpcError};
use crate::message::{Request, Response};
use crate::service::{self, ResponseFuture, RpcService};
use crate::telemetry::metrics;

/// The default pauses between attempts.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Policy for retries: the number of attempts, their pauses and their time.
///
/// Only calls to `idempotent` methods are retried, only after transient failures ([`is_retryable`](RpcError::is_retryable)), and never
/// beyond the call's deadline. A call that fails after several attempts returns the error of the last one, which states the number of
/// attempts, their total time, and the failure of the first.
///
/// A request that was not sent because the connection is down waits for the connection. This wait is not an attempt, and applies to all
/// methods and policies.
///
/// Set the policy of a client with [`ClientBuilder::retry`](crate::ClientBuilder::retry), and that of any other service with
/// [`RetryLayer`].
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
#[must_use = "a policy has no effect until it is passed to a client or a layer"]
pub struct RetryPolicy {
    attempts: u32,
    min_pause: Duration,
    max_pause: Duration,
    attempt_timeout: Option<Duration>,
    reserve: Duration,
}

impl RetryPolicy {
    /// Creates the default policy of clients: retries until the deadline, with pauses from 10 milliseconds to 1 second.
    pub fn new() -> Self {
        Self {
            attempts: u32::MAX,
            min_pause: MIN_PAUSE,
            max_pause: MAX_PAUSE,
            attempt_timeout: None,
            reserve: Duration::ZERO,
        }
    }

    /// Creates a policy without retries.
    pub fn never() -> Self {
        Self::new().attempts(1)
    }

    /// Sets the maximum number of attempts, including the first. 0 counts as 1. Default: no limit except the deadline.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the pauses between attempts. They double from `min` to `max`, and each is lengthened at random, to less than twice its length,
    /// so that clients that fail together do not retry in step. A `max` below `min` counts as `min`. Default: 10 milliseconds to
    /// 1 second.
    pub fn pauses(mut self, min: Duration, max: Duration) -> Self {
        self.min_pause = min;
        self.max_pause = max.max(min);
        self
    }

    /// Sets the maximum time of one attempt. An attempt without a reply by then ends, and another attempt is made. The server sees
    /// this time as the request's deadline. With zero, no attempt succeeds. Default: the call's deadline.
    ///
    /// Set this limit so that a server that hangs does not use up the whole deadline of a call.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Sets the time that must be left before the call's deadline for another attempt. With less time left, the call fails at once with
    /// the last failure. Default: zero.
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

/// Attempts of one call, with a policy that is owned or borrowed.
#[derive(Debug)]
pub(crate) struct Attempts<P> {
    policy: P,
    /// `true` if the call may be retried even if an attempt may have run.
    retries: bool,
    started: Instant,
    deadline: Instant,
    made: u32,
    /// `true` if an attempt may have run.
    executed: bool,
    /// `Some` from the first failure on.
    failures: Option<Box<Failures>>,
}

#[derive(Debug)]
struct Failures {
    pauses: ExponentialBackoff,
    /// The message of the first attempt's error.
    first: Option<String>,
}

/// The maximum length of the quoted first failure, in characters: another program may have chosen the text.
const MAX_FIRST: usize = 200;

impl<P: Borrow<RetryPolicy>> Attempts<P> {
    pub(crate) fn of(request: &Request, policy: P, started: Instant, deadline: Instant) -> Self {
        Self {
            retries: request.0.idempotent && policy.borrow().attempts > 1,
            policy,
            started,
            deadline,
            made: 0,
            executed: false,
            failures: None,
        }
    }

    /// Returns `true` if the call may be retried after an attempt that may have run.
    pub(crate) fn may_repeat(&self) -> bool {
        self.retries
    }

    /// Sets a later deadline, after an attempt that made progress.
    pub(crate) fn extend(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Returns `true` if an attempt has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures.is_some()
    }

    /// Returns the deadline of the next attempt, if earlier than the call's deadline.
    pub(crate) fn attempt_deadline(&self) -> Option<Instant> {
        let timeout = self
            .policy
            .borrow()
            .attempt_timeout
            .filter(|_| self.retries)?;
        Some(deadline::after(timeout)).filter(|deadline| *deadline < self.deadline)
    }

    /// Records the failure of an attempt. If another attempt is to be made, waits for a pause and returns `Ok`. Otherwise returns the
    /// call's error: the last failure, to which `explained` adds information, with a summary of all attempts.
    pub(crate) async fn failed(
        &mut self,
        request: &Request,
        error: RpcError,
        explained: impl FnOnce(RpcError) -> RpcError,
    ) -> Result<(), RpcError> {
        let policy = self.policy.borrow();
        let (reserve, attempts) = (policy.reserve, policy.attempts);
        let has_own_timeout = policy.attempt_timeout.is_some();
        let error = error.executed_if(self.executed);
        let was_sent = error.kind() != ErrorKind::Disconnected || error.may_have_executed();
        if was_sent {
            self.made += 1;
        }
        // A timeout before the call's deadline is that of a layer or of an attempt.
        let is_transient = error.is_retryable()
            || error.kind() == ErrorKind::Timeout
            || has_own_timeout && error.is_timeout();
        let may_retry = self.retries && is_transient && self.made < attempts;
        if was_sent && !may_retry {
            return Err(self.summed_up(explained(error)));
        }
        let pause = self.pause();
        let next = Instant::now() + pause;
        if was_sent && next + reserve >= self.deadline {
            return Err(self.summed_up(explained(error)));
        }
        if let Some(failures) = &mut self.failures
            && was_sent
        {
            let text = || error.message().chars().take(MAX_FIRST).collect();
            failures.first.get_or_insert_with(text);
        }
        self.executed |= error.may_have_executed();
        if was_sent {
            let method = request.method().unwrap_or_default();
            metrics::retried(request.0.service.clone(), method);
        }
        debug!(service = request.service(), method = request.method(), %error, "retrying a request");
        // A request that was not sent may wait until the deadline.
        tokio::time::sleep_until(next.min(self.deadline)).await;
        Ok(())
    }

    /// Returns the call's error after an attempt that is not repeated.
    pub(crate) fn ended(&mut self, error: RpcError) -> RpcError {
        self.made += 1;
        let error = error.executed_if(self.executed);
        self.summed_up(error)
    }

    /// Adds a summary of all attempts to the error of the last one.
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
        } = *self.policy.borrow();
        let none = || {
            Box::new(Failures {
                pauses: pauses(min_pause, max_pause),
                first: None,
            })
        };
        let failures = self.failures.get_or_insert_with(none);
        failures.pauses.next().unwrap_or(max_pause) // The pauses are endless.
    }
}

/// Layer that retries calls to idempotent methods.
///
/// A [`Client`](crate::Client) retries by itself, below all layers. Use this layer for calls that layers above the client refuse: a load
/// shed, a circuit breaker, a balancer over several clients. Then switch off the client's own retries ([`RetryPolicy::never`]), or the
/// numbers of attempts multiply.
///
/// For a call without a deadline, the layer retries for up to 30 seconds. On a server the layer has no effect, because requests do not
/// state that their method is idempotent.
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
///     .concurrency_limit(8) // refuses a ninth call at once, and the retry layer sends it again a little later
///     .service(client);
/// let fib = FibClient::new(service);
/// assert_eq!(fib.fib(30).await?, 30);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct RetryLayer(RetryPolicy);

impl RetryLayer {
    /// Creates a layer that retries according to a policy.
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

/// Service made by [`RetryLayer`].
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
        // Each attempt waits until its own clone of the service is ready, so that a service that fails to get ready can be retried.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture {
        ResponseFuture::new(call_with_retries(self.clone(), request))
    }
}

async fn call_with_retries<S: RpcService>(
    service: Retry<S>,
    request: Request,
) -> Result<Response, RpcError> {
    let Retry { inner, policy } = service;
    let started = Instant::now();
    let deadline = request.0.deadline.moment_or(DEFAULT_TIMEOUT, started);
    let mut attempts = Attempts::of(&request, &policy, started, deadline);
    loop {
        let mut attempt = request.clone();
        let attempt_deadline = attempts.attempt_deadline();
        if let Some(moment) = attempt_deadline {
            attempt.0.deadline.set_moment(moment);
        }
        let attempt = service::call(inner.clone(), attempt);
        let outcome = match attempt_deadline {
            None => attempt.await,
            Some(deadline) => timeout_at(deadline, attempt).await.unwrap_or_else(|_| {
                Err(RpcError::new(
                    ErrorKind::Timeout,
                    "the attempt timed out in a layer around the client",
                ))
            }),
        };
        match outcome {
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

    /// A service that returns its failures, then succeeds.
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
                    // Simulates a server that hangs.
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
        request.0.deadline.set_moment(deadline::after(timeout));
        let layered = RetryLayer::new(policy).layer(failing.clone());
        let outcome = service::call(layered, request).await;
        let calls = failing.calls.lock().unwrap().clone();
        (outcome, calls)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn idempotent_calls_are_retried_after_transient_failures() {
        let failures = [ErrorKind::Disconnected, ErrorKind::Cancelled];
        let (outcome, calls) = try_with(RetryPolicy::new(), GET, SECOND, failures).await;
        outcome.unwrap();
        assert_eq!(calls.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn other_calls_and_other_failures_are_not_retried() {
        let failures = [ErrorKind::Disconnected];
        let (outcome, calls) = try_with(RetryPolicy::new(), PUT, SECOND, failures).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Disconnected);
        assert_eq!(calls.len(), 1);
        let failures = [ErrorKind::BadRequest];
        let (outcome, calls) = try_with(RetryPolicy::new(), GET, SECOND, failures).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::BadRequest);
        assert_eq!(calls.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_limited() {
        let failures = [ErrorKind::Cancelled; 9];
        let policy = RetryPolicy::new().attempts(4);
        let (outcome, calls) = try_with(policy, GET, SECOND, failures).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(calls.len(), 4);
        let (_, calls) = try_with(RetryPolicy::never(), GET, SECOND, failures).await;
        assert_eq!(calls.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn error_of_a_retried_call_summarizes_all_attempts() {
        let policy = || RetryPolicy::new().pauses(SECOND, SECOND);
        let shown = async |policy, failures: &[ErrorKind]| {
            let failures = failures.iter().copied();
            let (outcome, _) = try_with(policy, GET, 60 * SECOND, failures).await;
            outcome.unwrap_err().to_string()
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
    async fn pauses_double_up_to_the_maximum() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(40));
        let policy = RetryPolicy::new().pauses(min, max);
        let (outcome, calls) = try_with(policy, GET, SECOND, [ErrorKind::Cancelled; 5]).await;
        outcome.unwrap();
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
    async fn no_attempt_starts_within_the_reserved_time() {
        let started = Instant::now();
        let policy = RetryPolicy::new().reserve(SECOND / 2);
        let (outcome, calls) = try_with(policy, GET, SECOND, [ErrorKind::Cancelled; 99]).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
        let last = *calls.last().unwrap();
        assert!(last - started < SECOND / 2, "{:?}", last - started);
    }

    #[tokio::test(start_paused = true)]
    async fn attempt_timeout_leaves_time_for_another_attempt() {
        let policy = RetryPolicy::new().attempt_timeout(SECOND / 4);
        let (outcome, calls) = try_with(policy, GET, SECOND, [ErrorKind::Timeout]).await;
        outcome.unwrap();
        assert!(calls[1] - calls[0] >= SECOND / 4);
    }
}
