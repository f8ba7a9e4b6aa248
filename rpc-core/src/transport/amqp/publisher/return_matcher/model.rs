//! Random confirms and returns, against a model of the queue in which lapin keeps returned messages.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// Outcome of a message at the broker.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Routed,
    Returned,
    Refused,
}

/// Messages in the order in which the broker handles them, the order in which their confirms are completed, and `true` for each
/// confirm after which a decision is asked for.
fn rounds() -> impl Strategy<Value = Vec<(Vec<Outcome>, Vec<usize>, Vec<bool>)>> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Routed),
        2 => Just(Outcome::Returned),
        1 => Just(Outcome::Refused),
    ];
    let round = prop::collection::vec(outcome, 1..12).prop_flat_map(|outcomes| {
        let order: Vec<usize> = (0..outcomes.len()).collect();
        let decide = prop::collection::vec(any::<bool>(), outcomes.len());
        (Just(outcomes), Just(order).prop_shuffle(), decide)
    });
    prop::collection::vec(round, 1..4)
}

proptest! {
    #[test]
    fn every_message_is_decided_once_and_correctly(rounds in rounds()) {
        let mut matcher = ReturnMatcher::new();
        for (outcomes, order, decide) in rounds {
            let mut queue: VecDeque<usize> = VecDeque::new();
            let (mut came_back, mut decided) = (0, BTreeMap::new());
            for (done, &id) in order.iter().enumerate() {
                // A message is returned before it is confirmed, and so are returned messages that were published before it.
                let earlier = outcomes.iter().enumerate().take(id + 1).skip(came_back);
                let returned = earlier.filter(|(_, outcome)| **outcome == Outcome::Returned);
                queue.extend(returned.map(|(id, _)| id));
                came_back = came_back.max(id + 1);
                let attached = queue.pop_front();
                match outcomes[id] {
                    Outcome::Refused => matcher.attached(attached),
                    _ => matcher.accepted(id, id, attached),
                }
                let outstanding = done + 1 < order.len();
                if decide[done] || !outstanding {
                    matcher.decide(outstanding, |id, routing| {
                        assert_eq!(decided.insert(id, routing), None, "{id} was decided before");
                    });
                }
            }
            for (id, outcome) in outcomes.iter().enumerate() {
                let expected = match outcome {
                    Outcome::Routed => Some(Routing::Routed),
                    Outcome::Returned => Some(Routing::Returned),
                    Outcome::Refused => None,
                };
                prop_assert_eq!(decided.get(&id).copied(), expected, "{}", id);
            }
        }
    }
}
