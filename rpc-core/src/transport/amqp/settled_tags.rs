//! Settled deliveries of a channel, so that one acknowledgement can cover many.

use std::collections::BTreeMap;

/// Settled deliveries of a channel. Their tags are counted from 1 (<https://www.rabbitmq.com/docs/confirms>).
#[derive(Debug, Default)]
pub(super) struct SettledTags {
    /// Every delivery up to this tag is settled.
    up_to: u64,
    /// Settled deliveries after that, as ranges from first to last tag. There are at most as many ranges as unsettled deliveries
    /// between them.
    beyond: BTreeMap<u64, u64>,
}

/// An acknowledgement for the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    /// `true` if it covers all unsettled deliveries before the tag, too.
    pub(super) multiple: bool,
}

impl SettledTags {
    /// Records a delivery that the broker knows to be settled.
    pub(super) fn add(&mut self, tag: u64) {
        let mut range = (tag, tag);
        if let Some((&first, &last)) = self.beyond.range(..tag).next_back()
            && last + 1 == tag
        {
            self.beyond.remove(&first);
            range.0 = first;
        }
        if let Some(last) = self.beyond.remove(&(tag + 1)) {
            range.1 = last;
        }
        if range.0 == self.up_to + 1 {
            self.up_to = range.1;
        } else {
            self.beyond.insert(range.0, range.1);
        }
    }

    /// Records deliveries as settled. Returns acknowledgements for the broker, which cover no unsettled delivery.
    /// Sorts the tags.
    pub(super) fn acks<'a>(&mut self, tags: &'a mut [u64]) -> impl Iterator<Item = Ack> + 'a {
        tags.sort_unstable();
        for &tag in &*tags {
            self.add(tag);
        }
        let together = tags.partition_point(|&tag| tag <= self.up_to);
        let (together, apart) = tags.split_at(together);
        // The tag of the last one, because the broker refuses a tag that is settled already.
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
    fn one_ack_covers_all_deliveries_before_the_oldest_unsettled_one() {
        let mut settled = SettledTags::default();
        assert_eq!(acks(&mut settled, &[1]), [(1, false)]);
        assert_eq!(acks(&mut settled, &[4, 2, 3]), [(4, true)]);
        // The fifth is unsettled.
        assert_eq!(acks(&mut settled, &[6, 7]), [(6, false), (7, false)]);
        assert_eq!(acks(&mut settled, &[9]), [(9, false)]);
        assert_eq!(acks(&mut settled, &[5]), [(5, false)]);
        assert_eq!(acks(&mut settled, &[8, 10]), [(10, true)]);
        assert!(settled.beyond.is_empty());
    }

    #[test]
    fn requeued_deliveries_count_as_settled() {
        let mut settled = SettledTags::default();
        settled.add(2);
        assert_eq!(acks(&mut settled, &[1]), [(1, false)]);
        settled.add(5);
        assert_eq!(acks(&mut settled, &[3, 4]), [(4, true)]);
        assert_eq!(acks(&mut settled, &[6]), [(6, false)]);
    }

    #[test]
    fn unsettled_deliveries_are_never_covered_by_an_ack() {
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
