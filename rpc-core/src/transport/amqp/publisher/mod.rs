//! Publishing on a channel of lapin.
//!
//! lapin queues a message on the first poll of its future, and writes messages in that order. So [`PlainPublisher`] queues each
//! message where it is published. lapin's queue has no bound, so at regular intervals a message goes through the publisher's task,
//! which waits until the message is written, and only a limited number may be queued before that.
//!
//! lapin writes acknowledgements before publishes that are still queued, so a reply and its acknowledgement keep their order only
//! if the acknowledgement is queued after the reply was written. Waiting for each write before queueing the next publish would
//! halve the throughput. So replies are written many at a time ([`write_all`]), and acknowledged with as few acknowledgements as
//! possible (see [`super::acks`]).
//!
//! lapin attaches returned messages to confirms, mostly to those of other messages: [`ConfirmedPublisher`] matches them
//! ([`return_matcher`]). Without confirms, lapin has to be asked for them ([`returns`]).

mod confirmed;
mod plain;
mod publish;
mod return_matcher;
mod returns;
mod transaction;

pub(super) use self::confirmed::ConfirmedPublisher;
pub(super) use self::plain::PlainPublisher;
pub(super) use self::publish::{Address, Publish, write_all};
pub(super) use self::transaction::TransactionPublisher;
