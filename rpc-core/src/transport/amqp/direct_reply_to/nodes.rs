//! Nodes that reply-to addresses name: nodes that have taken a reply, that are tried, and that have failed.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::transport::error::TransportError;

/// Limit of unknown nodes that are tried at a time. Any number of replies may wait for each of them; replies to further unknown nodes are
/// dropped.
const MAX_TRIED: usize = 8;

/// Limit of nodes that may fail within [`FAILURES_COUNT`].
const MAX_FAILURES: usize = 8;

/// The time for which a failure counts. No reply goes to that node meanwhile.
const FAILURES_COUNT: Duration = Duration::from_secs(2);

/// Limit of nodes that are remembered for having taken a reply: more than any cluster has.
const MAX_KNOWN: usize = 256;

/// Nodes that addresses name.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Nodes that have taken a reply, the most recently used first.
    known: Vec<u32>,
    /// Nodes that are tried or wait for a trial, with the number of replies that wait for each.
    tried: Vec<(u32, usize)>,
    /// Nodes that failed a short while ago.
    failed: VecDeque<(u32, Instant)>,
}

fn invalid(reason: &str) -> TransportError {
    TransportError::Invalid(reason.to_owned())
}

impl Nodes {
    pub(super) fn is_known(&mut self, node: u32) -> bool {
        let place = self.known.iter().position(|known| *known == node);
        if let Some(place) = place {
            self.known[..=place].rotate_right(1);
        }
        place.is_some()
    }

    pub(super) fn learn(&mut self, node: u32) {
        if !self.is_known(node) {
            self.known.truncate(MAX_KNOWN - 1);
            self.known.insert(0, node);
        }
    }

    pub(super) fn forget(&mut self, node: u32) {
        self.known.retain(|known| *known != node);
    }

    pub(super) fn fail(&mut self, node: u32) {
        self.failed.push_back((node, Instant::now()));
    }

    /// Refuses a node that has failed, and any unknown node while many have failed.
    pub(super) fn may_try(&mut self, node: u32) -> Result<(), TransportError> {
        let now = Instant::now();
        while let Some((_, failed)) = self.failed.front()
            && now.duration_since(*failed) >= FAILURES_COUNT
        {
            self.failed.pop_front();
        }
        if self.failed.iter().any(|(failed, _)| *failed == node) {
            return Err(invalid(
                "the broker did not know the node of the reply-to address a moment ago",
            ));
        }
        if self.failed.len() >= MAX_FAILURES {
            return Err(invalid(
                "many forged reply-to addresses arrived a moment ago",
            ));
        }
        Ok(())
    }
}

/// A reply that waits until its node is known. Dropping it ends the wait.
pub(super) struct Trial<'a> {
    nodes: &'a Mutex<Nodes>,
    node: u32,
}

impl<'a> Trial<'a> {
    pub(super) fn begin(nodes: &'a Mutex<Nodes>, node: u32) -> Result<Self, TransportError> {
        let mut table = nodes.lock();
        table.may_try(node)?;
        let is_full = table.tried.len() >= MAX_TRIED;
        match table.tried.iter_mut().find(|(tried, _)| *tried == node) {
            Some((_, waiting)) => *waiting += 1,
            None if is_full => {
                return Err(invalid("too many replies to unknown nodes wait already"));
            }
            None => table.tried.push((node, 1)),
        }
        drop(table);
        Ok(Self { nodes, node })
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let node = self.node;
        self.nodes.lock().tried.retain_mut(|(tried, waiting)| {
            *waiting -= usize::from(*tried == node);
            *waiting > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_unknown_nodes_are_tried_at_a_time() {
        let nodes = Mutex::default();
        let mut waiting: Vec<_> = (0..MAX_TRIED)
            .map(|node| Trial::begin(&nodes, u32::try_from(node).unwrap()).unwrap())
            .collect();
        assert!(Trial::begin(&nodes, 99).is_err());
        waiting.extend((0..100).map(|_| Trial::begin(&nodes, 7).unwrap()));
        waiting.remove(7);
        assert!(Trial::begin(&nodes, 99).is_err());
        waiting.remove(0);
        waiting.push(Trial::begin(&nodes, 99).unwrap());
        assert!(Trial::begin(&nodes, 0).is_err());
        drop(waiting);
        assert!(nodes.lock().tried.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_failures_refuse_unknown_nodes_for_a_while() {
        let mut nodes = Nodes::default();
        nodes.fail(0);
        assert!(nodes.may_try(0).is_err(), "not the same again");
        for node in 1..u32::try_from(MAX_FAILURES).unwrap() {
            nodes.may_try(node).unwrap();
            nodes.fail(node);
        }
        assert!(nodes.may_try(99).is_err());
        tokio::time::advance(FAILURES_COUNT).await;
        nodes.may_try(99).unwrap();
        nodes.may_try(0).unwrap();
        assert!(nodes.failed.is_empty());
    }

    #[test]
    fn known_nodes_are_bounded() {
        let mut nodes = Nodes::default();
        nodes.learn(7);
        for node in 1_000..2_000 {
            nodes.learn(node);
            nodes.learn(node);
            assert!(nodes.is_known(7), "it is in use");
        }
        assert_eq!(nodes.known.len(), MAX_KNOWN);
        assert!(nodes.is_known(1_999) && !nodes.is_known(1_000));
        nodes.forget(1_999);
        assert!(!nodes.is_known(1_999));
    }
}
