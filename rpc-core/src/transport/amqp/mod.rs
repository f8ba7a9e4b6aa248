//! AMQP 0-9-1 through lapin. No other folder names lapin.
//!
//! lapin's automatic recovery is never used: a connection that is lost stays lost, and reports the loss at once. [`publisher`] explains
//! how publishes, returns and confirms are handled, and why.

mod acks;
mod backpressure;
mod channel;
mod close;
mod connection;
mod direct_reply_to;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod login;
mod options;
mod properties;
mod publisher;
mod renewal;
mod sasl;
mod settled_tags;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod url;

pub(crate) use self::connection::AmqpTransport;
pub(crate) use self::options::Options;
