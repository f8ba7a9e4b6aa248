//! The wire protocol, version 1: requests, questions, replies and notices as messages, and the topics of instances.
//!
//! A change here changes the bytes that other programs send and receive: it needs a test of the bytes and a line in the changelog.

mod checks;
mod death;
mod notice;
mod question;
mod redelivery;
mod reply;
mod request;
mod stream;
mod topic;

pub(crate) use self::checks::{check_headers, check_size, supported_content_type, unreadable};
pub(crate) use self::death::{Death, put_back, retried};
pub(crate) use self::notice::CancelNotice;
pub(crate) use self::question::{
    MAX_QUESTION_LEN, QUESTION_CONTENT_TYPE, Question, StreamQuestion, service_in_question,
};
pub(crate) use self::redelivery::{
    History, dead_letter, is_expired, made_to_fit, redirected, remove_forged_counts, revive,
};
pub(crate) use self::reply::{
    Execution, Origin, check_reply, reply_from_result, result_from_parts, result_from_reply,
};
pub(crate) use self::request::{
    DeliveryFacts, MessageSettings, StreamTerms, correlation_id, keep_terms, message_from_request,
    parse_correlation_id, request_from_message, take_terms,
};
pub(crate) use self::stream::{
    Accepted, Amount, Frame, ITEM_PREFIX, StreamLabel, item_lens, push_item, split_item, started,
};
pub(crate) use self::topic::{
    all_topic, cancel_topic, instances_topic, queue_of_all_topic, service_of_instances_topic,
};
