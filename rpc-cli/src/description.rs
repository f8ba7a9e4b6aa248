//! Descriptions of services: from a file, and their types in Rust.

use std::io;
use std::path::Path;

use rpc_core::instances::{MethodInfo, ServiceInfo};

use crate::failure::Failure;
use crate::files;
use crate::output::visible;

/// Reads a description that `rpc describe --json` wrote: a file, or standard input for `-`. Fails if the description is that of another service
/// than the expected one.
pub(crate) fn from_file(file: &Path, expected: Option<&str>) -> Result<ServiceInfo, Failure> {
    let (text, shown) = match file.as_os_str() == "-" {
        true => (
            io::read_to_string(io::stdin()).map_err(|error| files::unreadable(file, &error))?,
            "standard input".to_owned(),
        ),
        false => (files::read(file)?, file.display().to_string()),
    };
    let service: ServiceInfo = serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!(
            "{shown} is not a description that `rpc describe --json` wrote: {error}"
        ))
    })?;
    match expected {
        Some(expected) if expected != service.name => Err(Failure::usage(format!(
            "{shown} describes the service {}, not {expected}",
            visible(&service.name)
        ))),
        _ => Ok(service),
    }
}

/// Returns the type that a method returns, as its trait writes it; `None` for `()`.
pub(crate) fn returned_type(method: &MethodInfo) -> Option<String> {
    let value = visible(&method.result.rust);
    let value = match &method.item_error {
        Some(error) => format!("Result<{value}, {}>", visible(&error.rust)),
        None => value,
    };
    let value = match method.kind.returns_items() {
        true => format!("impl Stream<Item = {value}>"),
        false => value,
    };
    match &method.error {
        Some(error) => Some(format!("Result<{value}, {}>", visible(&error.rust))),
        None => (value != "()").then_some(value),
    }
}
