//! The guide: a page for each thing that a service needs beyond the first call. There is nothing here but documentation.
//!
//! | page | answers |
//! |---|---|
//! | [`services`] | how to write a trait, where to put it, how to run it |
//! | [`errors`] | what a caller can do about a call that failed |
//! | [`deadlines`] | how long a call takes at most, and who stops when nobody waits any more |
//! | [`delivery`] | what is lost, what runs twice, what is kept, and how to choose |
//! | [`middleware`] | what goes around clients and servers |
//! | [`observability`] | what a running program tells |
//! | [`testing`] | how to test a service without RabbitMQ |
//! | [`evolution`] | which changes of a trait its deployed clients and servers survive |
//! | [`credentials`] | passwords that change, tokens that expire, certificates |
//! | [`cluster`] | several nodes, and what happens when one dies |
//! | [`tuning`] | which settings matter, and which way to turn them |
//! | [`questions`] | what comes up in the first month: statics, one call, bytes, HTTP, paused time, mocks |
//!
//! The examples on these pages run on the embedded broker. The folder `examples` of the repository has programs, one for
//! each subject, that run on RabbitMQ as well.

pub mod cluster;
pub mod credentials;
pub mod deadlines;
pub mod delivery;
pub mod errors;
pub mod evolution;
pub mod middleware;
pub mod observability;
pub mod questions;
pub mod services;
pub mod testing;
pub mod tuning;
