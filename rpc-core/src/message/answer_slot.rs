//! The place for the answers to a call that goes to all instances.

use std::pin::Pin;

use futures_util::stream::FusedStream;

use super::Response;
use super::streams::Slot;
use crate::error::RpcError;

/// Answers to a call: ids of instances and their results. The id is empty for a result that comes from no instance.
pub(crate) type AnswerStream =
    Pin<Box<dyn FusedStream<Item = (String, Result<Response, RpcError>)> + Send>>;

/// The place for the answers, shared by the clones of a request. The caller puts it into the request. The service below the layers fills it,
/// because layers see one request and one response.
#[derive(Clone, Debug)]
pub(crate) struct AnswerSlot {
    expected: Option<usize>,
    answers: Slot<AnswerStream>,
}

impl AnswerSlot {
    /// Creates a slot for a call that ends after a number of answers.
    pub(crate) fn new(expected: Option<usize>) -> Self {
        Self {
            expected,
            answers: Slot::empty(),
        }
    }

    /// Returns the number of answers after which the call ends.
    pub(crate) fn expected(&self) -> Option<usize> {
        self.expected
    }

    /// Fills the slot. Earlier answers, of a request that a layer has sent again, are dropped.
    pub(crate) fn fill(&self, answers: AnswerStream) {
        self.answers.put(answers);
    }

    /// Takes the answers; `None` if no service has filled the slot.
    pub(crate) fn take(&self) -> Option<AnswerStream> {
        self.answers.take()
    }
}
