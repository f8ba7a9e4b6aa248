//! One attempt of a call: a request that is published once, and its reply.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use smol_str::SmolStr;
use tokio::time::Instant;

use super::options::ClientOptions;
use crate::batching::{BatchQueue, BatchQueues, SendPermit};
use crate::connection::Connection;
use crate::error::{ErrorKind, RpcError};
use crate::message::{Request, Response};
use crate::requester::{Requester, SentMessage, Waiter, not_sent, refused};
use crate::telemetry;
use crate::transport::{Channel, ChannelMode, Confirm, Message, Sending, TransportError};
use crate::wire::{self, MessageSettings, StreamTerms};

/// Sends requests over a connection, each once.
pub(super) struct RequestSender {
    pub(super) connection: Connection,
    pub(super) options: ClientOptions,
    /// Batch queues of the client; `None` if requests do not share messages.
    batch_queues: Option<BatchQueues<Requester>>,
}

impl RequestSender {
    pub(super) fn new(connection: Connection, options: ClientOptions) -> Self {
        let mode = options.channel_mode();
        let batch_queues = options
            .max_batch()
            .map(|max_calls| BatchQueues::new(max_calls, mode));
        Self {
            connection,
            options,
            batch_queues,
        }
    }

    /// Returns the connection's requester. Opens one if there is none that works.
    pub(super) async fn requester(&self) -> Result<Arc<Requester>, RpcError> {
        match self.connection.live_requester() {
            Some(requester) => Ok(requester),
            None => self.connection.requester().boxed().await,
        }
    }

    /// Sends a request, with others if it may share a message, and waits for the first event that completes the call: its reply, its
    /// return, the broker's refusal, or the end of the connection. `sent` becomes true when a server may have seen the request.
    pub(super) async fn send(
        &self,
        request: &Request,
        deadline: Instant,
        sent: &AtomicBool,
    ) -> Result<Response, RpcError> {
        let requester = self.requester().await?;
        let batch_queues = self.batch_queues.as_ref();
        let mut message = None;
        if let Some(queue) = batch_queues.and_then(|queues| queues.queue(&requester, request)) {
            message = queue.send_alone().map(SentMessage::with_one_call);
            if message.is_none() {
                let mut call = self.enqueue(&requester, &queue, request, deadline, sent)?;
                match call.result().await {
                    // A server that does not know batches has run no request of the batch.
                    Err(error) if error.kind() == ErrorKind::UnsupportedContentType => {
                        queue.refused();
                    }
                    Err(error) if !call.has_left() => return Err(error.not_executed()),
                    result => return result,
                }
            }
        }
        let mut call = self
            .publish(requester, request, deadline, sent, message)
            .await?;
        call.result().await
    }

    /// Publishes a request alone. From then on a server may see the request.
    pub(super) async fn publish<'a>(
        &self,
        requester: Arc<Requester>,
        request: &Request,
        deadline: Instant,
        sent: &'a AtomicBool,
        message: Option<Arc<SentMessage>>,
    ) -> Result<SentCall<'a>, RpcError> {
        let channel = match self.mode(request) {
            ChannelMode::Confirm => requester.confirm_channel().boxed().await?,
            _ => requester.channel.clone(),
        };
        let (waiter, sending) =
            self.start_publishing(&requester, &*channel, request, deadline, message)?;
        let confirm = sending.wait().await.map_err(not_sent)?;
        Ok(SentCall {
            requester,
            waiter,
            confirm,
            queue: request.0.queue.clone(),
            deadline,
            oneway: request.0.oneway,
            cancels: self.options.cancellation,
            is_over: false,
            permit: None,
            sent,
        })
    }

    pub(super) fn mode(&self, request: &Request) -> ChannelMode {
        match request.0.oneway || request.0.persistent {
            true => ChannelMode::Confirm,
            false => self.options.channel_mode(),
        }
    }

    /// Registers the call, then publishes its request, so that the fastest reply finds its caller.
    fn start_publishing<'a>(
        &self,
        requester: &Requester,
        channel: &'a dyn Channel,
        request: &Request,
        deadline: Instant,
        message: Option<Arc<SentMessage>>,
    ) -> Result<(Waiter, Sending<'a, Result<Confirm, TransportError>>), RpcError> {
        let waiter = requester.in_flight.register(message)?;
        let (id, frame_max) = (waiter.correlation_id(), channel.frame_max());
        let mut message = self.message(request, id, deadline, frame_max, None)?;
        requester.address(&mut message, !request.0.oneway);
        Ok((
            waiter,
            channel.publish(request.0.queue.clone().into(), message),
        ))
    }

    /// Registers the call and adds its request to a batch queue.
    fn enqueue<'a>(
        &self,
        requester: &Arc<Requester>,
        queue: &BatchQueue<Requester>,
        request: &Request,
        deadline: Instant,
        sent: &'a AtomicBool,
    ) -> Result<SentCall<'a>, RpcError> {
        let waiter = requester.in_flight.register(None)?;
        let frame_max = requester.channel.frame_max();
        let id = waiter.correlation_id();
        let message = self.message(request, id, deadline, frame_max, None)?;
        Ok(SentCall {
            requester: requester.clone(),
            permit: Some(queue.add(waiter.id(), message, request.0.span.clone())),
            waiter,
            confirm: Confirm(None),
            queue: request.0.queue.clone(),
            deadline,
            oneway: false,
            cancels: self.options.cancellation,
            is_over: false,
            sent,
        })
    }

    /// Returns the message of a registered call, without the addresses; with the terms of a stream if the request opens one.
    pub(super) fn message(
        &self,
        request: &Request,
        correlation_id: SmolStr,
        deadline: Instant,
        frame_max: usize,
        stream: Option<StreamTerms>,
    ) -> Result<Message, RpcError> {
        let options = &self.options;
        let settings = MessageSettings {
            correlation_id,
            mandatory: options.mandatory,
            expires: options.expiration,
            reads_batches: options.reads_batches(),
            frame_max,
            stream,
        };
        let content_type = options.content_type_of(request);
        let message = wire::message_from_request(request, content_type, deadline, settings)?;
        let limit = self.connection.max_message_size();
        wire::check_size("request", &message.body, limit).map_err(RpcError::not_executed)?;
        telemetry::published(request, &message);
        Ok(message)
    }
}

impl fmt::Debug for RequestSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestSender")
            .field("connection", &self.connection)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A call whose request a server may have. Dropping it before its end cancels the call.
#[derive(Debug)]
pub(super) struct SentCall<'a> {
    requester: Arc<Requester>,
    waiter: Waiter,
    confirm: Confirm,
    queue: Arc<str>,
    deadline: Instant,
    /// Expects no reply.
    oneway: bool,
    /// Tells servers that the call was dropped.
    cancels: bool,
    is_over: bool,
    /// Permission to send a request that may wait in a batch queue.
    permit: Option<Arc<SendPermit>>,
    /// Becomes true when a server may have seen the request.
    sent: &'a AtomicBool,
}

impl SentCall<'_> {
    /// Waits for the first event that completes the call: its reply, its return, the broker's refusal, or the end of the connection.
    pub(super) async fn result(&mut self) -> Result<Response, RpcError> {
        let result = if self.oneway || self.confirm.is_requested() {
            self.confirmed_result().boxed().await
        } else {
            self.waiter.result().await
        };
        self.is_over = true;
        result
    }

    async fn confirmed_result(&mut self) -> Result<Response, RpcError> {
        let confirm = Confirm(self.confirm.0.take());
        let confirmed = self.requester.confirmed(confirm);
        let error = if self.oneway {
            match confirmed.await {
                Ok(()) => return Ok(Response::empty()),
                Err(error) => error,
            }
        } else {
            tokio::select! {
                biased;
                // The reply may overtake the confirm.
                result = self.waiter.result() => return result,
                confirmed = confirmed => match confirmed {
                    Ok(()) => return self.waiter.result().await,
                    Err(error) => error,
                },
            }
        };
        // After a forbidden message, the broker accepts no more on the channel.
        let is_last = self.requester.in_flight.is_last(self.waiter.id());
        Err(refused(error, !is_last))
    }

    /// Returns `true` if the request has left the client. Otherwise revokes the permit, so that the request never leaves.
    fn has_left(&self) -> bool {
        self.permit.as_ref().is_none_or(|permit| !permit.revoke())
    }
}

impl Drop for SentCall<'_> {
    fn drop(&mut self) {
        if !self.has_left() {
            return;
        }
        self.sent.store(true, Ordering::Relaxed);
        if self.is_over || self.oneway {
            return;
        }
        if Instant::now() >= self.deadline {
            // Servers know the deadline, and stop without a notice.
            self.requester.in_flight.health.failed();
        } else if self.cancels {
            let id = self.waiter.id();
            self.requester
                .canceller
                .cancel(&self.queue, id, self.deadline);
        }
    }
}
