//! The task of an open stream on the caller's side.

use std::borrow::Cow;
use std::future::pending;

use tokio::time::Instant;
use tracing::Span;

use super::errors;
use crate::connection::Connection;
use crate::error::RpcError;
use crate::message::ItemStream;
use crate::requester::{StreamOutlet, StreamRegistration};
use crate::streaming::{End, Limits, send_controls, send_items, watch};

/// An open stream, and what its task needs.
pub(super) struct OpenStream<P> {
    pub(super) registration: StreamRegistration,
    pub(super) outlet: StreamOutlet,
    pub(super) limits: Limits,
    pub(super) connection: Connection,
    pub(super) service: Cow<'static, str>,
    pub(super) started: Instant,
    /// Span of the call.
    pub(super) span: Span,
    /// Place of the stream among the calls in flight of the client.
    pub(super) _place: P,
}

impl<P: Sync> OpenStream<P> {
    /// Gives signs of life and credit, sends the caller's items and watches the limits until the stream is over on this side. Then tells the
    /// reader the reason, and the server if the server does not know.
    pub(super) async fn keep(&self, items: Option<ItemStream>) {
        let (inbox, limits) = (self.registration.inbox(), self.limits);
        let _open = inbox.count_as_open(self.span.clone());
        // Boxed, because most callers send no items.
        let sending = items.map(|items| Box::pin(send_items(inbox, &self.outlet, items)));
        let sending = async {
            if let Some(sending) = sending
                && let Err(error) = sending.await
            {
                return error;
            }
            pending().await
        };
        let end = tokio::select! {
            biased; // An end of the stream comes before the failures that follow from the end.
            end = watch(inbox, limits, &self.outlet) => end,
            error = send_controls(inbox, limits, &self.outlet) => End::Failed(error),
            error = sending => End::Failed(error),
        };
        if matches!(end, End::Finished) {
            return;
        }
        if let Some(error) = self.error_of(end) {
            self.registration.fail(&error);
        }
        self.outlet.stop().await;
    }

    /// Returns the last item of a stream that ends early; `None` if there is no reader.
    fn error_of(&self, end: End) -> Option<RpcError> {
        let Limits {
            silence,
            result_within,
            ..
        } = self.limits;
        match end {
            End::Finished | End::Abandoned | End::Stopped => None,
            End::Silent => Some(errors::silent(&self.connection, &self.service, silence)),
            End::NoResult => {
                let within = result_within.unwrap_or(silence);
                Some(errors::no_result(&self.service, within))
            }
            End::DeadlinePassed => Some(errors::stream_deadline_passed(self.started.elapsed())),
            End::Failed(error) => Some(error),
        }
    }
}
