//! Calls to all instances: publishes the request once, and gathers the answers.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::stream::{FusedStream, Stream};
use tokio::time::{Instant, timeout_at};

use super::errors;
use super::repeat::once_connected;
use super::service::{Client, Place};
use crate::codec::ContentType;
use crate::deadline;
use crate::error::{ErrorKind, RpcError};
use crate::message::{AnswerSlot, Request, Response};
use crate::requester::{GatherOptions, Gathering};
use crate::task;
use crate::wire;

/// Publishes the request of a call to all instances, and puts the stream of answers into the slot. Resolves once the broker has the request.
pub(super) async fn gather(
    client: Client,
    mut request: Request,
    slot: AnswerSlot,
) -> Result<Response, RpcError> {
    let sender = client.sender();
    if !task::in_runtime() {
        return Err(RpcError::no_runtime());
    }
    if sender.options.content_type == ContentType::Plain {
        return Err(plain_client());
    }
    sender.options.defaults.complete(&mut request);
    // The request waits in queues that end with their servers.
    request.0.persistent = false;
    let started = Instant::now();
    let deadline = request.0.deadline.fix(sender.options.timeout, started);
    if deadline <= started {
        return Err(deadline::passed_before_the_call());
    }
    let place = client.place(deadline).await?;
    let service = request.0.service.clone();
    let queue = Arc::clone(&request.0.queue);
    let cancels = sender.options.cancellation.then(|| Arc::clone(&queue));
    let request = &request;
    let mut sent = false;
    let publishing = async {
        // A request that was published is never published again: each instance runs it at most once.
        let mut gathering = once_connected(sender, |requester| {
            let options = GatherOptions {
                until: deadline,
                expected: slot.expected(),
                cancels: cancels.clone(),
            };
            requester.gather(wire::all_topic(&queue), options, move |id, frame_max| {
                sender.message(request, id, deadline, frame_max, None)
            })
        })
        .await?;
        sent = true;
        gathering.confirmed().await?;
        Ok(gathering)
    };
    let gathering = timeout_at(deadline, publishing).await.unwrap_or_else(|_| {
        let timeout = deadline - started;
        let connection = client.connection();
        Err(errors::timed_out(connection, &service, timeout, sent))
    });
    let gathering = gathering.map_err(|error| match error.kind() {
        ErrorKind::Unroutable => no_instance(&service, &queue),
        _ => error,
    })?;
    slot.fill(Box::pin(InstanceAnswers {
        gathering,
        place: Some(place),
        client: client.clone(),
        service,
        queue,
        started,
        deadline,
    }));
    Ok(Response::empty())
}

fn plain_client() -> RpcError {
    RpcError::new(
        ErrorKind::Encode,
        "a plain client cannot call all instances: the servers of plain requests do not say which instance answers",
    )
}

/// Error of a call that no instance receives.
fn no_instance(service: &str, queue: &str) -> RpcError {
    RpcError::new(
        ErrorKind::Unroutable,
        format!(
            "no server listens to calls to all instances of the queue '{queue}': is a server of {service} running, and may its user \
             bind a queue to the exchange 'amq.direct'?"
        ),
    )
}

/// Answers of the instances. Dropping them before their end cancels the call.
struct InstanceAnswers {
    gathering: Gathering,
    /// Given back at the end of the answers.
    place: Option<Place>,
    client: Client,
    service: Cow<'static, str>,
    queue: Arc<str>,
    started: Instant,
    deadline: Instant,
}

impl InstanceAnswers {
    fn explained(&self, error: RpcError) -> RpcError {
        let connection = self.client.connection();
        let (service, queue) = (&*self.service, &self.queue);
        errors::explained(
            error,
            connection,
            service,
            queue,
            self.started,
            self.deadline,
        )
    }
}

impl Stream for InstanceAnswers {
    type Item = (String, Result<Response, RpcError>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.gathering.poll_next(cx));
        if self.gathering.is_over() {
            self.place = None;
        }
        Poll::Ready(event.map(|event| match event {
            Ok(answer) => {
                let result = answer.result.map_err(|error| self.explained(error));
                (answer.origin.instance.to_string(), result)
            }
            Err(error) => (String::new(), Err(error)),
        }))
    }
}

impl FusedStream for InstanceAnswers {
    fn is_terminated(&self) -> bool {
        self.gathering.is_over()
    }
}
