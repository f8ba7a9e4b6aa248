//! Matching of returned messages with their confirms.
//!
//! RabbitMQ returns a message that it cannot route before it confirms the message (<https://www.rabbitmq.com/docs/confirms>). lapin
//! keeps returned messages in a queue and attaches the first of them to the next confirm that it completes, so an attached message
//! says little about the confirm that carries it. But each confirm takes one message, so
//!
//! - a confirm with nothing attached proves that every message returned so far was attached to an earlier confirm, and
//! - once no confirm is outstanding, no message is left in the queue.
//!
//! Until then, a confirm that carries the return of another message proves nothing about its own.

use std::collections::HashSet;
use std::hash::Hash;

/// Distinguishes routed messages from returned ones, by their ids.
pub(super) struct ReturnMatcher<Id, Waiter> {
    /// Returned messages whose own confirm has not arrived.
    returned: HashSet<Id>,
    /// Confirmed messages that may still turn out to have been returned, in the order of their confirms.
    undecided: Vec<(Id, Waiter)>,
    /// Number of undecided messages, from the first, that are proven not to be in lapin's queue.
    proven: usize,
}

/// Outcome of a confirmed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routing {
    Routed,
    Returned,
}

impl<Id: Eq + Hash, Waiter> ReturnMatcher<Id, Waiter> {
    pub(super) fn new() -> Self {
        Self {
            returned: HashSet::new(),
            undecided: Vec::new(),
            proven: 0,
        }
    }

    /// Records an accepted message and its attachment, in the order in which lapin completes confirms.
    pub(super) fn accepted(&mut self, id: Id, waiter: Waiter, attached: Option<Id>) {
        self.undecided.push((id, waiter));
        self.attached(attached);
    }

    /// Records the attachment of a confirm.
    pub(super) fn attached(&mut self, returned: Option<Id>) {
        match returned {
            Some(id) => {
                self.returned.insert(id);
            }
            None => self.proven = self.undecided.len(),
        }
    }

    /// Reports every outcome that is certain by now. `outstanding` is `true` if more confirms are to come.
    pub(super) fn decide(&mut self, outstanding: bool, mut decided: impl FnMut(Waiter, Routing)) {
        if !outstanding {
            self.proven = self.undecided.len();
        }
        let proven = std::mem::take(&mut self.proven);
        for (index, (id, waiter)) in std::mem::take(&mut self.undecided).into_iter().enumerate() {
            if self.returned.remove(&id) {
                decided(waiter, Routing::Returned);
            } else if index < proven {
                decided(waiter, Routing::Routed);
            } else {
                self.undecided.push((id, waiter));
            }
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::Routing::{Returned, Routed};
    use super::*;

    /// Takes confirms as (id, attached id); returns the outcome of each id, in the order of the decisions.
    fn decide(
        matcher: &mut ReturnMatcher<u32, u32>,
        confirms: &[(u32, Option<u32>)],
        outstanding: bool,
    ) -> Vec<(u32, Routing)> {
        for &(id, attached) in confirms {
            matcher.accepted(id, id, attached);
        }
        let mut fates = Vec::new();
        matcher.decide(outstanding, |id, routing| fates.push((id, routing)));
        fates
    }

    #[test]
    fn returns_are_matched_by_their_own_ids() {
        let mut matcher = ReturnMatcher::new();
        // 2 was returned; 1 was confirmed first and carries it.
        let fates = decide(&mut matcher, &[(1, Some(2)), (2, None)], true);
        assert_eq!(fates, [(1, Routed), (2, Returned)]);
    }

    #[test]
    fn confirms_with_the_return_of_another_message_stay_undecided() {
        let mut matcher = ReturnMatcher::new();
        // 1 and 2 were returned in this order, but 2 is completed first: its own return is still queued.
        assert_eq!(decide(&mut matcher, &[(2, Some(1))], true), []);
        assert_eq!(
            decide(&mut matcher, &[(1, Some(2))], true),
            [(2, Returned), (1, Returned)]
        );
    }

    #[test]
    fn every_message_is_decided_once_no_confirm_is_outstanding() {
        let mut matcher = ReturnMatcher::new();
        assert_eq!(decide(&mut matcher, &[(1, Some(2))], true), []);
        assert_eq!(decide(&mut matcher, &[(2, Some(3))], true), [(2, Returned)]);
        assert_eq!(
            decide(&mut matcher, &[(3, None)], false),
            [(1, Routed), (3, Returned)]
        );
        assert_eq!(decide(&mut matcher, &[(4, None)], true), [(4, Routed)]);
    }
}
