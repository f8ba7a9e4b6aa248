//! Random deliveries that are settled in random order, against a broker that knows each of them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A step that settles deliveries.
#[derive(Clone, Debug)]
enum Step {
    Ack(usize),
    Requeue,
}

fn steps() -> impl Strategy<Value = (Vec<u64>, Vec<Step>)> {
    let step = prop_oneof![
        4 => (1..5_usize).prop_map(Step::Ack),
        1 => Just(Step::Requeue),
    ];
    (1..60_u64).prop_flat_map(move |deliveries| {
        let order: Vec<u64> = (1..=deliveries).collect();
        let steps = prop::collection::vec(step.clone(), order.len());
        (Just(order).prop_shuffle(), steps)
    })
}

proptest! {
    #[test]
    fn each_delivery_is_acknowledged_once((order, steps) in steps()) {
        let mut settled = SettledTags::default();
        let mut unsettled: BTreeSet<u64> = order.iter().copied().collect();
        let mut open = unsettled.clone();
        let mut rest = &order[..];
        for step in steps {
            let Step::Ack(count) = step else {
                if let Some((tag, left)) = rest.split_first() {
                    // The broker is told at once.
                    prop_assert!(open.remove(tag) && unsettled.remove(tag));
                    settled.add(*tag);
                    rest = left;
                }
                continue;
            };
            let (tags, left) = rest.split_at(count.min(rest.len()));
            rest = left;
            for ack in settled.acks(&mut tags.to_vec()) {
                // The broker closes the channel for a tag that it does not know.
                prop_assert!(open.contains(&ack.tag), "{ack:?}");
                open.retain(|&tag| tag != ack.tag && !(ack.multiple && tag < ack.tag));
            }
            for tag in tags {
                unsettled.remove(tag);
            }
            prop_assert_eq!(&open, &unsettled);
            prop_assert!(settled.beyond.len() <= unsettled.len());
        }
        prop_assert!(settled.beyond.is_empty() || !open.is_empty());
    }
}
