//! Deliveries that have not started, and the requests in them.

use super::received::{ReceivedRequest, Source};
use super::redelivery::{Reason, Verdict};
use crate::batching::{self, AckToken, ReplyForm, UnpackedRequest};
use crate::definition::Method;
use crate::error::{ErrorKind, RpcError};
use crate::transport::Message;
use crate::wire::{self, History};

/// A delivery that has not started: one request, or a batch.
pub(super) struct Arrival {
    pub(super) source: Source,
    pub(super) tag: u64,
    pub(super) message: Message,
}

/// The requests of a delivery.
pub(super) enum Unpacked<I> {
    /// A request, or a batch that may not or cannot be taken apart.
    One(ReceivedRequest),
    /// The requests of a batch.
    Several(I),
}

impl Arrival {
    /// Takes the requests out of a delivery, and decides about each.
    pub(super) fn unpack(self) -> Unpacked<impl Iterator<Item = ReceivedRequest>> {
        let history = self.history();
        if !batching::is_batch(&self.message) {
            let method = self.source.served().method(&self.message);
            let verdict = verdict(&self.source, &self.message, method, history);
            return Unpacked::One(self.into_request(method, history, verdict));
        }
        let verdict = match self.source.is_first_delivery(history) {
            true => Verdict::Run,
            false => self
                .source
                .delivery_limit()
                .verdict(history, self.source.role),
        };
        let whole = |arrival: Self, refusal| ReceivedRequest {
            may_run_uncounted: false,
            refusal,
            ..arrival.into_request(None, history, verdict)
        };
        if verdict != Verdict::Run {
            // Not unpacked: decoding the batch may be the cause of the servers' deaths.
            return Unpacked::One(whole(self, None));
        }
        match batching::unpack(&self.message, self.tag, history.deliveries) {
            Ok(requests) => {
                let source = self.source;
                Unpacked::Several(requests.map(move |request| from_batch(&source, request)))
            }
            Err(refusal) => Unpacked::One(whole(self, Some(refusal))),
        }
    }

    /// Turns a delivery into one request, to be given back.
    pub(super) fn into_whole(self) -> ReceivedRequest {
        let history = self.history();
        let method = match batching::is_batch(&self.message) {
            true => None,
            false => self.source.served().method(&self.message),
        };
        self.into_request(method, history, Verdict::Run)
    }

    fn history(&self) -> History {
        let counts = self.source.served().counts_deliveries();
        History::of(&self.message, self.source.redelivered, counts)
    }

    /// Turns the whole delivery into one request. A batch that is not unpacked is a request without a method.
    fn into_request(
        self,
        method: Option<&'static Method>,
        history: History,
        verdict: Verdict,
    ) -> ReceivedRequest {
        ReceivedRequest {
            token: Some(AckToken::Whole(self.tag)),
            history,
            verdict,
            may_run_uncounted: true,
            method,
            refusal: None,
            reply_form: ReplyForm::of(&self.message),
            message: self.message,
            source: self.source,
        }
    }
}

/// A request out of a batch.
fn from_batch(source: &Source, unpacked: UnpackedRequest) -> ReceivedRequest {
    let UnpackedRequest {
        message,
        token,
        history,
        refusal,
    } = unpacked;
    let method = match refusal {
        None => source.served().method(&message),
        Some(_) => None,
    };
    let is_at_most_once = method.is_some_and(|method| method.at_most_once);
    let refusal = refusal.or_else(|| is_at_most_once.then(at_most_once_in_a_batch));
    let verdict = match refusal {
        None => verdict(source, &message, method, history),
        Some(_) => Verdict::Run, // The caller learns of the refusal.
    };
    ReceivedRequest {
        source: source.clone(),
        token: Some(token),
        history,
        verdict,
        may_run_uncounted: true,
        method,
        refusal,
        reply_form: ReplyForm::Batch,
        message,
    }
}

/// The fault of a request that must not be in a batch. To run it at most once, its delivery would have to be acknowledged first,
/// and with it the other requests.
fn at_most_once_in_a_batch() -> RpcError {
    RpcError::new(
        ErrorKind::BadRequest,
        "a request of an `at_most_once` method cannot be in a batch",
    )
}

/// Decides about one request.
fn verdict(
    source: &Source,
    message: &Message,
    method: Option<&'static Method>,
    history: History,
) -> Verdict {
    if source.is_first_delivery(history) || wire::is_expired(message) {
        Verdict::Run // The caller of an expired request learns of that.
    } else if method.is_some_and(|method| method.at_most_once) {
        Verdict::GiveUp(Reason::AtMostOnce)
    } else {
        source.delivery_limit().verdict(history, source.role)
    }
}
