//! Credentials that expire, renewed while their connection works (<https://www.rabbitmq.com/docs/oauth2#token-expiration>).

use std::sync::Arc;
use std::time::Duration;

use lapin::types::ShortString;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::guard::Secrets;
use crate::backoff::pauses;
use crate::credentials::{Credentials, Provider};
use crate::error::{BoxError, with_causes};
use crate::task::Task;

/// The shortest time between two renewals.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The pauses between questions that were not answered.
const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// A moment, and the time for which credentials are valid from then on.
type Validity = (Instant, Duration);

/// The renewal of a connection's credentials. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Renewal {
    outdated: watch::Receiver<bool>,
    _task: Task,
}

impl Renewal {
    /// Takes a callback with the time that it, and the broker, have for an answer, and the credentials' user and validity.
    pub(super) fn start(
        connection: Arc<lapin::Connection>,
        secrets: Arc<Secrets>,
        (provider, limit): (Provider, Duration),
        user: &str,
        validity: Validity,
    ) -> Self {
        let (report, outdated) = watch::channel(false);
        let renewing = Renewing {
            connection,
            secrets,
            provider,
            user: user.to_owned(),
            limit,
        };
        Self {
            outdated,
            _task: Task::spawn(renewing.run(validity, report)),
        }
    }

    /// Returns `true` if the credentials are another user's by now, for which the connection cannot be used.
    pub(super) fn is_outdated(&self) -> bool {
        *self.outdated.borrow()
    }

    /// Watches that.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.outdated.clone()
    }
}

struct Renewing {
    connection: Arc<lapin::Connection>,
    secrets: Arc<Secrets>,
    provider: Provider,
    user: String,
    limit: Duration,
}

impl Renewing {
    async fn run(self, mut validity: Validity, report: watch::Sender<bool>) {
        loop {
            let (begun, lifetime) = validity;
            let due = lifetime / 5 * 4;
            let waited = begun.elapsed();
            tokio::time::sleep(due.saturating_sub(waited).max(MIN_INTERVAL)).await;
            let Some(given) = self.renewed(validity).await else {
                return;
            };
            if given.user != self.user {
                info!(
                    "the credentials are another user's now; a new connection takes the place of this one"
                );
                report.send_replace(true);
                // The report counts for as long as the connection is used.
                return report.closed().await;
            }
            match given.valid_for {
                Some(lifetime) => validity = (Instant::now(), lifetime),
                None => return,
            }
        }
    }

    /// Asks until there are credentials that the broker accepts or that are another user's; `None` if the connection was lost before.
    async fn renewed(&self, (begun, lifetime): Validity) -> Option<Credentials> {
        for pause in pauses(MIN_PAUSE, MAX_PAUSE) {
            match self.try_renew().await {
                Ok(given) => return Some(given),
                Err(_) if !self.connection.status().connected() => return None,
                Err(error) => {
                    let error = with_causes(&*error);
                    warn!(
                        ?error,
                        "the credentials could not be renewed; asking again, while the connection goes on"
                    );
                }
            }
            let left = lifetime.saturating_sub(begun.elapsed());
            tokio::time::sleep(shortened(pause, left)).await;
        }
        None // There is always another pause.
    }

    async fn try_renew(&self) -> Result<Credentials, BoxError> {
        let given = self.provider.ask(self.limit).await?;
        if given.user != self.user {
            return Ok(given);
        }
        let reason = ShortString::from("renewed");
        let stand_in = self.secrets.disguise(given.password.as_bytes());
        let telling = self.connection.update_secret(stand_in.into(), reason);
        match tokio::time::timeout(self.limit, telling).await {
            Ok(told) => told.map_err(|error| super::cause(&error))?,
            Err(_) => return Err("the broker did not answer".into()),
        }
        debug!("the credentials were renewed");
        Ok(given)
    }
}

/// A pause that leaves time for another question before the credentials expire. Those that have expired are in no hurry.
fn shortened(pause: Duration, left: Duration) -> Duration {
    match left {
        Duration::ZERO => pause,
        left => pause.min((left / 2).max(MIN_PAUSE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_leaves_time_for_another_question() {
        let [second, ten, long] = [1, 10, 3600].map(Duration::from_secs);
        assert_eq!(shortened(MAX_PAUSE, long), MAX_PAUSE);
        assert_eq!(shortened(MAX_PAUSE, ten), ten / 2);
        assert_eq!(shortened(second, ten), second);
        assert_eq!(shortened(MAX_PAUSE, MIN_PAUSE), MIN_PAUSE);
        assert_eq!(shortened(MAX_PAUSE, Duration::ZERO), MAX_PAUSE);
    }
}
