//! RabbitMQ's rules for names and arguments, and its words about them, so that the embedded broker refuses what RabbitMQ refuses.

use crate::headers::HeaderValue;
use crate::queue::{QueueOptions, QueueType};

/// RabbitMQ counts times up to ten years, in milliseconds.
const LONGEST_TIME: i64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// The queue of that name, as RabbitMQ calls it.
fn queue(name: &str) -> String {
    format!("queue '{name}' in vhost '/'")
}

/// The refusal of a queue that does not exist.
pub(super) fn missing(name: &str) -> String {
    format!("NOT_FOUND - no {}", queue(name))
}

/// The refusal of a queue that belongs to another connection, or to none.
pub(super) fn locked(name: &str) -> String {
    format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked {}",
        queue(name)
    )
}

/// Why a queue of that name cannot be declared, if it cannot.
pub(super) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        Some("a queue needs a name".to_owned())
    } else if name.starts_with("amq.") {
        Some(format!(
            "ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"
        ))
    } else {
        None
    }
}

/// Why a queue with those arguments cannot be declared, if it cannot.
pub(super) fn argument_problem(name: &str, options: &QueueOptions) -> Option<String> {
    let invalid = |argument: &str, why: &str| {
        let queue = queue(name);
        format!("PRECONDITION_FAILED - invalid arg '{argument}' for {queue}{why}")
    };
    if options.kind == QueueType::Quorum && options.max_priority.is_some() {
        return Some(invalid("x-max-priority", " of queue type quorum"));
    }
    let arguments = options.arguments();
    let times = ["x-message-ttl", "x-expires"];
    times.into_iter().find_map(|argument| {
        let time = arguments.get(argument)?.as_int()?;
        (time > LONGEST_TIME).then(|| {
            let why = format!(": {time} ms are more than ten years, {LONGEST_TIME} ms");
            invalid(argument, &why)
        })
    })
}

/// The first argument in which a queue differs from what is declared now, if there is one.
pub(super) fn difference(
    name: &str,
    existing: &QueueOptions,
    declared: &QueueOptions,
) -> Option<String> {
    let (existing, declared) = (existing.arguments(), declared.arguments());
    let said = |value: Option<&HeaderValue>| match value {
        None => "none".to_owned(),
        Some(HeaderValue::String(text)) => format!("the value '{text}' of type 'longstr'"),
        Some(HeaderValue::Int(number)) => format!("the value '{number}' of type 'long'"),
        Some(other) => format!("{other:?}"),
    };
    let mut arguments = existing.iter().chain(declared.iter()).map(|(name, _)| name);
    let argument = arguments.find(|name| existing.get(name) != declared.get(name))?;
    Some(format!(
        "PRECONDITION_FAILED - inequivalent arg '{argument}' for {}: received {} but current is {}",
        queue(name),
        said(declared.get(argument)),
        said(existing.get(argument)),
    ))
}
