//! Streams of the clients of a scenario, beside its load.

use std::time::Duration;

use rpc_core::{ErrorKind, RpcError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::service::{FaultClient, paced};
use super::verdict::{Expected, Verdict};

/// Items of a stream, and the pause before each: a stream takes a second.
const ITEMS: u64 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Longest silence of a stream, and time of the whole stream.
const SILENCE: Duration = Duration::from_secs(6);
const LIMIT: Duration = Duration::from_secs(30);

/// Tolerance, on a slow machine.
const GRACE: Duration = Duration::from_secs(3);

/// The pause after a stream that could not be opened.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Streams, one after the other in each direction for each client.
pub(crate) struct Streams {
    go_on: watch::Sender<bool>,
    streaming: JoinSet<Vec<Ended>>,
}

/// The end of a stream.
#[derive(Debug)]
enum End {
    Complete,
    /// The server took only a part of the caller's items, and said so.
    CutShort,
    Failed(RpcError),
}

/// A stream that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    direction: &'static str,
    /// Items that arrived in order.
    items: u64,
    end: End,
    took: Duration,
    /// The longest time without an item.
    longest_silence: Duration,
    problem: Option<String>,
}

impl Streams {
    pub(crate) fn start(clients: &[FaultClient]) -> Self {
        let (go_on, going_on) = watch::channel(true);
        let mut streaming = JoinSet::new();
        for client in clients {
            let (client, go_on) = (client.clone(), going_on.clone());
            streaming.spawn(repeat(go_on, client.clone(), async |client| {
                Ended::of_numbers(client).await
            }));
            let go_on = going_on.clone();
            streaming.spawn(repeat(go_on, client, async |client| {
                Ended::of_in_order(client).await
            }));
        }
        Self { go_on, streaming }
    }

    /// Waits for the streams that are open.
    pub(crate) async fn end(mut self) -> Vec<Ended> {
        self.go_on.send_replace(false);
        let mut all = Vec::new();
        let ending = async {
            while let Some(ended) = self.streaming.join_next().await {
                all.extend(ended.expect("streams do not panic"));
            }
        };
        let ended = timeout(LIMIT + 2 * GRACE, ending).await;
        assert!(ended.is_ok(), "streams hang, long after their deadlines");
        all
    }
}

async fn repeat(
    go_on: watch::Receiver<bool>,
    client: FaultClient,
    stream: impl AsyncFn(&FaultClient) -> Ended,
) -> Vec<Ended> {
    let mut all = Vec::new();
    while *go_on.borrow() {
        let ended = stream(&client).await;
        if !matches!(ended.end, End::Complete) {
            sleep(AFTER_FAILURE).await;
        }
        all.push(ended);
    }
    all
}

impl Ended {
    async fn of_numbers(client: &FaultClient) -> Self {
        let begun = Instant::now();
        let mut ended = Self {
            direction: "numbers",
            items: 0,
            end: End::Complete,
            took: Duration::ZERO,
            longest_silence: Duration::ZERO,
            problem: None,
        };
        let pause = PAUSE.as_millis() as u64;
        let call = client.numbers(ITEMS, pause).timeout(SILENCE);
        match call.deadline((begun + LIMIT).into_std()).await {
            Err(error) => ended.end = End::Failed(error),
            Ok(mut numbers) => loop {
                let waited = Instant::now();
                let next = numbers.next().await;
                ended.longest_silence = ended.longest_silence.max(waited.elapsed());
                match next {
                    Some(Ok(number)) if number == ended.items => ended.items += 1,
                    Some(Ok(number)) => {
                        ended.problem = Some(format!("{number} came in place of {}", ended.items));
                        break;
                    }
                    Some(Err(error)) => {
                        ended.end = End::Failed(error);
                        break;
                    }
                    None if ended.items == ITEMS => break,
                    None => {
                        ended.problem = Some("the stream seems complete and is not".to_owned());
                        break;
                    }
                }
            },
        }
        ended.took = begun.elapsed();
        ended
    }

    async fn of_in_order(client: &FaultClient) -> Self {
        let begun = Instant::now();
        let call = client.in_order(paced(ITEMS, PAUSE)).timeout(SILENCE);
        let result = call.deadline((begun + LIMIT).into_std()).await;
        let mut problem = None;
        let (items, end) = match result {
            Ok(Some(ITEMS)) => (ITEMS, End::Complete),
            Ok(None) => (0, End::CutShort),
            Ok(Some(other)) => {
                problem = Some(format!("the server got {other} items and the end"));
                (other, End::Complete)
            }
            Err(error) => (0, End::Failed(error)),
        };
        Self {
            direction: "in_order",
            items,
            end,
            took: begun.elapsed(),
            longest_silence: Duration::ZERO,
            problem,
        }
    }

    /// Adds the stream to the counts, and its problems to the verdict.
    pub(crate) fn judge(self, verdict: &mut Verdict, expected: &Expected) {
        verdict.counts.items += self.items;
        let end = match &self.end {
            End::Complete => "complete".to_owned(),
            End::CutShort => "cut short".to_owned(),
            End::Failed(error) => format!("{:?}", error.kind()),
        };
        *verdict.counts.streams.entry(end).or_default() += 1;
        let mut problem =
            |text: &str| verdict.problem(format!("{}: {text}: {self:?}", self.direction));
        if let Some(text) = &self.problem {
            problem(text);
        }
        if self.took > LIMIT + GRACE {
            problem("the stream ended after its deadline");
        }
        if self.longest_silence > 3 * SILENCE + GRACE {
            problem("the stream was silent for too long");
        }
        let explained = match &self.end {
            End::Complete => true,
            End::CutShort => expected.allows_for_streams(ErrorKind::Cancelled),
            End::Failed(error) => expected.allows_for_streams(error.kind()),
        };
        if !explained {
            problem("the fault does not explain the end of the stream");
        }
        if let End::Failed(error) = &self.end
            && self.items > 0
            && !error.may_have_executed()
        {
            problem("the stream had items, but its error denies that it ran");
        }
    }
}
