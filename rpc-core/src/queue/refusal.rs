//! Explanation of a broker's refusal of a queue, with cause and remedy.

use std::fmt;

/// A refusal, parsed from RabbitMQ's error text. The text is meant for people and cut at 255 bytes, so a part that is not found is left
/// out of the explanation.
pub(crate) struct Refusal<'a> {
    queue: &'a str,
    cause: Cause<'a>,
}

enum Cause<'a> {
    /// The queue exists with another value of an argument. `values` are the value of the queue and the declared one.
    Differs {
        argument: &'a str,
        values: Option<(Value<'a>, Value<'a>)>,
    },
    InvalidArgument(&'a str),
    ReservedName,
    Forbidden {
        user: Option<&'a str>,
    },
    /// Another consumer is exclusive.
    InUse,
    Missing,
    /// The queue belongs to another connection.
    Locked,
    /// The virtual host has reached its limit of queues.
    Limit,
    Unknown(&'a str),
}

/// Value of an argument, in RabbitMQ's words.
struct Value<'a>(&'a str);

impl<'a> Refusal<'a> {
    /// Parses the broker's text about a refused declaration of `queue`. The text may name a related queue, such as `<queue>.retry`.
    pub(crate) fn new(queue: &'a str, words: &'a str) -> Self {
        Self {
            queue: between(words, "queue '", "' in vhost '").unwrap_or(queue),
            cause: Cause::of(words),
        }
    }
}

impl Refusal<'_> {
    /// Returns `true` if the queue does not exist. A queue whose node is down exists.
    pub(crate) fn is_of_missing_queue(&self) -> bool {
        matches!(self.cause, Cause::Missing)
    }
}

impl<'a> Cause<'a> {
    fn of(words: &'a str) -> Self {
        if let Some(argument) = between(words, "inequivalent arg '", "' for ") {
            return Self::Differs {
                argument,
                values: values(words),
            };
        }
        if let Some(argument) = between(words, "invalid arg '", "' for ") {
            return Self::InvalidArgument(argument);
        }
        match words.split_whitespace().next() {
            Some("ACCESS_REFUSED") if words.contains("reserved prefix") => Self::ReservedName,
            Some("ACCESS_REFUSED") if words.ends_with("in exclusive use") => Self::InUse,
            Some("ACCESS_REFUSED") => Self::Forbidden {
                user: between(words, "refused for user '", "'"),
            },
            Some("NOT_FOUND") if words.contains("no queue '") => Self::Missing,
            Some("RESOURCE_LOCKED") => Self::Locked,
            _ if words.contains("queue limit in vhost") => Self::Limit,
            _ => Self::Unknown(words),
        }
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the broker refused queue '{}'",
            self.queue.escape_debug()
        )?;
        match &self.cause {
            Cause::Differs { argument, values } => {
                let mut options = OPTIONS.contains(argument).then_some("the same options");
                if let Some((has, declared)) = values {
                    let (has, declared) = (has.text(argument), declared.text(argument));
                    write!(
                        f,
                        ": it exists with {argument} {has}, and this server declares {declared}"
                    )?;
                    options = match (*argument, has.as_str()) {
                        ("x-queue-type", "'quorum'") => Some("`QueueOptions::quorum()`"),
                        ("x-queue-type", "'classic'") => Some("`QueueOptions::classic()`"),
                        _ => options,
                    };
                } else {
                    write!(f, ": it exists with another {argument}")?;
                }
                f.write_str("; ")?;
                if let Some(options) = options {
                    write!(f, "declare it with {options}, ")?;
                }
                f.write_str(
                    "use it as it is with `QueueOptions::existing()`, or delete it once it is empty",
                )
            }
            Cause::InvalidArgument(argument) => write!(
                f,
                ": it takes no {argument} of this value, or none for a queue of this type; change that option"
            ),
            Cause::ReservedName => f.write_str(
                ": names that begin with 'amq.' belong to the broker; choose another name",
            ),
            Cause::Forbidden { user } => {
                f.write_str(": ")?;
                match user {
                    Some(user) => write!(f, "user '{}'", user.escape_debug())?,
                    None => f.write_str("the user")?,
                }
                f.write_str(
                    " lacks a permission; grant `configure` and `read` on the queue, or only `read` if the queue exists and is used with `QueueOptions::passive()`",
                )
            }
            Cause::InUse => f.write_str(
                ": another program consumes it exclusively; stop that program, or choose another queue",
            ),
            Cause::Missing => f.write_str(
                ": it does not exist; declare it first, or have the server declare it with `QueueOptions::existing()`",
            ),
            Cause::Locked => f.write_str(
                ": it is exclusive to another connection; choose another queue, or close that connection",
            ),
            Cause::Limit => f.write_str(
                ": its virtual host has reached its limit of queues; raise the limit with `rabbitmqctl set_vhost_limits`, or delete queues",
            ),
            Cause::Unknown("") => Ok(()),
            Cause::Unknown(words) => write!(f, ": {}", words.escape_debug()),
        }
    }
}

/// The arguments that methods of `QueueOptions` set to any value.
const OPTIONS: [&str; 7] = [
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-expires",
    "x-max-length",
    "x-max-priority",
    "x-message-ttl",
    "x-overflow",
];

impl Value<'_> {
    fn text(&self, argument: &str) -> String {
        let Self(words) = self;
        let value = match (*words, argument) {
            ("none", "x-queue-type") => "classic",
            ("none", _) => return "not set".to_owned(),
            _ => between(words, "the value '", "' of type '")
                .or_else(|| between(words, "'", "'"))
                .unwrap_or(words),
        };
        format!("'{}'", value.escape_debug())
    }
}

/// Finds the values of an argument in RabbitMQ's text: the value of the queue, and the declared one.
fn values(words: &str) -> Option<(Value<'_>, Value<'_>)> {
    let (words, has) = words.rsplit_once(" but current is ")?;
    let (_, declared) = words.rsplit_once(": received ")?;
    Some((Value(has), Value(declared)))
}

/// Returns the text between two others.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, text) = text.split_once(before)?;
    let (text, _) = text.split_once(after)?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(words: &str) -> String {
        Refusal::new("rpc_queue", words).to_string()
    }

    #[test]
    fn refusal_of_another_queue_type_names_both_types_and_remedies() {
        let words = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'rpc_queue' in vhost '/': received none but current is the value 'quorum' of type 'longstr'";
        assert_eq!(
            explained(words),
            "the broker refused queue 'rpc_queue': it exists with x-queue-type 'quorum', and this server declares 'classic'; declare it with `QueueOptions::quorum()`, use it as it is with `QueueOptions::existing()`, or delete it once it is empty"
        );
    }

    #[test]
    fn refusal_of_another_argument_names_both_values() {
        for (words, part) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
                "queue 'q': it exists with durable 'false', and this server declares 'true'; use it as it is",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received the value '6' of type 'long' but current is none",
                "x-max-length not set, and this server declares '6'; declare it with the same options, use it",
            ),
            // RabbitMQ cuts texts at 255 bytes.
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vh",
                "queue 'rpc_queue': it exists with another x-max-length;",
            ),
        ] {
            let text = explained(words);
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn every_known_refusal_names_a_remedy() {
        for (words, part) in [
            (
                "ACCESS_REFUSED - access to queue 'q.retry' in vhost '/' refused for user 'guest'",
                "queue 'q.retry': user 'guest' lacks a permission; grant `configure` and `read`",
            ),
            (
                "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'guest'",
                "user 'guest' lacks",
            ),
            (
                "ACCESS_REFUSED - queue name 'amq.q' contains reserved prefix 'amq.*'",
                "choose another name",
            ),
            (
                "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use",
                "stop that program",
            ),
            (
                "NOT_FOUND - no queue 'q' in vhost '/'",
                "`QueueOptions::existing()`",
            ),
            (
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on another connection",
                "close that connection",
            ),
            (
                "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue",
                "takes no x-max-priority of this value",
            ),
            (
                "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in vhost 'v' (1) is reached",
                "raise the limit with `rabbitmqctl set_vhost_limits`",
            ),
        ] {
            let text = explained(words);
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn unknown_refusal_quotes_the_broker() {
        let refused = "the broker refused queue 'rpc_queue'";
        assert_eq!(explained(""), refused);
        for words in ["PRECONDITION_FAILED", "inequivalent arg 'x", "\n\u{0}"] {
            assert_eq!(
                explained(words),
                format!("{refused}: {}", words.escape_debug())
            );
        }
    }

    #[test]
    fn quoted_text_is_escaped() {
        let words = "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': received none but current is the value 'a\nb' of type 'longstr'";
        assert!(explained(words).contains(r"x-dead-letter-routing-key 'a\nb'"));
    }
}
