//! The rules of credit and sequence, as pure code.
//!
//! A receiver has a window: the amount of items that may be on their way to its reader. A sender starts with a credit of the whole window,
//! pays for each item, and gets the credit of items back once they are read, in steps of half a window.

use crate::wire::Amount;

/// Window of a receiver, unless set.
pub(crate) const DEFAULT_WINDOW: Amount = Amount {
    items: 1024,
    bytes: 1 << 20,
};

/// The largest window. A larger one counts as this one on both sides, so that a single request cannot fill a broker.
const MAX_WINDOW: Amount = Amount {
    items: 1 << 20,
    bytes: 64 << 20,
};

/// Returns the amount that a receiver gives back at once: once so much has been read, or more.
fn step(window: Amount) -> Amount {
    Amount {
        items: (window.items / 2).max(1),
        bytes: (window.bytes / 2).max(1),
    }
}

/// Credit of a sender. The receiver keeps a copy, to check the sender.
#[derive(Clone, Debug)]
pub(crate) struct Credit {
    window: Amount,
    items: u64,
    /// Below zero after an item that is longer than the credit.
    bytes: i128,
}

impl Credit {
    /// The credit of a stream without items. A window of zero counts as one, and one that is too large as the largest.
    pub(crate) fn of(window: Amount) -> Self {
        let window = Amount {
            items: window.items.clamp(1, MAX_WINDOW.items),
            bytes: window.bytes.clamp(1, MAX_WINDOW.bytes),
        };
        Self {
            window,
            items: window.items,
            bytes: window.bytes.into(),
        }
    }

    /// Returns `true` if an item may be sent that is short enough.
    pub(crate) fn is_open(&self) -> bool {
        self.items > 0
    }

    /// Returns `true` if an item of this length may be sent.
    ///
    /// An item that is longer than the credit may be sent while more than half of the window is left. This is the case at the latest when the
    /// reader has read everything: the receiver then owes less than the other half. So no item waits without end.
    pub(crate) fn allows(&self, len: usize) -> bool {
        let window = i128::from(self.window.bytes);
        let half = i128::from(step(self.window).bytes);
        self.is_open() && (len as i128 <= self.bytes || self.bytes > window - half)
    }

    /// Pays for an item.
    pub(crate) fn pay(&mut self, len: usize) {
        self.pay_all(Amount::of_item(len));
    }

    /// Pays for several items.
    pub(crate) fn pay_all(&mut self, amount: Amount) {
        self.items = self.items.saturating_sub(amount.items);
        self.bytes -= i128::from(amount.bytes);
    }

    /// Gets credit back, at most up to the window.
    pub(crate) fn refill(&mut self, amount: Amount) {
        let Amount { items, bytes } = amount;
        self.items = self.items.saturating_add(items).min(self.window.items);
        self.bytes = (self.bytes + i128::from(bytes)).min(self.window.bytes.into());
    }
}

/// Violation of the rules by the sender of items.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("items were lost: item {expected} was expected, and item {received} came")]
    Gap { expected: u64, received: u64 },
    #[error("more items came than the receiver had room for")]
    NoCredit,
    #[error("a message of it is malformed")]
    Malformed,
}

/// The receiving side of a window.
#[derive(Debug)]
pub(crate) struct Intake {
    /// The sender's credit, as far as the receiver knows.
    credit: Credit,
    /// Number of the next item.
    next: u64,
    /// The amount that was read and is not given back yet.
    owed: Amount,
}

impl Intake {
    pub(crate) fn new(window: Amount) -> Self {
        Self {
            credit: Credit::of(window),
            next: 0,
            owed: Amount::default(),
        }
    }

    /// Takes items, at least one: the number of the first, and the lengths of all; `None` in place of an item that is cut off.
    pub(crate) fn take(
        &mut self,
        first: u64,
        lens: impl Iterator<Item = Option<usize>>,
    ) -> Result<(), Violation> {
        self.expect(first)?;
        let mut lens = lens.peekable();
        if lens.peek().is_none() {
            // Messages without items would cost no credit.
            return Err(Violation::Malformed);
        }
        for len in lens {
            let len = len.ok_or(Violation::Malformed)?;
            if !self.credit.allows(len) {
                return Err(Violation::NoCredit);
            }
            self.credit.pay(len);
            self.next += 1;
        }
        Ok(())
    }

    /// Checks the number of items that the sender states.
    pub(crate) fn expect(&self, number: u64) -> Result<(), Violation> {
        match number == self.next {
            true => Ok(()),
            false => Err(Violation::Gap {
                expected: self.next,
                received: number,
            }),
        }
    }

    /// Records that items were read. Returns the credit that the sender gets back now, if any.
    pub(crate) fn read(&mut self, amount: Amount) -> Option<Amount> {
        self.owed.add(amount);
        let step = step(self.credit.window);
        if self.owed.items < step.items && self.owed.bytes < step.bytes {
            return None;
        }
        self.credit.refill(self.owed);
        Some(std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn window(items: u64, bytes: u64) -> Amount {
        Amount { items, bytes }
    }

    #[test]
    fn the_credit_is_the_window_and_comes_back_by_halves() {
        let mut credit = Credit::of(window(4, 100));
        let mut intake = Intake::new(window(4, 100));
        for number in 0..4 {
            assert!(credit.allows(10));
            credit.pay(10);
            intake.take(number, [Some(10)].into_iter()).unwrap();
        }
        assert!(!credit.allows(1));
        assert_eq!(intake.read(Amount::of_item(10)), None);
        assert_eq!(intake.read(Amount::of_item(10)), Some(window(2, 20)));
        credit.refill(window(2, 20));
        assert!(credit.allows(10));
    }

    #[test]
    fn an_item_longer_than_the_window_may_be_sent_once_everything_is_read() {
        let mut credit = Credit::of(window(4, 100));
        assert!(credit.allows(1_000_000));
        credit.pay(1_000_000);
        assert!(!credit.allows(1));
        credit.refill(Amount::of_item(1_000_000));
        assert!(credit.allows(101));
        credit.pay(50);
        assert!(credit.allows(50));
        assert!(!credit.allows(51));
    }

    #[test]
    fn gaps_repetitions_and_excess_are_noticed() {
        let mut intake = Intake::new(window(2, 100));
        intake.take(0, [Some(1)].into_iter()).unwrap();
        for received in [0, 2] {
            let gap = Violation::Gap {
                expected: 1,
                received,
            };
            assert_eq!(
                intake.take(received, [Some(1)].into_iter()),
                Err(gap.clone())
            );
            assert_eq!(intake.expect(received), Err(gap));
        }
        assert_eq!(
            intake.take(1, [Some(1), Some(1)].into_iter()),
            Err(Violation::NoCredit)
        );
        let mut intake = Intake::new(window(2, 100));
        for malformed in [vec![None], vec![]] {
            let taken = intake.take(0, malformed.into_iter());
            assert_eq!(taken, Err(Violation::Malformed));
        }
    }

    #[test]
    fn credit_beyond_the_window_counts_for_nothing() {
        let mut credit = Credit::of(window(2, 10));
        credit.refill(window(u64::MAX, u64::MAX));
        credit.pay(5);
        credit.pay(5);
        assert!(!credit.is_open());
    }

    #[test]
    fn both_sides_cut_a_window_that_is_too_large() {
        let mut credit = Credit::of(window(u64::MAX, u64::MAX));
        let mut intake = Intake::new(window(u64::MAX, u64::MAX));
        credit.pay(MAX_WINDOW.bytes as usize);
        assert!(!credit.allows(1));
        intake
            .take(0, [Some(MAX_WINDOW.bytes as usize)].into_iter())
            .unwrap();
        let back = intake
            .read(Amount::of_item(MAX_WINDOW.bytes as usize))
            .unwrap();
        credit.refill(back);
        assert!(credit.allows(MAX_WINDOW.bytes as usize));
    }

    /// A step of a sender, a receiver and the two queues between them.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send,
        Deliver,
        Read,
        DeliverCredit,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Send),
            3 => Just(Step::Deliver),
            3 => Just(Step::Read),
            1 => Just(Step::DeliverCredit),
        ];
        prop::collection::vec(step, 0..300)
    }

    /// Two sides of a window, and the messages between them.
    struct Model {
        window: Amount,
        lens: VecDeque<usize>,
        credit: Credit,
        intake: Intake,
        sent: u64,
        on_their_way: VecDeque<(u64, usize)>,
        unread: VecDeque<usize>,
        read: u64,
        credits: VecDeque<Amount>,
    }

    impl Model {
        fn step(&mut self, step: Step) -> bool {
            match step {
                Step::Send => match self.lens.front().copied() {
                    Some(len) if self.credit.allows(len) => {
                        self.lens.pop_front();
                        self.credit.pay(len);
                        self.on_their_way.push_back((self.sent, len));
                        self.sent += 1;
                        true
                    }
                    _ => false,
                },
                Step::Deliver => self.on_their_way.pop_front().is_some_and(|(number, len)| {
                    // The receiver never blames a sender that keeps the rules.
                    self.intake.take(number, [Some(len)].into_iter()).unwrap();
                    self.unread.push_back(len);
                    true
                }),
                Step::Read => self.unread.pop_front().is_some_and(|len| {
                    self.read += 1;
                    self.credits.extend(self.intake.read(Amount::of_item(len)));
                    true
                }),
                Step::DeliverCredit => self.credits.pop_front().is_some_and(|amount| {
                    self.credit.refill(amount);
                    true
                }),
            }
        }

        fn check_bounds(&self) {
            let waiting = self.on_their_way.iter().map(|(_, len)| *len);
            let waiting: Vec<usize> = waiting.chain(self.unread.iter().copied()).collect();
            assert!(waiting.len() as u64 <= self.window.items.max(1));
            let bytes: usize = waiting.iter().sum();
            let longest = waiting.iter().max().copied().unwrap_or(0);
            let half = self.window.bytes.div_ceil(2) as usize;
            assert!(bytes <= (self.window.bytes as usize).max(half + longest));
        }
    }

    proptest! {
        #[test]
        fn items_stay_within_the_window_and_none_waits_without_end(
            items in 0..20_u64,
            bytes in 0..200_u64,
            lens in prop::collection::vec(0..300_usize, 0..200),
            steps in steps(),
        ) {
            let window = window(items, bytes);
            let total = lens.len() as u64;
            let mut model = Model {
                window,
                lens: lens.into(),
                credit: Credit::of(window),
                intake: Intake::new(window),
                sent: 0,
                on_their_way: VecDeque::new(),
                unread: VecDeque::new(),
                read: 0,
                credits: VecDeque::new(),
            };
            for step in steps {
                model.step(step);
                model.check_bounds();
            }
            // Once every side goes on, every item arrives.
            while [Step::Send, Step::Deliver, Step::Read, Step::DeliverCredit]
                .into_iter()
                .any(|step| model.step(step))
            {
                model.check_bounds();
            }
            prop_assert_eq!(model.read, total);
            prop_assert!(model.intake.expect(total).is_ok());
        }
    }
}
