//! Contenders, load and CPU measurement, shared by the benchmarks.
//!
//! A contender is a client and a server that communicate over RabbitMQ: rpc-core, or lapin used by hand in one of several
//! ways. Each runs as a process of its own (the program `contender`), to measure the CPU time of client, server and broker
//! separately. `round_trip.rs` starts the processes and makes the tables.

pub mod contender;
pub mod cpu;
pub mod load;
pub mod streaming;
