//! What RabbitMQ says of names and arguments, so that the embedded broker refuses what RabbitMQ refuses.

use crate::headers::HeaderValue;
use crate::queue::{QueueOptions, QueueType};

/// RabbitMQ counts times up to ten years, in milliseconds.
const LONGEST_TIME: i64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// Why a queue of that name cannot be declared, if it cannot.
pub(super) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        Some("a queue needs a name".to_owned())
    } else if name.starts_with("amq.") {
        Some(format!(
            "queue name '{name}' contains reserved prefix 'amq.*'"
        ))
    } else {
        None
    }
}

/// Why a queue with those arguments cannot be declared, if it cannot.
pub(super) fn argument_problem(options: &QueueOptions) -> Option<String> {
    if options.kind == QueueType::Quorum && options.max_priority.is_some() {
        return Some("invalid arg 'x-max-priority': quorum queues do not take it".to_owned());
    }
    let arguments = options.arguments();
    let times = ["x-message-ttl", "x-expires"];
    times.into_iter().find_map(|name| {
        let time = arguments.get(name)?.as_int()?;
        (time > LONGEST_TIME).then(|| {
            format!("invalid arg '{name}': {time} ms are more than ten years, {LONGEST_TIME} ms")
        })
    })
}

/// The first argument in which a queue differs from what is declared now, in words.
pub(super) fn difference(existing: &QueueOptions, declared: &QueueOptions) -> Option<String> {
    let (existing, declared) = (existing.arguments(), declared.arguments());
    let said = |value: Option<&HeaderValue>| match value {
        None => "nothing".to_owned(),
        Some(HeaderValue::String(text)) => format!("'{text}'"),
        Some(HeaderValue::Int(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
    };
    let mut names = existing.iter().chain(declared.iter()).map(|(name, _)| name);
    let name = names.find(|name| existing.get(name) != declared.get(name))?;
    let (is, wanted) = (said(existing.get(name)), said(declared.get(name)));
    Some(format!("'{name}' is {is}, and {wanted} was declared"))
}
