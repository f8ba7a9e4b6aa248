//! RabbitMQ's refusals of queues, in its own words: the embedded broker refuses what RabbitMQ refuses.

use crate::headers::HeaderValue;
use crate::names::BROKER_QUEUE_PREFIX;
use crate::queue::{QueueOptions, QueueType};

/// Longest time that RabbitMQ accepts, in milliseconds: ten years.
const LONGEST_TIME: i64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// Returns RabbitMQ's description of a queue.
fn queue(name: &str) -> String {
    format!("queue '{name}' in vhost '/'")
}

/// The refusal of a queue that does not exist.
pub(super) fn missing(name: &str) -> String {
    format!("NOT_FOUND - no {}", queue(name))
}

/// The refusal of a queue that is exclusive to another connection, or not exclusive.
pub(super) fn locked(name: &str) -> String {
    format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked {}",
        queue(name)
    )
}

/// The refusal of a queue's name, if RabbitMQ refuses it.
pub(super) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        Some("a queue needs a name".to_owned())
    } else if name.starts_with(BROKER_QUEUE_PREFIX) {
        Some(format!(
            "ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"
        ))
    } else {
        None
    }
}

/// The refusal of a queue's arguments, if RabbitMQ refuses them.
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

/// The refusal of a declaration that differs from the existing queue; names the first argument that differs.
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
