//! Requests of a batch that end in any way and order, on many threads.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_batch_is_settled_once_and_requeued_if_one_of_its_requests_is(
        requeued in prop::collection::vec(prop::bool::weighted(0.2), 1..9),
    ) {
        let tokens: Vec<_> = AckToken::shares(7, requeued.len()).collect();
        prop_assert!(tokens.iter().all(|token| token.requests() == requeued.len()));
        let settlements: Vec<Settlement> = std::thread::scope(|scope| {
            let threads: Vec<_> = tokens
                .into_iter()
                .zip(&requeued)
                .map(|(token, &requeued)| {
                    scope.spawn(move || match requeued {
                        true => token.requeue(),
                        false => token.ack(),
                    })
                })
                .collect();
            let settled = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
            settled.flatten().collect()
        });
        let expected = match requeued.contains(&true) {
            true => Settlement::Requeue(7),
            false => Settlement::Ack(7),
        };
        prop_assert_eq!(settlements, [expected]);
    }
}
