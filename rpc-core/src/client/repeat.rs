//! Attempts of a call: publishes a request again after failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout_at};

use super::attempt::{RequestSender, SentCall};
use super::errors;
use crate::backoff::pauses;
use crate::error::{ErrorKind, RpcError};
use crate::message::{Request, Response};
use crate::middleware::Attempts;
use crate::requester::Requester;

/// The pauses before a request that never left is tried again.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Sends an `idempotent` request until there is a final result. A request that never left waits for the connection. A request that left is
/// sent again only if another attempt may succeed.
pub(super) async fn send_repeatedly(
    sender: &RequestSender,
    request: Request,
    started: Instant,
    deadline: Instant,
    sent: &AtomicBool,
) -> Result<Response, RpcError> {
    let (service, queue) = (request.service(), &*request.0.queue);
    let explained =
        |error| errors::explained(error, &sender.connection, service, queue, started, deadline);
    let mut attempts = Attempts::of(&request, &sender.options.retry, started, deadline);
    loop {
        let own = attempts.attempt_deadline();
        // After a failure the deadline of the call ends the attempt here, so that the error mentions the earlier attempts.
        let limit = own.or(attempts.has_failed().then_some(deadline));
        let result = match limit {
            None => sender.send(&request, deadline, sent).await,
            Some(limit) => timeout_at(limit, sender.send(&request, limit, sent).boxed())
                .await
                .unwrap_or_else(|_| {
                    let sent = sent.load(Ordering::Relaxed);
                    Err(match own {
                        Some(_) => errors::attempt_timed_out(sent),
                        None => {
                            errors::timed_out(&sender.connection, service, deadline - started, sent)
                        }
                    })
                }),
        };
        match result {
            Ok(response) => return Ok(response),
            Err(error) => attempts.failed(&request, error, explained).boxed().await?,
        }
    }
}

/// Publishes a request that is not sent again. A request that never left waits for the connection.
pub(super) async fn publish_once<'a>(
    sender: &RequestSender,
    request: Request,
    started: Instant,
    deadline: Instant,
    sent: &'a AtomicBool,
) -> Result<SentCall<'a>, RpcError> {
    let mut attempts = Attempts::of(&request, &sender.options.retry, started, deadline);
    loop {
        let published = match sender.requester().await {
            Ok(requester) => {
                sender
                    .publish(requester, &request, deadline, sent, None)
                    .await
            }
            Err(error) => Err(error),
        };
        match published {
            Ok(call) => return Ok(call),
            Err(error) => {
                let pause = attempts.failed(&request, error, |error| error);
                pause.boxed().await?;
            }
        }
    }
}

/// Makes attempts with the connection's requester until one of them publishes something, or fails for another reason than a lost
/// connection.
pub(super) async fn once_connected<T, F>(
    sender: &RequestSender,
    attempt: impl Fn(Arc<Requester>) -> F,
) -> Result<T, RpcError>
where
    F: Future<Output = Result<T, RpcError>>,
{
    let mut pauses = pauses(MIN_PAUSE, MAX_PAUSE);
    loop {
        let outcome = match sender.requester().await {
            Ok(requester) => attempt(requester).await,
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if error.kind() == ErrorKind::Disconnected && !error.may_have_executed() => {
                sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
            }
            outcome => return outcome,
        }
    }
}
