//! Outcomes of operations on dead letters.

use serde::{Serialize, Serializer};

use crate::error::RpcError;

/// Outcome of [`DeadLetters::retry`](super::DeadLetters::retry): the ids of letters, in the order of the queue.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Retried {
    /// Letters that are in their request queues.
    pub retried: Vec<String>,
    /// Letters that are in the dead-letter queue still, or again.
    pub kept: Vec<KeptLetter>,
    /// Letters of `kept` that may be in their request queues, too: a queue refused some letters of one transaction, and the broker does not tell
    /// which. There are at most 32.
    pub may_exist_twice: Vec<String>,
    /// Letters that are either in their request queues or in the dead-letter queue: the connection was lost before the broker answered. Another
    /// listing shows. Letters that were refused and could not be put back are among them, and are logged.
    pub uncertain: Vec<String>,
    /// Ids that no letter has. Empty if the operation was interrupted.
    pub not_found: Vec<String>,
    /// The error that ended the operation early.
    #[serde(serialize_with = "as_text")]
    pub interrupted: Option<RpcError>,
}

/// A letter that was not retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeptLetter {
    /// Id of the letter.
    pub id: String,
    /// The reason, for people.
    pub reason: String,
}

/// Outcome of [`DeadLetters::discard`](super::DeadLetters::discard): the ids of letters, in the order of the queue.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Discarded {
    /// Letters that no longer exist.
    pub discarded: Vec<String>,
    /// Letters that may exist still: the connection was lost before the broker answered. There are at most 1,000.
    pub uncertain: Vec<String>,
    /// Ids that no letter has. Empty if the operation was interrupted.
    pub not_found: Vec<String>,
    /// The error that ended the operation early.
    #[serde(serialize_with = "as_text")]
    pub interrupted: Option<RpcError>,
}

impl Retried {
    /// Returns `true` if nothing was done.
    pub(super) fn is_empty(&self) -> bool {
        self.retried.is_empty() && self.kept.is_empty() && self.uncertain.is_empty()
    }
}

impl Discarded {
    /// Returns `true` if nothing was done.
    pub(super) fn is_empty(&self) -> bool {
        self.discarded.is_empty() && self.uncertain.is_empty()
    }
}

fn as_text<S: Serializer>(error: &Option<RpcError>, serializer: S) -> Result<S::Ok, S::Error> {
    match error {
        None => serializer.serialize_none(),
        Some(error) => serializer.collect_str(error),
    }
}
