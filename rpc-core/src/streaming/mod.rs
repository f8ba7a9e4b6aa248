//! Streams of items over messages, the same on both sides: credit and sequence, sending, receiving, signs of life.
//!
//! Each side of an open stream has an [`Inbox`], which the task that receives messages fills without waiting. Three loops of the side's
//! own task work on the stream: [`send_items`], [`send_controls`] and [`watch`]. The reader of the items takes them out of the inbox.

mod inbox;
mod keeping;
mod sender;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use self::inbox::{Inbox, Side};
pub(crate) use self::keeping::{End, Limits, send_controls, watch};
pub(crate) use self::sender::send_items;
pub(crate) use self::window::DEFAULT_WINDOW;

use crate::error::RpcError;
use crate::wire::Frame;

/// The way to the other side of a stream.
pub(crate) trait Outlet: Sync {
    /// Sends a message. Resolves once the message is on its way. A future that is dropped earlier sends nothing.
    ///
    /// An error means that no message can be sent any more.
    fn send(&self, frame: Frame) -> impl Future<Output = Result<(), RpcError>> + Send;

    /// Returns `true` while the broker accepts no messages of this side.
    fn is_blocked(&self) -> bool;

    /// Length in bytes of the largest body that may be sent.
    fn max_len(&self) -> usize;
}
