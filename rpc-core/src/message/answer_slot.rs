//! The place for the answers to a call that goes to all instances.

use std::fmt;
use std::panic::RefUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::FusedStream;
use parking_lot::Mutex;

use super::Response;
use crate::error::RpcError;

/// Answers to a call: ids of instances and their results. The id is empty for a result that comes from no instance.
pub(crate) type AnswerStream =
    Pin<Box<dyn FusedStream<Item = (String, Result<Response, RpcError>)> + Send>>;

/// The place for the answers, shared by the clones of a request. The caller puts it into the request. The service below the layers fills it,
/// because layers see one request and one response.
#[derive(Clone)]
pub(crate) struct AnswerSlot(Arc<Slot>);

struct Slot {
    expected: Option<usize>,
    answers: Mutex<Option<AnswerStream>>,
}

/// A panic leaves no slot half changed. (The lock itself does not implement this trait.)
impl RefUnwindSafe for Slot {}

impl AnswerSlot {
    /// Creates a slot for a call that ends after a number of answers.
    pub(crate) fn new(expected: Option<usize>) -> Self {
        Self(Arc::new(Slot {
            expected,
            answers: Mutex::new(None),
        }))
    }

    /// Returns the number of answers after which the call ends.
    pub(crate) fn expected(&self) -> Option<usize> {
        self.0.expected
    }

    /// Fills the slot. Earlier answers, of a request that a layer has sent again, are dropped.
    pub(crate) fn fill(&self, answers: AnswerStream) {
        let former = self.0.answers.lock().replace(answers);
        drop(former); // Without holding the lock.
    }

    /// Takes the answers; `None` if no service has filled the slot.
    pub(crate) fn take(&self) -> Option<AnswerStream> {
        self.0.answers.lock().take()
    }
}

impl fmt::Debug for AnswerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswerSlot")
    }
}
