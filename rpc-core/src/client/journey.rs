//! The way of a call through the layers around a client, which know nothing of its time limit.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::DEFAULT_TIMEOUT;
use crate::error::{ErrorKind, RpcError};
use crate::message::{Request, Response};
use crate::service::{self, RpcService};
use crate::task;

/// What a call and the service behind its layers tell each other.
#[derive(Clone, Debug)]
pub(crate) struct Journey(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    /// When it ends, as the service knows that has it.
    end: OnceLock<Instant>,
}

impl Journey {
    pub(super) fn begin() -> Self {
        Self(Arc::new(Inner {
            begun: Instant::now(),
            end: OnceLock::new(),
        }))
    }

    /// What is left of a time limit.
    pub(crate) fn left_of(&self, limit: Duration, now: Instant) -> Duration {
        limit.saturating_sub(now.duration_since(self.0.begun))
    }

    /// Notes that the call is behind the layers, and when it will be ended there.
    pub(crate) fn arrived(&self, end: Instant) {
        // Another attempt of a call that is sent again finds what the first has set.
        let _ = self.0.end.set(end);
    }

    /// Calls a service with layers around it. The service keeps the deadline itself and knows more about the call when it passes;
    /// being polled first it wins. This covers the layers.
    pub(super) async fn through_layers<S: RpcService>(
        self,
        mut service: S,
        request: Request,
    ) -> Result<Response, RpcError> {
        if !task::in_runtime() {
            return Err(RpcError::no_runtime());
        }
        let begun = Instant::now();
        let mut end = request.deadline_or(DEFAULT_TIMEOUT, begun);
        if end <= begun {
            return Err(RpcError::passed_before_it_was_made());
        }
        let too_late = || {
            RpcError::new(
                ErrorKind::Timeout,
                "the deadline passed in a layer around the client",
            )
        };
        timeout_at(end, service::ready(&mut service))
            .await
            .unwrap_or_else(|_| Err(too_late().not_executed()))?;
        let mut answer = pin!(service.call(request));
        loop {
            match timeout_at(end, &mut answer).await {
                Ok(answer) => return answer.map_err(RpcError::from_layer),
                // A client may allow more time than this could know.
                Err(_) => match self.0.end.get() {
                    Some(later) if *later > end => end = *later,
                    _ => return Err(too_late()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tower::util::service_fn;

    use super::*;
    use crate::codec::ContentType;
    use crate::definition::{Method, Service};
    use crate::message::Outcome;

    const GET: &Method = &Method::new("get", &[]);
    const SERVICE: &Service = &Service::new("Shelf", "rpc.Shelf", &[GET]);
    const MINUTE: Duration = Duration::from_secs(60);

    fn request() -> Request {
        let mut request = Request::new(SERVICE, GET, "rpc.Shelf", &()).unwrap();
        request.0.journey = Some(Journey::begin());
        request
    }

    fn reply() -> Response {
        Response::new(Outcome::Result, ContentType::MessagePack, "".into())
    }

    /// How the call of a service ends, and how long that takes.
    async fn outcome<S: RpcService>(service: S) -> (Result<Response, RpcError>, Duration) {
        let begun = Instant::now();
        let request = request();
        let journey = request.0.journey.clone().unwrap();
        let answer = journey.through_layers(service, request).await;
        (answer, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_hangs_does_not_hold_a_call_for_ever() {
        let hanging = service_fn(|_| pending::<Result<Response, RpcError>>());
        let (answer, took) = outcome(hanging).await;
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.may_have_executed());
        assert!(took.abs_diff(DEFAULT_TIMEOUT) < Duration::from_millis(10));
    }

    /// Never ready.
    #[derive(Clone)]
    struct Full;

    impl tower_service::Service<Request> for Full {
        type Response = Response;
        type Error = RpcError;
        type Future = std::future::Pending<Result<Response, RpcError>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), RpcError>> {
            std::task::Poll::Pending
        }

        fn call(&mut self, _: Request) -> Self::Future {
            pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_layer_never_let_through_was_not_executed() {
        let (answer, took) = outcome(Full).await;
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
        assert!(took.abs_diff(DEFAULT_TIMEOUT) < Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_allow_more_time() {
        let patient = service_fn(|request: Request| async move {
            let end = request.deadline_or(2 * MINUTE, Instant::now());
            request.0.journey.unwrap().arrived(end);
            tokio::time::sleep(MINUTE).await;
            Ok::<_, RpcError>(reply())
        });
        let (answer, took) = outcome(patient).await;
        answer.unwrap();
        assert!(took.abs_diff(MINUTE) < Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn time_spent_in_layers_counts() {
        let request = request();
        tokio::time::sleep(DEFAULT_TIMEOUT / 2).await;
        let now = Instant::now();
        let left = request.deadline_or(DEFAULT_TIMEOUT, now) - now;
        assert!(left.abs_diff(DEFAULT_TIMEOUT / 2) < Duration::from_millis(10));
    }
}
