//! Selections of dead letters.

use std::collections::BTreeSet;

/// Letters that an operation applies to: all, or those with the given ids.
///
/// Lists of ids convert: `dead.retry(["8d2f00c1a9b4"])`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// All letters that are in the queue when the operation starts.
    All,
    /// The letters with these ids.
    Ids(BTreeSet<String>),
}

impl<T: Into<String>> FromIterator<T> for Selection {
    fn from_iter<I: IntoIterator<Item = T>>(ids: I) -> Self {
        Self::Ids(ids.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<String>> From<Vec<T>> for Selection {
    fn from(ids: Vec<T>) -> Self {
        ids.into_iter().collect()
    }
}

impl<T: Into<String>, const N: usize> From<[T; N]> for Selection {
    fn from(ids: [T; N]) -> Self {
        ids.into_iter().collect()
    }
}

/// The part of a selection that was not found yet.
pub(super) struct Wanted(Selection);

impl Wanted {
    pub(super) fn new(selection: Selection) -> Self {
        Self(selection)
    }

    /// Returns `true` if the letter was selected.
    pub(super) fn take(&mut self, id: &str) -> bool {
        match &mut self.0 {
            Selection::All => true,
            Selection::Ids(ids) => ids.remove(id),
        }
    }

    /// Returns `true` if no further letter can be selected.
    pub(super) fn is_done(&self) -> bool {
        matches!(&self.0, Selection::Ids(ids) if ids.is_empty())
    }

    pub(super) fn not_found(self) -> Vec<String> {
        match self.0 {
            Selection::All => Vec::new(),
            Selection::Ids(ids) => ids.into_iter().collect(),
        }
    }
}
