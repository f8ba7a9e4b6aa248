//! Attributes that spans and metrics share.

/// OpenTelemetry's `rpc.system.name`.
pub(super) const SYSTEM: &str = "rpc-core";

/// The name of every unknown method: names that an attacker chooses must not become names of spans and series of metrics.
pub(super) const OTHER: &str = "_OTHER";

/// Side of a call that records telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Returns a method's name in OpenTelemetry's form.
pub(super) fn path(service: &str, method: &str) -> String {
    format!("{service}/{method}")
}
