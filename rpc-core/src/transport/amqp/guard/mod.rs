//! A guard between a broker's bytes and lapin, needed while lapin's parser cannot be trusted with them.
//!
//! Publishers decide on much of what a broker sends. The parser of lapin 4 recurses into nested headers until the stack of its
//! thread overflows, which aborts the process, and drops the connection over a short string that is not UTF-8: one message can stop
//! a service. lapin also logs returned messages with their headers and bodies. The guard gives lapin a stream
//!
//! - without tables that are nested deeper, or have more values, than a client of this crate may send, and without anything else
//!   that lapin cannot read;
//! - with nothing of a returned message except its ids;
//! - equal to the broker's in all other respects.
//!
//! In the other direction, the guard inserts the passwords, which lapin would log ([`secrets`]).
//!
//! A message whose headers were cut has the header `rpc-unreadable`. Code outside this folder uses only
//! [`runtime`], [`Secrets`] and [`GuardedStream`]; without the guard, lapin takes the stream itself and
//! `lapin::runtime::default_runtime`.

mod content;
mod fast_path;
mod filter;
mod frames;
mod malformed;
mod method;
mod reactor;
mod secrets;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod text;

pub(super) use self::reactor::runtime;
pub(super) use self::secrets::Secrets;
pub(super) use self::stream::GuardedStream;
#[cfg(any(test, fuzzing))]
pub(super) use self::stream::clean;
