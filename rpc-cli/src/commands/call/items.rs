//! The items that a caller sends: JSON from standard input, one value after the other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use rpc_core::Encoded;
use rpc_core::instances::MethodInfo;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::arguments::Items;
use crate::failure::Failure;

/// Number of items that are read ahead.
const READ_AHEAD: usize = 64;

/// Items from standard input. The stream ends with the input, and stays open after an item that is not valid: such a call is to fail, and not to end
/// as if the input were complete.
pub(super) struct CallerItems(mpsc::Receiver<Encoded>);

/// Failure to read an item.
pub(super) struct Problem(oneshot::Receiver<Failure>);

impl CallerItems {
    /// Starts to read. Each item is checked against the description of the method.
    pub(super) fn from_stdin(info: Option<&MethodInfo>) -> (Self, Problem) {
        let (items, received) = mpsc::channel(READ_AHEAD);
        let (problem, reported) = oneshot::channel();
        let checks = info.map(Items::of);
        std::thread::spawn(move || {
            if let Err(failure) = read(io::stdin().lock(), checks.as_ref(), &items) {
                // The stream must not end before the failure has ended the call.
                if problem.send(failure).is_ok() {
                    std::mem::forget(items);
                }
            }
        });
        (Self(received), Problem(reported))
    }
}

/// Reads items until the end of the input, or until the call has ended.
fn read(
    input: impl io::Read,
    checks: Option<&Items>,
    items: &mpsc::Sender<Encoded>,
) -> Result<(), Failure> {
    let values = serde_json::Deserializer::from_reader(input).into_iter::<Box<RawValue>>();
    for (number, value) in (1..).zip(values) {
        let text = value.map_err(|error| {
            Failure::usage(format!(
                "item {number} of standard input is not JSON: {error}"
            ))
        })?;
        if let Some(checks) = checks {
            checks.check(number, &serde_json::from_str(text.get())?)?;
        }
        let item = Encoded::from_json(text.get())?;
        if items.blocking_send(item).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

impl Stream for CallerItems {
    type Item = Encoded;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Encoded>> {
        self.0.poll_recv(cx)
    }
}

impl Problem {
    /// Waits for a call, or for the failure to read an item, which drops the call.
    pub(super) async fn or(
        self,
        call: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let problem = async {
            match self.0.await {
                Ok(failure) => Err(failure),
                // The input has ended.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            failure = problem => failure,
            result = call => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(input: &str) -> (Vec<String>, Result<(), Failure>) {
        let (sender, mut received) = mpsc::channel(100);
        let result = read(input.as_bytes(), None, &sender);
        let items = std::iter::from_fn(|| received.try_recv().ok());
        (
            items.filter_map(|item| item.to_json().ok()).collect(),
            result,
        )
    }

    #[test]
    fn values_may_be_separated_by_any_space() {
        let (items, result) = items("1\n\n 2 {\n\"a\": 3\n}\n\"b\"");
        assert_eq!(items, ["1", "2", "{\n\"a\": 3\n}", "\"b\""]);
        assert!(result.is_ok());
    }

    #[test]
    fn a_value_that_is_not_json_is_named() {
        let (items, result) = items("1 2 x 4");
        assert_eq!(items, ["1", "2"]);
        let message = result.expect_err("not JSON").to_string();
        assert!(message.starts_with("item 3 of standard input"), "{message}");
    }
}
