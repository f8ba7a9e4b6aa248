//! What settles a delivery: a request alone, or the last of those that came in one batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The right to settle a delivery, or, for a request from a batch, a share in it.
#[derive(Debug)]
pub(super) enum Receipt {
    Whole(u64),
    Share(Arc<Shared>),
}

/// What the requests of a batch have in common.
#[derive(Debug)]
pub(super) struct Shared {
    tag: u64,
    requests: usize,
    unsettled: AtomicUsize,
    /// Whether one of them is to be delivered again, and with it all.
    goes_back: AtomicBool,
}

/// What the broker is told of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    Acknowledge(u64),
    GiveBack(u64),
}

impl Receipt {
    /// A share for each of the requests in a delivery.
    pub(super) fn shares(tag: u64, requests: usize) -> impl Iterator<Item = Self> {
        let shared = Shared {
            tag,
            requests,
            unsettled: AtomicUsize::new(requests),
            goes_back: AtomicBool::new(false),
        };
        std::iter::repeat_n(Arc::new(shared), requests).map(Self::Share)
    }

    /// How many requests came together.
    pub(super) fn requests(&self) -> usize {
        match self {
            Self::Whole(_) => 1,
            Self::Share(shared) => shared.requests,
        }
    }

    /// Whether the request came in a batch.
    pub(super) fn is_share(&self) -> bool {
        matches!(self, Self::Share(_))
    }

    /// The request is done with.
    pub(super) fn settle(self) -> Option<Settlement> {
        match self {
            Self::Whole(tag) => Some(Settlement::Acknowledge(tag)),
            Self::Share(shared) => shared.settle(),
        }
    }

    /// The request has to be delivered again.
    pub(super) fn give_back(self) -> Option<Settlement> {
        match self {
            Self::Whole(tag) => Some(Settlement::GiveBack(tag)),
            Self::Share(shared) => {
                shared.goes_back.store(true, Ordering::Relaxed);
                shared.settle()
            }
        }
    }
}

impl Shared {
    /// Counts one; what the last one was, others may have said.
    fn settle(&self) -> Option<Settlement> {
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        Some(match self.goes_back.load(Ordering::Relaxed) {
            false => Settlement::Acknowledge(self.tag),
            true => Settlement::GiveBack(self.tag),
        })
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    fn shares() -> [Receipt; 3] {
        let shares: Vec<_> = Receipt::shares(7, 3).collect();
        shares.try_into().unwrap()
    }

    #[test]
    fn the_last_request_of_a_batch_settles_it() {
        let [first, second, third] = shares();
        assert_eq!(first.settle(), None);
        assert_eq!(third.settle(), None);
        assert_eq!(second.settle(), Some(Settlement::Acknowledge(7)));
    }

    #[test]
    fn a_batch_goes_back_as_a_whole_once_nobody_works_on_it() {
        let [first, second, third] = shares();
        assert_eq!(first.settle(), None);
        assert_eq!(second.give_back(), None);
        assert_eq!(third.settle(), Some(Settlement::GiveBack(7)));
    }
}
