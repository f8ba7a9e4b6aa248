//! Requests of a batch that end in any way and order, on many threads.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_batch_is_settled_once_and_goes_back_if_one_of_its_requests_does(
        goes_back in prop::collection::vec(prop::bool::weighted(0.2), 1..9),
    ) {
        let receipts: Vec<_> = Receipt::shares(7, goes_back.len()).collect();
        prop_assert!(receipts.iter().all(|receipt| receipt.requests() == goes_back.len()));
        let settlements: Vec<Settlement> = std::thread::scope(|scope| {
            let threads: Vec<_> = receipts
                .into_iter()
                .zip(&goes_back)
                .map(|(receipt, &goes_back)| {
                    scope.spawn(move || match goes_back {
                        true => receipt.give_back(),
                        false => receipt.settle(),
                    })
                })
                .collect();
            let ended = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
            ended.flatten().collect()
        });
        let expected = match goes_back.contains(&true) {
            true => Settlement::GiveBack(7),
            false => Settlement::Acknowledge(7),
        };
        prop_assert_eq!(settlements, [expected]);
    }
}
