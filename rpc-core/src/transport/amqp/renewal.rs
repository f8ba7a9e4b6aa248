//! Renewal of credentials that expire, while their connection is in use (<https://www.rabbitmq.com/docs/oauth2#token-expiration>).

use std::sync::Arc;
use std::time::Duration;

use lapin::types::ShortString;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::error::cause;
use super::guard::Secrets;
use crate::backoff::pauses;
use crate::credentials::{Credentials, Provider};
use crate::error::{BoxError, with_causes};

/// Shortest time between two renewals.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Pauses between attempts that failed.
const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// A moment, and the time for which credentials are valid from then on.
type Validity = (Instant, Duration);

/// Renewal of a connection's credentials. Dropping it ends the renewal.
#[derive(Debug)]
pub(super) struct Renewal {
    outdated: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Renewal {
    /// Starts the renewal of the credentials of `user`. `limit` is the time limit for the callback, and for the broker's answer.
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
            _task: AbortOnDropHandle::new(tokio::spawn(renewing.run(validity, report))),
        }
    }

    /// Returns `true` if the credentials are those of another user by now, for whom the connection cannot be used.
    pub(super) fn is_outdated(&self) -> bool {
        *self.outdated.borrow()
    }

    /// Watches [`is_outdated`](Self::is_outdated).
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
                    "the credentials are now those of another user; a new connection will replace this one"
                );
                report.send_replace(true);
                // The report is valid while the connection is used.
                return report.closed().await;
            }
            match given.valid_for {
                Some(lifetime) => validity = (Instant::now(), lifetime),
                None => return,
            }
        }
    }

    /// Calls the callback until it returns credentials that the broker accepts, or credentials of another user; `None` if the connection was lost
    /// before.
    async fn renewed(&self, (begun, lifetime): Validity) -> Option<Credentials> {
        for pause in pauses(MIN_PAUSE, MAX_PAUSE) {
            match self.try_renew().await {
                Ok(given) => return Some(given),
                Err(_) if !self.connection.status().connected() => return None,
                Err(error) => {
                    let error = with_causes(&*error);
                    warn!(
                        ?error,
                        "the credentials could not be renewed; the connection stays in use, and the callback will be called again"
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
            Ok(told) => told.map_err(|error| cause(&error))?,
            Err(_) => return Err("the broker did not answer".into()),
        }
        debug!("the credentials were renewed");
        Ok(given)
    }
}

/// Shortens a pause so that another attempt fits in before the credentials expire. Expired credentials keep the whole pause.
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
    fn pauses_leave_time_for_another_attempt() {
        let [second, ten, long] = [1, 10, 3600].map(Duration::from_secs);
        assert_eq!(shortened(MAX_PAUSE, long), MAX_PAUSE);
        assert_eq!(shortened(MAX_PAUSE, ten), ten / 2);
        assert_eq!(shortened(second, ten), second);
        assert_eq!(shortened(MAX_PAUSE, MIN_PAUSE), MIN_PAUSE);
        assert_eq!(shortened(MAX_PAUSE, Duration::ZERO), MAX_PAUSE);
    }
}
