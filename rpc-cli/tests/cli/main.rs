//! The program `rpc`, run as a user runs it: real servers, a real broker, the real program.
//!
//! The tests start one private node. Each test has a [`Stage`](stage::Stage): a virtual host and a home folder of its own.
//!
//! ```text
//! cargo test -p rpc-cli --features broker
//! cargo test -p rpc-cli --features broker -- list:: --nocapture
//! SNAPSHOTS=overwrite cargo test -p rpc-cli --features broker    # writes tests/snapshots again
//! ```
#![allow(clippy::unwrap_used)] // A test that fails panics.

mod bench;
mod call;
mod context;
mod dead;
mod describe;
mod export;
mod guide;
mod harness;
mod list;
mod manual;
mod ping;
mod program;
mod sample;
mod snapshot;
mod stage;
mod stats;
mod tail;
mod terminal;
mod top;
