//! Opening of sessions: the first when a server starts, further ones when a link is lost or replaced.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::SelectAll;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::consumer::Consumer;
use super::instance::Instance;
use super::last_attempts::LastAttempts;
use super::open_failure::{OpenFailure, Outlook};
use super::outbox::Outbox;
use super::served::{QueueRole, ServedQueue};
use super::session::{Session, SessionEnd, stopped};
use crate::backoff::pauses;
use crate::error::{ServeError, with_causes};
use crate::transport::{ChannelMode, Link};

/// The pauses before a server that lost its channel asks for another.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

impl Instance {
    /// Declares the queues and reads them, as soon as an attempt succeeds. A passive queue has to exist.
    pub(super) async fn open(self: &Arc<Self>) -> Result<Session, ServeError> {
        self.keep_opening(Outlook::Transient).await
    }

    /// Opens the next session, as soon as an attempt succeeds; `None` if the server is told to stop first. A new user of the connection
    /// may get the permissions later, or be replaced as well.
    pub(super) async fn reopen(
        self: &Arc<Self>,
        end: &SessionEnd,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<Session>, ServeError> {
        let worst = match end {
            SessionEnd::Moved => Outlook::AfterMove,
            SessionEnd::Lost(_) | SessionEnd::Stopped => Outlook::AfterLoss,
        };
        tokio::select! {
            () = stopped(stop) => Ok(None),
            reopened = self.keep_opening(worst) => reopened.map(Some),
        }
    }

    /// Tries to open a session until an attempt succeeds, or fails with an outlook worse than `worst`. A link may be lost before the
    /// connection notices, or at once, and in a cluster a queue may come back later than the connection.
    async fn keep_opening(self: &Arc<Self>, worst: Outlook) -> Result<Session, ServeError> {
        let mut pauses = pauses(MIN_PAUSE, MAX_PAUSE);
        let mut logged = String::new();
        loop {
            let handovers = self.connection.handovers(); // Before the link, so that none is missed.
            let link = self.connection.link().await?;
            match self.try_open(link, handovers).await {
                Ok(session) => {
                    self.health.serving();
                    return Ok(session);
                }
                Err(failure) if failure.outlook <= worst => {
                    let error = with_causes(&failure.error);
                    self.health.reconnecting(&error);
                    if error != logged {
                        warn!(?error, "cannot serve yet; trying again");
                        logged = error;
                    }
                }
                Err(failure) => return Err(failure.error),
            }
            tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
        }
    }

    async fn try_open(
        self: &Arc<Self>,
        link: Arc<dyn Link>,
        handovers: watch::Receiver<()>,
    ) -> Result<Session, OpenFailure> {
        let options = &self.options;
        let channel = link
            .open_channel(ChannelMode::Plain)
            .await
            .map_err(|error| self.failure(None, error))?;
        let user_id = self.connection.user_id_on(&*link);
        let outbox = Arc::new(Outbox::start(
            link.clone(),
            channel.clone(),
            options.batch_limit(),
            user_id,
        ));
        // Before the request queues, so that no notice about their requests is missed.
        let private_queue = self.open_private_queue(&link, &outbox).await?;
        let (instance, returns) = (self.clone(), channel.returns());
        let returns = async move { instance.streams.take_returns(returns).await };
        let mut session = Session {
            link,
            channel,
            outbox,
            deliveries: SelectAll::new(),
            last_attempts: LastAttempts::default(),
            has_quorum_queue: self.queues.iter().any(ServedQueue::may_be_quorum),
            handovers,
            _private_queue: private_queue,
            _returns: AbortOnDropHandle::new(tokio::spawn(returns)),
        };
        for (queue, served) in self.queues.iter().enumerate() {
            let first = |role| Consumer::first(queue, role);
            session.subscribe(self, first(QueueRole::Main)).await?;
            if served.isolates(options.delivery_limit) {
                session.subscribe(self, first(QueueRole::Retry)).await?;
                session.last_attempts.add(queue, 0);
            }
            info!(
                service = served.service,
                queue = &*served.queue,
                prefetch = options.prefetch,
                "serving"
            );
        }
        Ok(session)
    }
}
