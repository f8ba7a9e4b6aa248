//! What the benchmarks share: the contenders, the load they are put under, and what it costs.
//!
//! A contender is a client and a server that speak to each other over RabbitMQ: rpc-core, or lapin used by hand in one
//! of several ways. Each runs as a process of its own (the program `contender`), so that the CPU time of client, server
//! and broker can be told apart. `round_trip.rs` starts them and makes the tables.

pub mod contender;
pub mod cpu;
pub mod load;
