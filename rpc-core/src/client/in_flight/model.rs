//! Calls that are answered, dropped and failed at random, against a list of what became of each.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::codec::ContentType;
use crate::message::Outcome;

#[derive(Clone, Debug)]
enum Step {
    Register,
    /// Answers calls by their numbers, one at a time or together.
    Answer(Vec<usize>, bool),
    /// A reply that no call has the id of.
    Foreign,
    Drop(usize),
    Fail(usize),
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => Just(Step::Register),
        6 => (prop::collection::vec(any::<usize>(), 1..4), any::<bool>()).prop_map(|(calls, together)| Step::Answer(calls, together)),
        1 => Just(Step::Foreign),
        3 => any::<usize>().prop_map(Step::Drop),
        2 => any::<usize>().prop_map(Step::Fail),
        1 => Just(Step::End),
    ];
    prop::collection::vec(step, 1..60)
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Waits,
    Answered,
    Failed(ErrorKind),
    Dropped,
}

struct Call {
    id: SmolStr,
    waiter: Option<Waiter>,
    fate: Fate,
}

fn answer() -> Answer {
    Ok(Response::new(
        Outcome::Result,
        ContentType::MessagePack,
        "x".into(),
    ))
}

fn run(steps: Vec<Step>) {
    let in_flight = Arc::new(InFlight::new(Arc::default()));
    let mut calls: Vec<Call> = Vec::new();
    let mut expected = DroppedReplies::default();
    let mut has_ended = false;
    for step in steps {
        match step {
            Step::Register => match in_flight.register(None) {
                Ok(waiter) => {
                    assert!(!has_ended);
                    calls.push(Call {
                        id: waiter.correlation_id(),
                        waiter: Some(waiter),
                        fate: Fate::Waits,
                    });
                }
                Err(error) => assert!(has_ended && !error.may_have_executed()),
            },
            Step::Answer(which, together) if !calls.is_empty() => {
                let which: Vec<usize> = which.iter().map(|call| call % calls.len()).collect();
                if together {
                    let answers = which
                        .iter()
                        .map(|&call| (calls[call].id.as_str(), answer()));
                    in_flight.answer_all(answers, 1);
                } else {
                    for &call in &which {
                        in_flight.answer(Some(&calls[call].id), answer());
                    }
                }
                for call in which {
                    match &mut calls[call].fate {
                        fate @ Fate::Waits => *fate = Fate::Answered,
                        _ => expected.late += 1,
                    }
                }
            }
            Step::Foreign => {
                in_flight.answer(Some("somebody else's"), answer());
                in_flight.answer(None, answer());
                expected.foreign += 1;
                expected.malformed += 1;
            }
            Step::Drop(call) if !calls.is_empty() => {
                let index = call % calls.len();
                let call = &mut calls[index];
                drop(call.waiter.take());
                call.fate = Fate::Dropped;
            }
            Step::Fail(call) if !calls.is_empty() => {
                let index = call % calls.len();
                let call = &mut calls[index];
                if let Some(waiter) = &call.waiter {
                    let error = RpcError::new(ErrorKind::Rejected, "no");
                    in_flight.fail(&[waiter.id()], &error);
                }
                if call.fate == Fate::Waits {
                    call.fate = Fate::Failed(ErrorKind::Rejected);
                }
            }
            Step::End => {
                in_flight.end(Ended::Closed);
                has_ended = true;
                for call in calls.iter_mut().filter(|call| call.fate == Fate::Waits) {
                    call.fate = Fate::Failed(ErrorKind::Closed);
                }
            }
            Step::Answer(..) | Step::Drop(_) | Step::Fail(_) => {}
        }
        let waiting = calls.iter().filter(|call| call.fate == Fate::Waits);
        assert_eq!(in_flight.table().calls.len(), waiting.count());
        assert_eq!(in_flight.dropped.read(), expected);
        assert_eq!(in_flight.is_live(), !has_ended);
    }
    for call in &mut calls {
        let Some(waiter) = &mut call.waiter else {
            continue;
        };
        let ended = match waiter.answer().now_or_never() {
            None => Fate::Waits,
            Some(Ok(_)) => Fate::Answered,
            Some(Err(error)) => Fate::Failed(error.kind()),
        };
        assert_eq!(ended, call.fate);
    }
    drop(calls);
    assert!(in_flight.table().calls.is_empty());
}

proptest! {
    #[test]
    fn every_call_has_one_fate_and_every_other_reply_is_counted(steps in steps()) {
        run(steps);
    }
}
