//! Calls to all instances of a service, and the streams of their answers.

use std::fmt;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, FusedStream, Stream};

use super::call::{Call, Decode, Unsent, has_layers, surrounded};
use super::service::Client;
use super::streaming::Reading;
use crate::context::Context;
use crate::deadline;
use crate::error::{ErrorKind, RpcError};
use crate::message::{AnswerSlot, AnswerStream, Request, Response};
use crate::service::RpcService;
use crate::telemetry::Observed;

/// Time for which answers are gathered, unless set.
pub(super) const DEFAULT_WITHIN: Duration = Duration::from_secs(1);

impl<R, S> Call<R, S> {
    /// Sends the call to every running server of the method's queue, and gathers their answers. Servers of the same service on other queues
    /// are not called. The setters of the call come before this method, and keep their effect.
    ///
    /// Each instance runs the call at most once: the call is not repeated, even if the method is `idempotent`. An instance that starts later
    /// does not get it.
    ///
    /// Answers are gathered for 1 second, or for the time that [`Gather::within`] sets. A server takes part if its user may bind queues to the
    /// exchange `amq.direct`. The client's user needs the permission to write to that exchange.
    ///
    /// In the direct form the dispatcher gives the only answer, with the id `direct`. Layers around the client see the request once,
    /// and one empty response. A layer that answers in place of the client gives the only answer, with an empty id.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use rpc_core::{Connection, Server, rpc};
    /// #[rpc]
    /// trait Catalogue {
    ///     async fn clear_cache() -> u64;
    /// }
    /// # struct Shelf;
    /// # impl Catalogue for Shelf {
    /// #     async fn clear_cache(&self) -> u64 { 7 }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let connection = Connection::open("memory:").await?;
    /// # let server = Server::builder(&connection).service(CatalogueDispatcher::new(Shelf)).build().start().await?;
    /// # let catalogue = CatalogueClient::new(connection.client());
    /// let call = catalogue.clear_cache().header("tenant", "a");
    /// let mut answers = call.to_all_instances().within(Duration::from_secs(2)).send().await?;
    /// while let Some((instance, cleared)) = answers.next().await {
    ///     match cleared {
    ///         Ok(entries) => println!("{instance}: {entries} entries"),
    ///         Err(error) => println!("{instance}: {error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_all_instances(self) -> Gather<R, S> {
        Gather {
            call: self,
            within: DEFAULT_WITHIN,
            expected: None,
        }
    }
}

/// A call to all instances that has not been sent yet, with the limits of its answers; see [`Call::to_all_instances`] for an example.
#[derive(Debug)]
#[must_use = "the call is not sent until `send` is awaited"]
pub struct Gather<R, S = Client> {
    call: Call<R, S>,
    within: Duration,
    expected: Option<usize>,
}

impl<R, S> Gather<R, S> {
    /// Sets the time for which answers are gathered, counted from [`send`](Self::send). Default: 1 second. The call's own deadline ends the
    /// gathering if it is earlier.
    ///
    /// The servers learn the end of this time as the deadline of the call: a handler that is still running then is stopped, like that of any
    /// call. With zero, `send` fails with [`ErrorKind::Timeout`] and sends nothing.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Ends the gathering after this number of answers, without waiting for the rest of the time. Errors count as answers. Further
    /// instances still run the call; their answers are dropped. 0 counts as 1. Default: no limit except 4,096.
    pub fn expect(mut self, answers: usize) -> Self {
        self.expected = Some(answers);
        self
    }
}

impl<R: 'static, S: RpcService> Gather<R, S> {
    /// Sends the call. Resolves once the broker has the request, with the stream of answers.
    ///
    /// From here to the end of the stream, the call takes one place of
    /// [`ClientBuilder::max_in_flight`](crate::ClientBuilder::max_in_flight), and belongs to the handler in which it is made, like any call.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Unroutable`] if no server of the queue takes part.
    /// - [`ErrorKind::PermissionDenied`] if the user may not write to the exchange `amq.direct`.
    /// - [`ErrorKind::Encode`] for a method that is `oneway`, which has no answers, for a method with streams, for a
    ///   [plain](crate::ClientBuilder::plain) client, and for a call that was polled before.
    /// - The other errors of a call that is not sent: while the connection is down, the call waits for it until the time limit.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the call, like dropping a [`Call`].
    pub async fn send(self) -> Result<Answers<R>, RpcError> {
        let Unsent {
            service,
            request,
            decode,
        } = self.call.into_unsent().ok_or_else(polled)?;
        let (mut request, parent) = request?;
        if request.0.oneway {
            return Err(no_answers(&request));
        }
        if request.0.streams.is_some() {
            return Err(one_stream(&request));
        }
        let parent = Context::current().or(parent);
        request.0.deadline.start();
        if let Some(parent) = &parent {
            parent.hand_on(&mut request);
        }
        request.0.deadline.limit(deadline::after(self.within));
        // No layer may send the request again once an instance may have it.
        request.0.idempotent = false;
        let slot = AnswerSlot::new(self.expected);
        request.0.answers = Some(Box::new(slot.clone()));
        let layered = has_layers::<S>().then(|| request.0.deadline.enter_layers());
        let mut observed = Observed::by_client(&mut request);
        let calling = surrounded(service, request, parent.clone(), layered);
        let response = match &mut observed {
            None => calling.await,
            Some(observed) => observed.follow(calling).await,
        }?;
        if let Some(observed) = &mut observed {
            observed.goes_on();
        }
        let answers = slot.take().unwrap_or_else(|| {
            let only = (String::new(), Ok(response));
            Box::pin(stream::once(ready(only)))
        });
        Ok(Answers {
            answers: Some(answers),
            decode,
            observed,
            abandoned: parent.map(|parent| parent.until_abandoned().boxed()),
        })
    }
}

/// Error of a call whose request has been given away.
fn polled() -> RpcError {
    RpcError::new(
        ErrorKind::Encode,
        "a call that was polled cannot go to all instances: call `to_all_instances` first",
    )
}

fn no_answers(request: &Request) -> RpcError {
    let (service, method) = (request.service(), request.method().unwrap_or_default());
    RpcError::new(
        ErrorKind::Encode,
        format!(
            "{service}.{method} is `oneway` and has no answers: it cannot be called on all instances"
        ),
    )
}

fn one_stream(request: &Request) -> RpcError {
    let (service, method) = (request.service(), request.method().unwrap_or_default());
    RpcError::new(
        ErrorKind::Encode,
        format!(
            "{service}.{method} has a stream, and a stream belongs to one instance: the method cannot be called on all instances"
        ),
    )
}

/// Answers to a call to all instances: a stream of pairs of an instance's id and an `R`, which is what awaiting the call would give.
///
/// The stream ends at the time limit, or after the [expected](Gather::expect) number of answers. The stream gives one answer of each instance, in the
/// order of their arrival. An answer that cannot be decoded, or an instance that refuses the call, is the error of that answer. Answers that
/// come later are dropped and counted, see [`DroppedReplies`](crate::DroppedReplies). Answers that arrived in time wait to be read: 4,096 at
/// most, and further ones only while those that wait have less than 128 MiB.
///
/// If the connection is lost or closed, or the handler in which the call was made is cancelled, the last item has an empty id and
/// the error, such as [`ErrorKind::Disconnected`]: the instances may have run the call.
///
/// # Cancel safety
///
/// Dropping the future of [`next`](Self::next) loses no answer. Dropping the stream before its end abandons the call: instances are told to
/// stop working on it, see [`ClientBuilder::cancellation`](crate::ClientBuilder::cancellation).
#[must_use = "dropping the answers before their end cancels the call"]
pub struct Answers<R> {
    /// `None` after the end.
    answers: Option<AnswerStream>,
    decode: Decode<R>,
    observed: Option<Box<Observed>>,
    /// Resolves when the handler that made the call is cancelled.
    abandoned: Option<BoxFuture<'static, RpcError>>,
}

impl<R> Answers<R> {
    /// Waits for the next answer. Returns `None` after the last.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no answer.
    pub async fn next(&mut self) -> Option<(String, R)> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn poll_answer(
        &mut self,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<(String, Result<Response, RpcError>)>> {
        let Some(answers) = &mut self.answers else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(next) = answers.as_mut().poll_next(cx) {
            // The end is known with the last answer, so that a reader who stops there has not dropped the call.
            if next.is_none() || answers.is_terminated() {
                let whole = next.as_ref().filter(|(id, _)| id.is_empty());
                self.end(whole.map(|(_, result)| result));
            }
            return Poll::Ready(next);
        }
        match &mut self.abandoned {
            Some(abandoned) => abandoned.poll_unpin(cx).map(|error| {
                let result = Err(error);
                self.end(Some(&result));
                Some((String::new(), result))
            }),
            None => Poll::Pending,
        }
    }

    /// Ends the stream, and records the outcome of the call: a result, or the item that comes from no instance.
    fn end(&mut self, whole: Option<&Result<Response, RpcError>>) {
        if let Some(mut observed) = self.observed.take() {
            observed.ended(whole);
        }
        self.answers = None;
        self.abandoned = None;
    }
}

impl<R> Stream for Answers<R> {
    type Item = (String, R);

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<(String, R)>> {
        let decode = self.decode;
        self.poll_answer(cx)
            .map(|next| next.map(|(id, result)| (id, decode(result, &mut Reading::default()))))
    }
}

impl<R> FusedStream for Answers<R> {
    fn is_terminated(&self) -> bool {
        self.answers.is_none()
    }
}

impl<R> fmt::Debug for Answers<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("is_terminated", &self.is_terminated())
            .finish_non_exhaustive()
    }
}
