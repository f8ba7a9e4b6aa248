//! Requests from a batch, each with a token for its share of the delivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::format::{is_batch, requests_of};
use crate::error::{BoxError, ErrorKind, RpcError};
use crate::transport::Message;
use crate::wire::History;

/// Returns `true` if a request in a message may come without a deadline. The requests of a batch may, even if the batch has a deadline.
pub(crate) fn may_lack_deadline(message: &Message) -> bool {
    (message.deadline.is_none() && message.expiration.is_none()) || is_batch(message)
}

/// A request from a batch.
pub(crate) struct UnpackedRequest {
    pub(crate) message: Message,
    pub(crate) token: AckToken,
    pub(crate) history: History,
    /// The fault of a request that must not run.
    pub(crate) refusal: Option<RpcError>,
}

/// Takes the requests out of a batch. `deliveries` is the number of earlier deliveries of the batch.
pub(crate) fn unpack(
    batch: &Message,
    tag: u64,
    deliveries: u32,
) -> Result<impl Iterator<Item = UnpackedRequest> + use<>, RpcError> {
    let requests = requests_of(batch).map_err(|cause| unreadable(&cause))?;
    let tokens = AckToken::shares(tag, requests.len());
    // A request starts with the count of its batch, and is counted separately from its second delivery on.
    let history = History {
        deliveries,
        recorded: deliveries == 0,
    };
    Ok(requests
        .into_iter()
        .zip(tokens)
        .map(move |(message, token)| UnpackedRequest {
            refusal: is_batch(&message).then(|| unreadable(&"batches are not nested".into())),
            message,
            token,
            history,
        }))
}

fn unreadable(cause: &BoxError) -> RpcError {
    RpcError::new(
        ErrorKind::BadRequest,
        format!("the batch cannot be read: {cause}"),
    )
}

/// The right to settle a delivery or, for a request from a batch, a share of the right.
#[derive(Debug)]
pub(crate) enum AckToken {
    Whole(u64),
    Share(Arc<SharedDelivery>),
}

/// A delivery of several requests.
#[derive(Debug)]
pub(crate) struct SharedDelivery {
    tag: u64,
    requests: usize,
    unsettled: AtomicUsize,
    /// Set once one of the requests has to be delivered again, and all others with it.
    requeue: AtomicBool,
}

/// An acknowledgement or a requeue of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack(u64),
    Requeue(u64),
}

impl AckToken {
    /// Makes one token for each of the requests in a delivery.
    fn shares(tag: u64, requests: usize) -> impl Iterator<Item = Self> {
        let shared = SharedDelivery {
            tag,
            requests,
            unsettled: AtomicUsize::new(requests),
            requeue: AtomicBool::new(false),
        };
        std::iter::repeat_n(Arc::new(shared), requests).map(Self::Share)
    }

    /// Number of requests in the delivery.
    pub(crate) fn requests(&self) -> usize {
        match self {
            Self::Whole(_) => 1,
            Self::Share(shared) => shared.requests,
        }
    }

    /// Acknowledges a request. The last request of a delivery settles the delivery.
    pub(crate) fn ack(self) -> Option<Settlement> {
        match self {
            Self::Whole(tag) => Some(Settlement::Ack(tag)),
            Self::Share(shared) => shared.settle(),
        }
    }

    /// Requeues a request, and with it the delivery.
    pub(crate) fn requeue(self) -> Option<Settlement> {
        match self {
            Self::Whole(tag) => Some(Settlement::Requeue(tag)),
            Self::Share(shared) => {
                shared.requeue.store(true, Ordering::Relaxed);
                shared.settle()
            }
        }
    }
}

impl SharedDelivery {
    /// Counts one request as settled. The last one acknowledges the delivery, or requeues it if any of the requests was requeued.
    fn settle(&self) -> Option<Settlement> {
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        Some(match self.requeue.load(Ordering::Relaxed) {
            false => Settlement::Ack(self.tag),
            true => Settlement::Requeue(self.tag),
        })
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::format::Batch;
    use crate::transport::Content;

    fn shares() -> [AckToken; 3] {
        let shares: Vec<_> = AckToken::shares(7, 3).collect();
        shares.try_into().unwrap()
    }

    #[test]
    fn the_last_request_of_a_batch_settles_it() {
        let [first, second, third] = shares();
        assert_eq!(first.ack(), None);
        assert_eq!(third.ack(), None);
        assert_eq!(second.ack(), Some(Settlement::Ack(7)));
    }

    #[test]
    fn a_batch_is_requeued_as_a_whole_once_all_its_requests_are_settled() {
        let [first, second, third] = shares();
        assert_eq!(first.ack(), None);
        assert_eq!(second.requeue(), None);
        assert_eq!(third.ack(), Some(Settlement::Requeue(7)));
    }

    fn batch(content_types: &[&str]) -> Message {
        let mut batch = Batch::new(0, content_types.len());
        for content_type in content_types {
            let request = Message::from(Content {
                correlation_id: Some("a".into()),
                content_type: Some((*content_type).into()),
                ..Content::default()
            });
            batch.push(&request).unwrap();
        }
        batch.into_message()
    }

    #[test]
    fn requests_of_a_batch_have_its_count_and_share_its_delivery() {
        for deliveries in [0, 2] {
            let batch = batch(&["application/msgpack"; 3]);
            let requests: Vec<_> = unpack(&batch, 7, deliveries).unwrap().collect();
            assert_eq!(requests.len(), 3);
            for request in requests {
                assert_eq!(request.token.requests(), 3);
                assert_eq!(request.history.deliveries, deliveries);
                assert_eq!(request.history.recorded, deliveries == 0);
                assert!(request.refusal.is_none());
            }
        }
    }

    #[test]
    fn a_batch_in_a_batch_is_refused_and_its_neighbours_are_not() {
        let batch = batch(&["application/msgpack", crate::names::BATCH_CONTENT_TYPE]);
        let refused = unpack(&batch, 7, 0).unwrap();
        let refused: Vec<_> = refused.map(|request| request.refusal.is_some()).collect();
        assert_eq!(refused, [false, true]);
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_refused() {
        let mut batch = batch(&["application/msgpack"]);
        batch.body = batch.body.slice(..3);
        let refusal = unpack(&batch, 7, 0).err().unwrap();
        assert_eq!(refusal.kind(), ErrorKind::BadRequest);
        assert!(may_lack_deadline(&batch));
    }
}
