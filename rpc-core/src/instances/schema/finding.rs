//! Results of a comparison.

/// A difference between two schemas.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::instances) struct Finding {
    /// The place inside the type, and the difference.
    pub(in crate::instances) text: String,
    pub(in crate::instances) compatible: bool,
}

impl Finding {
    pub(super) fn undecided(reason: &str) -> Self {
        Self {
            text: format!("cannot be decided: {reason}"),
            compatible: false,
        }
    }
}
