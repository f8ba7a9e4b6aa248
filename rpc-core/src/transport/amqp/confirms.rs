//! Which of the confirmed messages were returned.
//!
//! RabbitMQ returns a message that it cannot route before it confirms it (<https://www.rabbitmq.com/docs/confirms>). lapin
//! keeps returned messages in a queue and attaches the first of them to whichever confirm it completes next, so that an
//! attached message says little of the confirm that carries it. But each confirm takes one, so that
//!
//! - a confirm with nothing attached proves that every message returned so far was attached to an earlier one, and
//! - once no confirm is outstanding, none is left in the queue.
//!
//! Until one of the two holds, a confirm that carries another's return is not believed.

use std::collections::HashSet;
use std::hash::Hash;

/// Tells the routed messages from the returned ones, by their ids.
pub(super) struct ReturnMatcher<Id, Waiting> {
    /// Returned messages whose own confirm has not arrived.
    returned: HashSet<Id>,
    /// Confirmed messages that may yet turn out to have been returned, in the order of their confirms.
    undecided: Vec<(Id, Waiting)>,
    /// How many of them, from the first, are proven not to be waiting in lapin's queue.
    proven: usize,
}

/// What became of a confirmed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routing {
    Routed,
    Returned,
}

impl<Id: Eq + Hash, Waiting> ReturnMatcher<Id, Waiting> {
    pub(super) fn new() -> Self {
        Self {
            returned: HashSet::new(),
            undecided: Vec::new(),
            proven: 0,
        }
    }

    /// Takes note of an accepted message, in the order in which lapin completes confirms, and of what is attached.
    pub(super) fn accepted(&mut self, id: Id, waiting: Waiting, attached: Option<Id>) {
        self.undecided.push((id, waiting));
        self.attached(attached);
    }

    /// Takes note of what is attached to a confirm.
    pub(super) fn attached(&mut self, returned: Option<Id>) {
        match returned {
            Some(id) => {
                self.returned.insert(id);
            }
            None => self.proven = self.undecided.len(),
        }
    }

    /// Hands out what is certain by now; `outstanding` says whether more confirms are to come.
    pub(super) fn decide(&mut self, outstanding: bool, mut decided: impl FnMut(Waiting, Routing)) {
        if !outstanding {
            self.proven = self.undecided.len();
        }
        let proven = std::mem::take(&mut self.proven);
        for (index, (id, waiting)) in std::mem::take(&mut self.undecided).into_iter().enumerate() {
            if self.returned.remove(&id) {
                decided(waiting, Routing::Returned);
            } else if index < proven {
                decided(waiting, Routing::Routed);
            } else {
                self.undecided.push((id, waiting));
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

    /// Confirms as (id, id attached); the fate of each id, in the order of the decisions.
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
    fn a_return_is_matched_by_its_own_id() {
        let mut matcher = ReturnMatcher::new();
        // 2 was returned; 1 was confirmed first and carries it.
        let fates = decide(&mut matcher, &[(1, Some(2)), (2, None)], true);
        assert_eq!(fates, [(1, Routed), (2, Returned)]);
    }

    #[test]
    fn a_confirm_that_carries_anothers_return_is_not_believed_too_soon() {
        let mut matcher = ReturnMatcher::new();
        // 1 and 2 were returned in this order, but 2 is completed first: its own return is still queued.
        assert_eq!(decide(&mut matcher, &[(2, Some(1))], true), []);
        assert_eq!(
            decide(&mut matcher, &[(1, Some(2))], true),
            [(2, Returned), (1, Returned)]
        );
    }

    #[test]
    fn nothing_is_undecided_for_ever() {
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
