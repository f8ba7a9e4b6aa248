//! Decisions about requests that were delivered before: counted, retried alone, or given up.

use super::served::QueueRole;
use crate::wire::History;

/// Decision about a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Run,
    /// Back to the queue that the request came from, with the number of its deliveries.
    Record,
    /// To the queue where requests are tried alone.
    Isolate,
    GiveUp(Reason),
}

/// Reason why a request is not run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    DeliveryLimit,
    AtMostOnce,
    /// The deliveries of the request cannot be counted, and without a count it might never be given up.
    NotCounted,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::DeliveryLimit => "delivery-limit",
            Self::AtMostOnce => "at-most-once",
            Self::NotCounted => "not-counted",
        }
    }
}

/// Limits of deliveries, for the requests of one queue.
#[derive(Clone, Copy)]
pub(super) struct DeliveryLimit {
    /// Deliveries before a request is given up; `None` sets no limit.
    pub(super) deliveries: Option<u32>,
    /// Set if the last attempt is made alone.
    pub(super) isolates: bool,
}

impl DeliveryLimit {
    /// Decides about a request, or an undivided batch, that may be delivered more than once.
    pub(super) fn verdict(self, history: History, role: QueueRole) -> Verdict {
        let Some(limit) = self.deliveries else {
            return Verdict::Run;
        };
        if history.deliveries >= limit {
            Verdict::GiveUp(Reason::DeliveryLimit)
        } else if self.isolates && role == QueueRole::Main && history.deliveries + 1 == limit {
            Verdict::Isolate
        } else if history.recorded {
            Verdict::Run
        } else {
            Verdict::Record
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(limit: Option<u32>, deliveries: u32, recorded: bool, role: QueueRole) -> Verdict {
        let limit = DeliveryLimit {
            deliveries: limit,
            isolates: limit.is_some_and(|limit| limit > 1),
        };
        let history = History {
            deliveries,
            recorded,
        };
        limit.verdict(history, role)
    }

    #[test]
    fn a_request_is_tried_three_times_and_the_last_time_alone() {
        let after = |deliveries, recorded, role| verdict(Some(3), deliveries, recorded, role);
        assert_eq!(after(0, true, QueueRole::Main), Verdict::Run);
        assert_eq!(after(1, false, QueueRole::Main), Verdict::Record);
        assert_eq!(after(1, true, QueueRole::Main), Verdict::Run);
        assert_eq!(after(2, false, QueueRole::Main), Verdict::Isolate);
        assert_eq!(after(2, true, QueueRole::Retry), Verdict::Run);
        let given_up = Verdict::GiveUp(Reason::DeliveryLimit);
        assert_eq!(after(3, false, QueueRole::Retry), given_up);
        assert_eq!(after(u32::MAX, true, QueueRole::Main), given_up);
    }

    #[test]
    fn without_a_limit_no_request_is_given_up() {
        assert_eq!(verdict(None, 9, false, QueueRole::Main), Verdict::Run);
    }

    #[test]
    fn a_limit_of_one_forbids_a_second_delivery() {
        let after = |deliveries| verdict(Some(1), deliveries, true, QueueRole::Main);
        assert_eq!(after(0), Verdict::Run);
        assert_eq!(after(1), Verdict::GiveUp(Reason::DeliveryLimit));
    }
}
