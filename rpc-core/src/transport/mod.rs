//! Contract between the library and a broker, and its two implementations.
//!
//! A [`Link`] is one connection to a broker. It never recovers: once lost, it stays lost. Its [`Channel`]s publish, consume
//! and acknowledge as in AMQP 0-9-1, through the default exchange; messages for a topic go to all queues that are bound to it, through another
//! exchange. [`amqp`] implements the contract with RabbitMQ, [`memory`] in this process. One suite of tests runs on both.

#[cfg(feature = "amqp")]
pub(crate) mod amqp;
mod channel;
mod error;
mod lazy;
pub(crate) mod limits;
mod link;
pub(crate) mod memory;
mod message;

pub(crate) use self::channel::{
    Acknowledge, Channel, ChannelMode, Confirm, Deliveries, QueueKind, Sending,
};
pub(crate) use self::error::TransportError;
pub(crate) use self::lazy::LazyChannel;
pub(crate) use self::link::{Link, LinkStatus, Transport};
pub(crate) use self::message::{Content, Delivery, Message, Reply};
