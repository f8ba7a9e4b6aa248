//! Random confirms and returns, against the queue in which lapin keeps returned messages.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// A message as a broker hands it on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Routed,
    Returned,
    Refused,
}

/// Messages in the order in which they are returned or handled, with that in which their confirms are completed, and whether a
/// decision is asked for after it.
fn rounds() -> impl Strategy<Value = Vec<(Vec<Fate>, Vec<usize>, Vec<bool>)>> {
    let fate = prop_oneof![
        3 => Just(Fate::Routed),
        2 => Just(Fate::Returned),
        1 => Just(Fate::Refused),
    ];
    let round = prop::collection::vec(fate, 1..12).prop_flat_map(|fates| {
        let order: Vec<usize> = (0..fates.len()).collect();
        let decide = prop::collection::vec(any::<bool>(), fates.len());
        (Just(fates), Just(order).prop_shuffle(), decide)
    });
    prop::collection::vec(round, 1..4)
}

proptest! {
    #[test]
    fn every_message_is_decided_once_and_rightly(rounds in rounds()) {
        let mut matcher = ReturnMatcher::new();
        for (fates, order, decide) in rounds {
            let mut queue: VecDeque<usize> = VecDeque::new();
            let (mut came_back, mut decided) = (0, BTreeMap::new());
            for (done, &id) in order.iter().enumerate() {
                // Each is returned before it is confirmed, and so are those that were published before it.
                let earlier = fates.iter().enumerate().take(id + 1).skip(came_back);
                let returned = earlier.filter(|(_, fate)| **fate == Fate::Returned);
                queue.extend(returned.map(|(id, _)| id));
                came_back = came_back.max(id + 1);
                let attached = queue.pop_front();
                match fates[id] {
                    Fate::Refused => matcher.attached(attached),
                    _ => matcher.accepted(id, id, attached),
                }
                let outstanding = done + 1 < order.len();
                if decide[done] || !outstanding {
                    matcher.decide(outstanding, |id, routing| {
                        assert_eq!(decided.insert(id, routing), None, "{id} was decided before");
                    });
                }
            }
            for (id, fate) in fates.iter().enumerate() {
                let expected = match fate {
                    Fate::Routed => Some(Routing::Routed),
                    Fate::Returned => Some(Routing::Returned),
                    Fate::Refused => None,
                };
                prop_assert_eq!(decided.get(&id).copied(), expected, "{}", id);
            }
        }
    }
}
