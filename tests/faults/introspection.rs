//! A trickle of questions to the instances of a scenario, beside its load.

use std::time::Duration;

use rpc_core::{Client, Connection, ErrorKind, RpcError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// Name of the service.
const SERVICE: &str = "Fault";

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// Time for the answers to a question.
const WITHIN: Duration = Duration::from_millis(300);

/// Time by which a question may take longer, on a slow machine.
const GRACE: Duration = Duration::from_secs(5);

/// Questions, one after the other.
pub(crate) struct Trickle {
    go_on: watch::Sender<bool>,
    asking: JoinHandle<Report>,
}

/// Numbers and problems of a trickle.
#[derive(Default)]
pub(crate) struct Report {
    /// Questions that got an answer.
    pub(crate) answered: usize,
    pub(crate) problems: Vec<String>,
}

impl Trickle {
    /// Asks over a connection until the trickle ends.
    pub(crate) fn start(connection: &Connection) -> Self {
        let (go_on, going_on) = watch::channel(true);
        let client = connection.client();
        Self {
            go_on,
            asking: tokio::spawn(async move {
                let mut report = Report::default();
                for turn in 0_usize.. {
                    if !*going_on.borrow() {
                        break;
                    }
                    report.ask(&client, turn).await;
                    sleep(PAUSE).await;
                }
                report
            }),
        }
    }

    /// Ends the trickle after the question that is being asked.
    pub(crate) async fn end(self) -> Report {
        self.go_on.send_replace(false);
        self.asking.await.expect("questions do not panic")
    }
}

impl Report {
    /// Asks one question and checks its answers.
    async fn ask(&mut self, client: &Client, turn: usize) {
        let began = Instant::now();
        let (question, outcome) = match turn % 3 {
            0 => ("instances", instances(client).await),
            1 => ("stats", stats(client).await),
            _ => ("describe", describe(client).await),
        };
        match outcome {
            Ok(ids) => {
                self.answered += usize::from(!ids.is_empty());
                let mut unique = ids.clone();
                unique.dedup();
                if unique != ids || ids.iter().any(|id| Uuid::try_parse(id).is_err()) {
                    self.problem(format!("{question}: wrong ids {ids:?}"));
                }
            }
            Err(error) => {
                let is_explained = matches!(
                    error.kind(),
                    ErrorKind::Disconnected | ErrorKind::Timeout | ErrorKind::Unroutable
                );
                if !is_explained {
                    self.problem(format!("{question}: {error:?}"));
                }
            }
        }
        let took = began.elapsed();
        // A description asks twice.
        if took > 2 * WITHIN + GRACE {
            self.problem(format!("{question} took {took:?}"));
        }
    }

    fn problem(&mut self, text: String) {
        self.problems.push(text);
    }
}

/// Returns the ids of the instances, sorted.
async fn instances(client: &Client) -> Result<Vec<String>, RpcError> {
    let instances = client.instances(SERVICE).within(WITHIN).await?;
    Ok(instances.into_iter().map(|instance| instance.id).collect())
}

async fn stats(client: &Client) -> Result<Vec<String>, RpcError> {
    let stats = client.stats(SERVICE).within(WITHIN).await?;
    let mut ids: Vec<_> = stats.into_iter().map(|instance| instance.id).collect();
    ids.sort();
    Ok(ids)
}

/// Asks for the description, and returns no ids.
async fn describe(client: &Client) -> Result<Vec<String>, RpcError> {
    let service = client.describe(SERVICE).within(WITHIN).await?;
    assert_eq!(service.name, SERVICE);
    assert_eq!(service.methods.len(), 6);
    Ok(Vec::new())
}
