//! Connections to a broker.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use smol_str::SmolStr;
use tokio::sync::watch;

use super::channel::{Channel, ChannelMode};
use super::error::TransportError;
use crate::error::OpenError;

/// Source of links to one broker, or to the nodes of one cluster.
pub(crate) trait Transport: Debug + Send + Sync {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, OpenError>>;
}

/// State of a link.
#[derive(Clone, Debug)]
pub(crate) enum LinkStatus {
    Up,
    /// The broker accepts no messages, for the reason that it gives.
    Blocked(String),
    /// The link was lost, and stays lost.
    Lost(TransportError),
}

/// A connection to a broker.
pub(crate) trait Link: Debug + Send + Sync {
    fn status(&self) -> watch::Receiver<LinkStatus>;

    /// User of the login; `None` if only the broker knows.
    fn user(&self) -> Option<SmolStr>;

    /// Resolves when another link should replace this one, although this one still works: the credentials now belong to another
    /// user.
    fn outdated(&self) -> BoxFuture<'_, ()>;

    fn open_channel(
        &self,
        mode: ChannelMode,
    ) -> BoxFuture<'_, Result<Arc<dyn Channel>, TransportError>>;

    /// Closes the link and waits for the broker's answer.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Ends the link when its runtime has ended.
    fn abandon(&self);
}
