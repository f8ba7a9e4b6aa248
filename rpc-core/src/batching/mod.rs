//! Messages that hold several calls.

pub(crate) mod format;
mod receiver;
mod replies;
mod sender;
mod window;

pub(crate) use self::format::{is_batch, replies_of};
pub(crate) use self::receiver::{AckToken, Settlement, UnpackedRequest, may_lack_deadline, unpack};
pub(crate) use self::replies::{ReplyForm, ReplyPacker};
pub(crate) use self::sender::{
    BatchPublisher, BatchQueue, BatchQueues, SendPermit, UnansweredMessage,
};
