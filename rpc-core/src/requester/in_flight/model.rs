//! Calls that are completed, dropped and failed at random, compared with a list of their states.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::super::dropped::DroppedReplies;
use super::*;
use crate::codec::ContentType;
use crate::message::Outcome;

#[derive(Clone, Debug)]
enum Step {
    Register,
    /// Replies to calls by their numbers, one at a time or together.
    Reply(Vec<usize>, bool),
    /// A reply with the id of no call.
    Foreign,
    Drop(usize),
    Fail(usize),
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => Just(Step::Register),
        6 => (prop::collection::vec(any::<usize>(), 1..4), any::<bool>()).prop_map(|(calls, together)| Step::Reply(calls, together)),
        1 => Just(Step::Foreign),
        3 => any::<usize>().prop_map(Step::Drop),
        2 => any::<usize>().prop_map(Step::Fail),
        1 => Just(Step::End),
    ];
    prop::collection::vec(step, 1..60)
}

/// State of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Waiting,
    Completed,
    Failed(ErrorKind),
    Dropped,
}

struct Call {
    id: SmolStr,
    waiter: Option<Waiter>,
    state: State,
}

fn response() -> CallResult {
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
                        state: State::Waiting,
                    });
                }
                Err(error) => assert!(has_ended && !error.may_have_executed()),
            },
            Step::Reply(which, together) if !calls.is_empty() => {
                let which: Vec<usize> = which.iter().map(|call| call % calls.len()).collect();
                if together {
                    let results = which
                        .iter()
                        .map(|&call| (calls[call].id.as_str(), response()));
                    in_flight.complete_all(results, 1);
                } else {
                    for &call in &which {
                        in_flight.complete(Some(&calls[call].id), response());
                    }
                }
                for call in which {
                    match &mut calls[call].state {
                        state @ State::Waiting => *state = State::Completed,
                        _ => expected.late += 1,
                    }
                }
            }
            Step::Foreign => {
                in_flight.complete(Some("foreign"), response());
                in_flight.complete(None, response());
                expected.foreign += 1;
                expected.malformed += 1;
            }
            Step::Drop(call) if !calls.is_empty() => {
                let index = call % calls.len();
                let call = &mut calls[index];
                drop(call.waiter.take());
                call.state = State::Dropped;
            }
            Step::Fail(call) if !calls.is_empty() => {
                let index = call % calls.len();
                let call = &mut calls[index];
                if let Some(waiter) = &call.waiter {
                    let error = RpcError::new(ErrorKind::Rejected, "no");
                    in_flight.fail(&[waiter.id()], &error);
                }
                if call.state == State::Waiting {
                    call.state = State::Failed(ErrorKind::Rejected);
                }
            }
            Step::End => {
                in_flight.end(EndReason::Closed);
                has_ended = true;
                for call in calls.iter_mut().filter(|call| call.state == State::Waiting) {
                    call.state = State::Failed(ErrorKind::Closed);
                }
            }
            Step::Reply(..) | Step::Drop(_) | Step::Fail(_) => {}
        }
        let waiting = calls.iter().filter(|call| call.state == State::Waiting);
        assert_eq!(in_flight.table().calls.len(), waiting.count());
        assert_eq!(in_flight.dropped.read(), expected);
        assert_eq!(in_flight.is_live(), !has_ended);
    }
    for call in &mut calls {
        let Some(waiter) = &mut call.waiter else {
            continue;
        };
        let ended = match waiter.result().now_or_never() {
            None => State::Waiting,
            Some(Ok(_)) => State::Completed,
            Some(Err(error)) => State::Failed(error.kind()),
        };
        assert_eq!(ended, call.state);
    }
    drop(calls);
    assert!(in_flight.table().calls.is_empty());
}

proptest! {
    #[test]
    fn every_call_completes_once_and_every_other_reply_is_counted(steps in steps()) {
        run(steps);
    }
}
