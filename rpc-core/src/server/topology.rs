//! Declaration of a server's queues.

use crate::queue::{Declares, QueueOptions};
use crate::transport::{ChannelMode, Link, QueueKind, TransportError};

/// Declares a request queue as its options say, and the queue for requests that expire in it.
pub(super) async fn declare_requests(
    link: &dyn Link,
    queue: &str,
    options: &QueueOptions,
) -> Result<(), TransportError> {
    if let (Some(target), false) = (&options.dead_letter_queue, options.is_passive()) {
        ensure_queue(link, target, &QueueOptions::classic()).await?;
    }
    if options.declares != Declares::IfMissing {
        return declare(link, queue, options).await;
    }
    // A passive declaration comes first: the broker refuses other arguments for an existing queue, and lapin logs each refusal as an error.
    match declare(link, queue, &QueueOptions::passive()).await {
        Err(TransportError::Unavailable(_)) => ensure_queue(link, queue, options).await,
        outcome => outcome,
    }
}

/// Declares the queue where requests wait for their last attempt. A queue that exists is used as it is: an earlier version of a server
/// may have declared it with other options.
pub(super) async fn declare_retries(
    link: &dyn Link,
    queue: &str,
    options: &QueueOptions,
) -> Result<(), TransportError> {
    ensure_queue(link, queue, &options.of_retries()).await
}

/// Declares a queue, unless there is one of that name, of any type and with any arguments.
///
/// lapin logs an error for each refusal: none if the queue is new or was declared with the same arguments, one if the queue has other
/// arguments, up to two if the user may not declare it.
pub(super) async fn ensure_queue(
    link: &dyn Link,
    queue: &str,
    options: &QueueOptions,
) -> Result<(), TransportError> {
    match declare(link, queue, options).await {
        // The queue has other arguments, or the user may only use it.
        Err(refusal @ (TransportError::Refused(_) | TransportError::Forbidden(_))) => {
            let passive = QueueOptions::passive();
            declare(link, queue, &passive).await.map_err(|_| refusal)
        }
        outcome => outcome,
    }
}

/// Declares a queue on a channel of its own: a refusal closes the channel.
async fn declare(
    link: &dyn Link,
    queue: &str,
    options: &QueueOptions,
) -> Result<(), TransportError> {
    let declaring = link.open_channel(ChannelMode::Plain).await?;
    declaring
        .declare_queue(queue, QueueKind::Durable(options))
        .await
}
