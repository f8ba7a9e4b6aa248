//! Execution of code that users write: stopped at its deadline and when its caller is gone, with panics as faults.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;
use tracing::error;

use super::Context;
use crate::cancellation::{CancelOnDrop, Cancellation};
use crate::deadline::{self, DEFAULT_TIMEOUT};
use crate::error::{ErrorKind, RpcError};
use crate::message::{Request, Response, Slot, StreamCall};

/// The deadline and the cancellation that stop the execution of a request.
pub(crate) struct ExecutionLimit {
    deadline: Option<Instant>,
    cancellation: Cancellation,
    origin: Origin,
    late_result: Option<Box<LateResult>>,
}

/// Time in which a direct call returns its result after the caller's last item.
struct LateResult {
    items_ended: Cancellation,
    timeout: Duration,
}

/// Origin of a request.
#[derive(Clone, Copy)]
enum Origin {
    /// A generated client in this process: this is also the caller's side, whose calls always end.
    Direct,
    /// A broker: the caller has a clock of its own.
    Broker,
}

impl ExecutionLimit {
    /// The limit of a request whose handler is about to run.
    ///
    /// An error means that the deadline has passed or the caller has dropped the call: the handler must not run.
    pub(crate) fn begin(request: &mut Request) -> Result<Self, RpcError> {
        let limit = Self::of(request);
        if limit
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            return Err(limit.deadline_fault().not_executed());
        }
        if limit.cancellation.is_cancelled() {
            return Err(dropped_fault().not_executed());
        }
        limit.cancellation.begin();
        Ok(limit)
    }

    fn of(request: &mut Request) -> Self {
        let (origin, deadline) = match &request.0.delivery {
            Some(_) => (Origin::Broker, request.0.deadline.moment()),
            None => (Origin::Direct, direct_deadline(request)),
        };
        let late_result = match origin {
            Origin::Direct => LateResult::of(request).map(Box::new),
            Origin::Broker => None,
        };
        let delivery = request.0.delivery.get_or_insert_default();
        Self {
            deadline,
            cancellation: delivery.cancellation.clone(),
            origin,
            late_result,
        }
    }

    /// The limit of a request from a broker, for the layers around its handler.
    pub(crate) fn of_delivered(request: &Request, cancellation: Cancellation) -> Self {
        Self {
            deadline: request.0.deadline.moment(),
            cancellation,
            origin: Origin::Broker,
            late_result: None,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns `true` if the caller is in this process. Then no server watches the call.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.origin, Origin::Direct)
    }

    /// Cancels the call, for the code that works on it elsewhere, when the guard is dropped.
    pub(crate) fn cancel_on_drop(&self) -> CancelOnDrop {
        self.cancellation.on_drop()
    }

    /// Runs an `async` handler in its context. One function for all methods: generic code is compiled for each.
    pub(crate) async fn run(
        &self,
        context: Context,
        handling: Pin<&mut (dyn Future<Output = Result<Response, RpcError>> + Send + '_)>,
    ) -> Result<Response, RpcError> {
        let stopped = self.cancel_on_drop();
        let handling = context.scope_future(handling);
        let joined = self
            .apply(AssertUnwindSafe(handling).catch_unwind())
            .await?;
        stopped.disarm();
        let mut response = joined.map_err(|panic| panic_fault("the handler", &*panic))??;
        response.headers = context.take_reply_headers();
        Ok(response)
    }

    /// Waits for a handler on a thread, which cannot be stopped. For a request from a broker, the wait continues beyond the deadline, so that
    /// the server's concurrency limit stays true; the caller's own client has ended the call by then.
    pub(crate) async fn apply_to_thread<F: Future>(
        &self,
        handling: F,
    ) -> Result<F::Output, RpcError> {
        match self.origin {
            Origin::Direct => self.apply(handling).await,
            Origin::Broker => Ok(handling.await),
        }
    }

    /// Runs the layers around a handler, which may hold a request back, until the limit. A handler that has begun observes
    /// the limit itself.
    pub(crate) async fn apply_until_begun<F: Future>(
        &self,
        work: F,
    ) -> Result<F::Output, RpcError> {
        let mut work = pin!(work);
        match self.apply(&mut work).await {
            Ok(output) => Ok(output),
            Err(_) if self.cancellation.has_begun() => Ok(work.await),
            Err(error) => Err(error.not_executed()),
        }
    }

    /// Runs a future until it ends, the deadline passes or the caller drops the call.
    pub(crate) async fn apply<F: Future>(&self, work: F) -> Result<F::Output, RpcError> {
        let deadline = async {
            match (self.deadline, &self.late_result) {
                (None, None) => std::future::pending().await,
                (Some(deadline), None) => tokio::time::sleep_until(deadline).await,
                (deadline, Some(result)) => result.overdue(deadline).boxed().await,
            }
        };
        tokio::select! {
            biased;
            output = work => Ok(output),
            () = deadline => Err(self.deadline_fault()),
            () = self.cancellation.cancelled() => Err(dropped_fault()),
        }
    }

    fn deadline_fault(&self) -> RpcError {
        match self.origin {
            Origin::Direct => deadline::passed_in_a_direct_call(),
            Origin::Broker => deadline::passed_at_the_server(),
        }
    }
}

impl LateResult {
    /// Watches the end of the caller's items, if they are the only stream of a call.
    fn of(request: &mut Request) -> Option<Self> {
        let streams = request.0.streams.as_deref_mut()?;
        let source = streams.items.as_ref()?.take()?;
        let is_only_stream = request
            .0
            .definition
            .is_some_and(|method| !method.streams_items);
        if !is_only_stream {
            streams.items = Some(Slot::new(source));
            return None;
        }
        let items_ended = Cancellation::default();
        let ended = items_ended.on_drop();
        streams.items = Some(Slot::new(Box::new(move |content_type| {
            let items = source(content_type);
            // The reader drops the items after their end.
            Box::pin(items.inspect(move |_| {
                let _ = &ended;
            }))
        })));
        Some(Self {
            items_ended,
            timeout: streams.silence.unwrap_or(DEFAULT_TIMEOUT),
        })
    }

    /// Resolves when the time for the result is over, and at the deadline.
    async fn overdue(&self, deadline: Option<Instant>) {
        let overdue = async {
            self.items_ended.cancelled().await;
            tokio::time::sleep(self.timeout).await;
        };
        match deadline {
            None => overdue.await,
            Some(deadline) => {
                let _ = tokio::time::timeout_at(deadline, overdue).await;
            }
        }
    }
}

/// Returns the moment at which a direct call ends. For a call with streams the moment by which the handler has to return; `None` if the
/// handler receives items and the call has no deadline, because the timeout counts from the end of the items then.
fn direct_deadline(request: &Request) -> Option<Instant> {
    let (deadline, now) = (&request.0.deadline, Instant::now());
    match request.0.streams.as_deref() {
        None => Some(deadline.fix(DEFAULT_TIMEOUT, now)),
        Some(StreamCall { items: Some(_), .. }) => {
            // Layers must not end the call while the items flow.
            deadline.fix(Duration::MAX, now);
            deadline.moment()
        }
        Some(streams) => {
            let timeout = streams.silence.unwrap_or(DEFAULT_TIMEOUT);
            Some(deadline.fix_first_answer(timeout, now))
        }
    }
}

/// The fault of a call that its caller has dropped. Few callers receive it.
fn dropped_fault() -> RpcError {
    RpcError::new(ErrorKind::Cancelled, "the caller has dropped the call")
}

/// Runs user code. A panic becomes a fault, which states that `who` panicked.
pub(crate) async fn catching_panics<T>(
    who: &str,
    code: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    let outcome = AssertUnwindSafe(code).catch_unwind().await;
    outcome.unwrap_or_else(|panic| Err(panic_fault(who, &*panic)))
}

/// The fault of a panic. The text of the panic stays on the server, in its log, within the span of the request.
pub(crate) fn panic_fault(who: &str, panic: &(dyn Any + Send)) -> RpcError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    error!(panic = text, "{who} panicked");
    RpcError::new(
        ErrorKind::Panicked,
        format!("{who} panicked; the server's log says why"),
    )
}
