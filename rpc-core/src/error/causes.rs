//! Errors of any type, and chains of causes.

use std::error::Error as StdError;

/// An error of any type, as tower's middleware returns it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The maximum length of a chain of causes: the chain of another crate's errors may be endless.
const MAX_CAUSES: usize = 32;

/// Iterates over an error and its causes, at most [`MAX_CAUSES`] in all.
pub(super) fn chain<'a>(
    first: Option<&'a (dyn StdError + 'static)>,
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(first, |&cause| cause.source()).take(MAX_CAUSES)
}

/// Formats an error and its causes in one line. Leaves out a cause if the line already ends with its text.
pub(crate) fn with_causes(error: &dyn StdError) -> String {
    let mut line = error.to_string();
    for cause in chain(error.source()) {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line += &format!(": {text}");
        }
    }
    line
}
