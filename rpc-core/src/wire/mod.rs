//! The wire protocol, version 1: requests, replies and notices as messages.
//!
//! A change here changes the bytes that other programs send and receive: it needs a test of the bytes and a line in the changelog.

mod checks;
mod notice;
mod question;
mod redelivery;
mod reply;
mod request;

pub(crate) use self::checks::{check_headers, check_size, unreadable};
pub(crate) use self::notice::{CancelNotice, cancel_topic};
pub(crate) use self::question::{Question, all_topic, instances_topic};
pub(crate) use self::redelivery::{
    History, dead_letter, is_expired, made_to_fit, redirected, remove_forged_counts, revive,
};
pub(crate) use self::reply::{
    Execution, Origin, check_reply, reply_from_result, result_from_parts, result_from_reply,
};
pub(crate) use self::request::{
    DeliveryFacts, MessageSettings, correlation_id, message_from_request, parse_correlation_id,
    request_from_message,
};
