//! Observability: what a running program tells.
//!
//! [`crate::telemetry`] has the names of all spans, fields and metrics; this page says where to look for what.
//!
//! - **Logs** go through `tracing`: lost connections, requests that were given up, queues that were deleted; on the level `DEBUG` every
//!   fault that a server answers with. A program sees them once it has a subscriber, such as `tracing_subscriber::fmt::init()`. No
//!   log, `Debug` output or error holds a password. What a handler's panic said is logged within the span of its request, besides what
//!   Rust's panic hook prints.
//!   lapin, the AMQP client below, logs refusals of the broker as errors, returned messages as warnings (without their content), and
//!   sometimes the end of a connection that was closed. This crate reports by itself what matters: the filter `info,lapin=off` leaves the
//!   rest out. **At `TRACE`, lapin prints what it sends and receives**: the login with the
//!   password (target `lapin::io_loop`), headers and bodies (`lapin::channels`). Use a filter such as `trace,lapin=info` for more than
//!   a look.
//! - **Traces**: each call has a span on the client's side and one on the server's, its child, joined by the W3C headers
//!   `traceparent` and `tracestate`. With the feature `opentelemetry` they are OpenTelemetry's: `examples/tracing.rs`.
//!   See [below](#matching-versions-of-opentelemetry) for the versions that belong together.
//! - **Metrics**, with the feature `metrics`, go to the facade of that name: `examples/metrics.rs` shows them as a Prometheus page.
//! - **Health**: [`Connection::state`](crate::Connection::state) tells whether the broker is there, and whether it takes
//!   messages; [`ServerHandle::ended`](crate::ServerHandle::ended) that a server cannot go on.
//!
//! ```
//! use rpc_core::{Connection, ConnectionState, Server, rpc};
//! # #[rpc] pub trait Fib { async fn fib(n: u64) -> u64; }
//! # struct Calculator;
//! # impl Fib for Calculator { async fn fib(&self, n: u64) -> u64 { n } }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The name is what the broker's management shows, and the `app_id` of every message.
//! let connection = Connection::open("memory:").await?;
//! let server = Server::builder(&connection).service(FibDispatcher::new(Calculator)).build().start().await?;
//!
//! // What a health check answers.
//! let healthy = || matches!(connection.state().current(), ConnectionState::Connected);
//! assert!(healthy());
//!
//! // What should not grow.
//! let client = connection.client();
//! FibClient::new(client.clone()).fib(1).await?;
//! assert_eq!(client.dropped_replies().late, 0);
//! assert_eq!(server.refused_requests(), 0);
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Matching versions of OpenTelemetry
//!
//! A span is OpenTelemetry's only for crates of one version. This version of rpc-core belongs to `opentelemetry` 0.33 and
//! `tracing-opentelemetry` 0.34. With a layer of another version in the subscriber nothing fails: its spans are exported, but rpc-core does
//! not see them, makes ids of its own for `traceparent`, and every trace ends where one service calls another.
//!
//! - `cargo tree -d` lists crates that are there in several versions. Neither of the two may be among them:
//!   `cargo tree -i tracing-opentelemetry` shows who wants which.
//! - The log says once, as a warning, that the subscriber has no layer of the version that rpc-core knows. The feature `opentelemetry`
//!   without any such layer gives the same warning: leave the feature out of programs that do not export spans.
//! - Crates that only set up the exporter, such as `opentelemetry-otlp` and `opentelemetry_sdk`, have to be of the version of
//!   `opentelemetry`; the compiler says so where they are not.
//!
//! A task that a handler spawns is in no span. Put `.in_current_span()` of `tracing::Instrument` behind the future, and the call's
//! [`Context::scope`](crate::Context::scope) around it, or its calls begin a trace of their own and have lost the headers that propagate.
//!
//! # What to watch
//!
//! | metric | when it grows |
//! |---|---|
//! | `rpc.server.queue.duration` | requests wait: too few servers, or too low limits |
//! | `rpc.server.redeliveries` | servers die or lose their connections with requests in hand |
//! | `rpc.server.given_up` | a request kills its servers: look into `<queue>.dead` |
//! | `rpc.server.dropped_dead_letters` | the dead-letter queue takes nothing more, or there is none: the log has the broker's reason |
//! | `rpc.client.call.duration` with `error.type` | calls fail: the label says how |
//! | `rpc.client.retries` | idempotent calls are repeated: something is flaky that their callers do not notice |
//! | `rpc.client.dropped_replies` with the reason `late` | callers give up before servers answer, their calls being late or no longer wanted; servers answer what was dropped with a fault |
//! | `rpc.connection.reconnects` | the broker, or the network to it |
//!
//! And of the broker, through its own monitoring: how many messages each queue holds, and how many consumers it has. A queue
//! without consumers is a service without servers.
