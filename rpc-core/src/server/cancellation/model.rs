//! Calls that arrive, end and are dropped at random, compared with a list of them.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::transport::Content;

#[derive(Clone, Debug)]
enum Step {
    Arrive(u8),
    /// Ends one of the running calls.
    End(usize),
    Drop(Vec<u8>, u64),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let call = 0..6_u8;
    let step = prop_oneof![
        4 => call.clone().prop_map(Step::Arrive),
        3 => any::<usize>().prop_map(Step::End),
        3 => (prop::collection::vec(call, 1..4), 1..10_u64).prop_map(|(calls, after)| Step::Drop(calls, after)),
        2 => (1..10_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

fn message(call: u8) -> Message {
    Message::from(Content {
        reply_to: Some("replies".into()),
        correlation_id: Some(call.to_string().into()),
        ..Content::default()
    })
}

fn notice(calls: &[u8], after: Duration) -> CancelNotice {
    CancelNotice {
        reply_to: "replies".into(),
        correlation_ids: calls.iter().map(u8::to_string).collect(),
        deadline: Instant::now() + after,
    }
}

/// A call that was dropped before it arrived: the earliest and the latest of its deadlines.
type Dropped = BTreeMap<u8, (Instant, Instant)>;

async fn run(steps: Vec<Step>) {
    let calls = CallRegistry::default();
    let mut running: Vec<(u8, RegisteredCall, bool)> = Vec::new();
    let mut dropped = Dropped::new();
    for step in steps {
        match step {
            Step::Arrive(call) => {
                let registered = calls.register(&message(call));
                // Runs of one call are cancelled together.
                let other = running.iter().find(|(other, ..)| *other == call);
                let with_others = other.is_some_and(|(.., is_cancelled)| *is_cancelled);
                let is_cancelled = registered.cancellation.is_cancelled();
                match dropped.get(&call) {
                    None => assert_eq!(is_cancelled, with_others),
                    Some((earliest, _)) if *earliest > Instant::now() => assert!(is_cancelled),
                    // The registry may have forgotten the call.
                    Some(_) => assert!(is_cancelled || !with_others),
                }
                for (other, _, cancelled) in &mut running {
                    *cancelled |= *other == call && is_cancelled;
                }
                running.push((call, registered, is_cancelled));
            }
            Step::End(which) if !running.is_empty() => {
                drop(running.swap_remove(which % running.len()));
            }
            Step::End(_) => {}
            Step::Drop(which, after) => {
                let after = Duration::from_secs(after);
                calls.cancel(notice(&which, after));
                for call in which {
                    let mut runs = running.iter_mut().filter(|(other, ..)| *other == call);
                    let mut is_running = false;
                    for (.., cancelled) in &mut runs {
                        (is_running, *cancelled) = (true, true);
                    }
                    if !is_running {
                        let deadline = Instant::now() + after;
                        let known = dropped.entry(call).or_insert((deadline, deadline));
                        *known = (known.0.min(deadline), known.1.max(deadline));
                    }
                }
            }
            Step::Wait(seconds) => tokio::time::advance(Duration::from_secs(seconds)).await,
        }
        for (call, registered, is_cancelled) in &running {
            assert_eq!(
                registered.cancellation.is_cancelled(),
                *is_cancelled,
                "{call}"
            );
        }
        let table = calls.table();
        assert_eq!(table.deadlines.len(), table.expected.len());
        assert!(table.running.len() <= running.len());
    }
    drop(running);
    assert!(calls.table().running.is_empty());
    tokio::time::advance(Duration::from_secs(60)).await;
    calls.cancel(notice(&[], Duration::ZERO));
    assert!(calls.table().expected.is_empty());
}

proptest! {
    #[test]
    fn dropped_calls_are_cancelled_and_other_calls_are_not(steps in steps()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(run(steps));
    }
}
