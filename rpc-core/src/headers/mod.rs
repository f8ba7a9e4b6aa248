//! Headers: the user's key-value pairs that travel with a message, and their limits.

mod limits;
mod map;
mod secrets;
mod value;

#[cfg(feature = "amqp")]
pub(crate) use self::limits::OTHER_VALUES;
pub(crate) use self::limits::{Flaw, MAX_VALUES, Size, is_brokers, size_of};
pub use self::map::Headers;
pub(crate) use self::secrets::{HIDDEN, hide, is_secret};
pub(crate) use self::value::MAX_DEPTH;
pub use self::value::{HeaderValue, WrongHeaderType};
