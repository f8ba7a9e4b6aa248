//! Closing consumers, channels and connections.

use std::time::Duration;

use tracing::{debug, warn};

/// Time limit for the broker's answer to a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Waits for a close, at most until the time limit: consumers and channels end with the connection in any case.
pub(super) async fn within_limit(what: &str, closing: impl Future<Output = ()> + Send) {
    if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
        warn!("the broker did not answer the close of {what} within {CLOSE_LIMIT:?}");
    }
}

/// Closes a connection and waits for the broker's answer, at most until the time limit.
pub(super) async fn close_connection(connection: &lapin::Connection) {
    let closing = async {
        if let Err(error) = connection.close(200, "OK".into()).await {
            debug!(%error, "the connection was closed already");
        }
    };
    within_limit("the connection", closing).await;
}
