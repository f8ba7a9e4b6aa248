//! The client: a service that sends requests and returns their responses, within a deadline.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::attempt::RequestSender;
use super::errors;
use super::open_stream::open_stream;
use super::options::ClientOptions;
use super::repeat::{publish_once, send_repeatedly};
use super::to_all::gather;
use crate::connection::Connection;
use crate::deadline;
use crate::error::RpcError;
use crate::message::{Request, Response};
use crate::requester::DroppedReplies;
use crate::service::ResponseFuture;
use crate::task;

/// Sends requests over a [`Connection`] and receives their replies.
///
/// Generated clients are made from a `Client`: `FibClient::new(connection.client())`. A `Client` is cheap to clone and to share. All
/// clients of a connection use one reply queue, which the first call sets up.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    sender: RequestSender,
    /// Permits, one for each call that may be in flight.
    slots: Semaphore,
}

impl Client {
    pub(super) fn new(connection: Connection, options: ClientOptions) -> Self {
        Self(Arc::new(Inner {
            slots: Semaphore::new(options.max_in_flight),
            sender: RequestSender::new(connection, options),
        }))
    }

    /// Returns the connection that the client uses.
    pub fn connection(&self) -> &Connection {
        &self.0.sender.connection
    }

    /// Returns the numbers of replies, on this connection, that were dropped because no call was waiting for them.
    pub fn dropped_replies(&self) -> DroppedReplies {
        self.connection().drop_counter().read()
    }

    pub(super) fn sender(&self) -> &RequestSender {
        &self.0.sender
    }

    /// Takes one of the places for calls in flight; waits for it until the deadline.
    pub(super) async fn place(&self, deadline: Instant) -> Result<Place, RpcError> {
        self.wait_for_slot(deadline).await?.forget();
        Ok(Place(self.clone()))
    }

    fn send(
        self,
        mut request: Request,
    ) -> impl Future<Output = Result<Response, RpcError>> + Send + 'static {
        self.0.sender.options.defaults.complete(&mut request);
        // A block holds its captures once; an `async fn` copies its arguments.
        async move {
            if !task::in_runtime() {
                return Err(RpcError::no_runtime());
            }
            let started = Instant::now();
            let deadline = request
                .0
                .deadline
                .fix(self.0.sender.options.timeout, started);
            let sent = AtomicBool::new(false);
            if deadline <= started {
                return Err(deadline::passed_before_the_call());
            }
            let slot = match self.0.slots.try_acquire() {
                Ok(slot) => slot,
                Err(_) => self.wait_for_slot(deadline).boxed().await?,
            };
            // For errors: the request may be gone by then. A repeated call explains the errors of its attempts itself.
            let service = request.0.service.clone();
            let queue = (!request.0.idempotent).then(|| Arc::clone(&request.0.queue));
            // The future that sends the request is boxed and dropped after sending, so that a waiting call is small.
            let call = async {
                if request.0.idempotent {
                    let repeating =
                        send_repeatedly(&self.0.sender, request, started, deadline, &sent);
                    return repeating.boxed().await;
                }
                let sending = publish_once(&self.0.sender, request, started, deadline, &sent);
                let mut call = sending.boxed().await?;
                call.result().await
            };
            let result = match timeout_at(deadline, call).await {
                Ok(result) => result,
                Err(_) => Err(errors::timed_out(
                    self.connection(),
                    &service,
                    deadline - started,
                    sent.into_inner(),
                )),
            };
            drop(slot);
            result.map_err(|error| match &queue {
                Some(queue) => {
                    errors::explained(error, self.connection(), &service, queue, started, deadline)
                }
                None => error,
            })
        }
    }

    async fn wait_for_slot(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, RpcError> {
        let started = Instant::now();
        match timeout_at(deadline, self.0.slots.acquire()).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => {
                let limit = self.0.sender.options.max_in_flight;
                Err(errors::too_many_in_flight(limit, deadline - started))
            }
        }
    }
}

impl tower_service::Service<Request> for Client {
    type Response = Response;
    type Error = RpcError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> ResponseFuture {
        match request.0.answers.take() {
            None if request.0.streams.is_some() => {
                ResponseFuture::new(open_stream(self.clone(), request))
            }
            None => ResponseFuture::new(self.clone().send(request)),
            Some(slot) => ResponseFuture::new(gather(self.clone(), request, *slot)),
        }
    }
}

/// One of the places for calls in flight. It is free again when dropped.
pub(super) struct Place(Client);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.slots.add_permits(1);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RequestSender {
            connection,
            options,
            ..
        } = &self.0.sender;
        f.debug_struct("Client")
            .field("connection", connection)
            .field("options", options)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Method, Service};

    const ONCE: &Method = &Method::new("once", &[]);
    const OFTEN: &Method = &Method::new("often", &[]).idempotent();
    const SERVICE: &Service = &Service::new("Jobs", "jobs", &[ONCE, OFTEN]);

    #[tokio::test]
    async fn a_waiting_call_is_small() {
        let connection = Connection::open("memory:").await.unwrap();
        let client = connection.client();
        let request = |method| Request::new(SERVICE, method, "jobs", &()).unwrap();
        let call = client.clone().send(request(ONCE));
        assert!(size_of_val(&call) <= 448, "{}", size_of_val(&call));
        let (now, sent) = (Instant::now(), AtomicBool::new(false));
        let repeated = send_repeatedly(&client.0.sender, request(OFTEN), now, now, &sent);
        assert!(size_of_val(&repeated) <= 704, "{}", size_of_val(&repeated));
    }
}
