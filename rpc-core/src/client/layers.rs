//! Calls through the layers around a client, which do not know the deadline.

use std::pin::pin;

use tokio::time::{Instant, timeout_at};

use crate::deadline::{self, DEFAULT_TIMEOUT, LayeredDeadline};
use crate::error::RpcError;
use crate::message::{Request, Response};
use crate::service::{self, RpcService};
use crate::task;

/// Calls a service with layers around it, and ends the call at its deadline. The service below the layers watches the deadline as well and
/// gives a better error. The service is polled first, so its error wins; this function ends layers that hang.
pub(super) async fn through_layers<S: RpcService>(
    layered: LayeredDeadline,
    mut service: S,
    request: Request,
) -> Result<Response, RpcError> {
    if !task::in_runtime() {
        return Err(RpcError::no_runtime());
    }
    let started = Instant::now();
    let mut end = match &request.0.streams {
        None => request.0.deadline.moment_or(DEFAULT_TIMEOUT, started),
        // Layers see the call up to its first answer.
        Some(streams) => {
            let timeout = streams.silence.unwrap_or(DEFAULT_TIMEOUT);
            request.0.deadline.first_answer(timeout, started)
        }
    };
    if end <= started {
        return Err(deadline::passed_before_the_call());
    }
    timeout_at(end, service::ready(&mut service))
        .await
        .unwrap_or_else(|_| Err(deadline::passed_in_a_layer().not_executed()))?;
    let mut calling = pin!(service.call(request));
    loop {
        match timeout_at(end, &mut calling).await {
            Ok(result) => return result.map_err(RpcError::from_layer),
            // The client's own timeout may be longer than the default.
            Err(_) => match layered.fixed() {
                Some(later) if later > end => end = later,
                _ => return Err(deadline::passed_in_a_layer()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tower::util::service_fn;

    use super::*;
    use crate::codec::ContentType;
    use crate::definition::{Method, Service};
    use crate::error::ErrorKind;
    use crate::message::Outcome;

    const GET: &Method = &Method::new("get", &[]);
    const SERVICE: &Service = &Service::new("Shelf", "rpc.Shelf", &[GET]);
    const MINUTE: Duration = Duration::from_secs(60);

    fn reply() -> Response {
        Response::new(Outcome::Result, ContentType::MessagePack, "".into())
    }

    /// Returns the result of a call, and the time that the call took.
    async fn outcome<S: RpcService>(service: S) -> (Result<Response, RpcError>, Duration) {
        let begun = Instant::now();
        let mut request = Request::new(SERVICE, GET, "rpc.Shelf", &()).unwrap();
        let layered = request.0.deadline.enter_layers();
        let result = through_layers(layered, service, request).await;
        (result, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_hangs_ends_at_the_deadline() {
        let hanging = service_fn(|_| pending::<Result<Response, RpcError>>());
        let (result, took) = outcome(hanging).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.may_have_executed());
        assert!(took.abs_diff(DEFAULT_TIMEOUT) < Duration::from_millis(10));
    }

    /// A service that is never ready.
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
    async fn a_call_held_back_by_a_layer_was_not_executed() {
        let (result, took) = outcome(Full).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
        assert!(took.abs_diff(DEFAULT_TIMEOUT) < Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_allow_more_time() {
        let patient = service_fn(|request: Request| async move {
            request.0.deadline.fix(2 * MINUTE, Instant::now());
            tokio::time::sleep(MINUTE).await;
            Ok::<_, RpcError>(reply())
        });
        let (result, took) = outcome(patient).await;
        result.unwrap();
        assert!(took.abs_diff(MINUTE) < Duration::from_millis(10));
    }
}
