//! Which deliveries of a channel are settled, so that one acknowledgement can stand for many.

use std::collections::BTreeMap;

/// The settled deliveries of a channel. Their tags are counted from 1 (<https://www.rabbitmq.com/docs/confirms>).
#[derive(Debug, Default)]
pub(super) struct SettledTags {
    /// All up to this one are.
    up_to: u64,
    /// And these, from the first to the last of a row: as many rows at most as there are deliveries between them that are not.
    beyond: BTreeMap<u64, u64>,
}

/// An acknowledgement for the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    /// Whether it stands for all unsettled deliveries before it, too.
    pub(super) multiple: bool,
}

impl SettledTags {
    /// Takes note of a delivery that the broker knows to be settled.
    pub(super) fn add(&mut self, tag: u64) {
        let mut row = (tag, tag);
        if let Some((&first, &last)) = self.beyond.range(..tag).next_back()
            && last + 1 == tag
        {
            self.beyond.remove(&first);
            row.0 = first;
        }
        if let Some(last) = self.beyond.remove(&(tag + 1)) {
            row.1 = last;
        }
        if row.0 == self.up_to + 1 {
            self.up_to = row.1;
        } else {
            self.beyond.insert(row.0, row.1);
        }
    }

    /// What tells the broker that these are settled, and no other that is not; sorts them.
    pub(super) fn acks<'a>(&mut self, tags: &'a mut [u64]) -> impl Iterator<Item = Ack> + 'a {
        tags.sort_unstable();
        for &tag in &*tags {
            self.add(tag);
        }
        let together = tags.partition_point(|&tag| tag <= self.up_to);
        let (together, apart) = tags.split_at(together);
        // The last of them, because the broker refuses a tag that is settled already.
        let together = together.last().map(|&tag| Ack {
            tag,
            multiple: together.len() > 1,
        });
        let apart = apart.iter().map(|&tag| Ack {
            tag,
            multiple: false,
        });
        together.into_iter().chain(apart)
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(settled: &mut SettledTags, tags: &[u64]) -> Vec<(u64, bool)> {
        let mut tags = tags.to_vec();
        let acks = settled.acks(&mut tags);
        acks.map(|ack| (ack.tag, ack.multiple)).collect()
    }

    #[test]
    fn one_acknowledgement_stands_for_all_up_to_the_oldest_unsettled_delivery() {
        let mut settled = SettledTags::default();
        assert_eq!(acks(&mut settled, &[1]), [(1, false)]);
        assert_eq!(acks(&mut settled, &[4, 2, 3]), [(4, true)]);
        // The fifth is still worked on.
        assert_eq!(acks(&mut settled, &[6, 7]), [(6, false), (7, false)]);
        assert_eq!(acks(&mut settled, &[9]), [(9, false)]);
        assert_eq!(acks(&mut settled, &[5]), [(5, false)]);
        assert_eq!(acks(&mut settled, &[8, 10]), [(10, true)]);
        assert!(settled.beyond.is_empty());
    }

    #[test]
    fn a_delivery_that_was_given_back_holds_nothing_up() {
        let mut settled = SettledTags::default();
        settled.add(2);
        assert_eq!(acks(&mut settled, &[1]), [(1, false)]);
        settled.add(5);
        assert_eq!(acks(&mut settled, &[3, 4]), [(4, true)]);
        assert_eq!(acks(&mut settled, &[6]), [(6, false)]);
    }

    #[test]
    fn an_unsettled_delivery_is_never_acknowledged_with_others() {
        // Every order of five deliveries, settled two at a time.
        let mut orders = vec![vec![]];
        for tag in 1..=5_u64 {
            let insert = |order: &Vec<u64>| {
                let order = order.clone();
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, tag);
                    order
                })
            };
            orders = orders.iter().flat_map(insert).collect();
        }
        for order in orders {
            let mut settled = SettledTags::default();
            let mut unacked: Vec<u64> = (1..=5).collect();
            for (done, pair) in order.chunks(2).enumerate() {
                let finished = &order[..order.len().min(2 * (done + 1))];
                for (tag, multiple) in acks(&mut settled, pair) {
                    assert!(unacked.contains(&tag), "{order:?}: {tag} is settled");
                    unacked.retain(|&other| other != tag && !(multiple && other < tag));
                }
                let expected: Vec<u64> = (1..=5).filter(|tag| !finished.contains(tag)).collect();
                assert_eq!(unacked, expected, "{order:?}");
            }
        }
    }
}
