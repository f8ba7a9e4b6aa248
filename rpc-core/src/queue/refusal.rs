//! A broker's refusal of a queue, told with its cause and its remedy.

use std::fmt;

/// RabbitMQ's words about a queue that it refuses, as far as they are understood. All of it is text for people, cut at 255 bytes, so
/// a part that is not found is left out.
pub(crate) struct Refusal<'a> {
    queue: &'a str,
    cause: Cause<'a>,
}

enum Cause<'a> {
    /// It exists with another value of an argument: what it has, and what was declared.
    Differs {
        argument: &'a str,
        values: Option<(Value<'a>, Value<'a>)>,
    },
    InvalidArgument(&'a str),
    ReservedName,
    Forbidden {
        user: Option<&'a str>,
    },
    /// Another consumer wants no other beside it.
    InUse,
    Missing,
    /// It belongs to another connection.
    Locked,
    /// The virtual host has as many queues as it may have.
    Limit,
    Unknown(&'a str),
}

/// The value of an argument.
struct Value<'a>(&'a str);

impl<'a> Refusal<'a> {
    /// The refusal of a queue, or of one that belongs to it, in the broker's words.
    pub(crate) fn new(queue: &'a str, words: &'a str) -> Self {
        Self {
            queue: between(words, "queue '", "' in vhost '").unwrap_or(queue),
            cause: Cause::of(words),
        }
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
                ": it takes no {argument} of this value, or not for a queue of this type; change that option"
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
                    " lacks a permission; grant `configure` and `read` on it, or `read` alone if the queue exists and is used with `QueueOptions::passive()`",
                )
            }
            Cause::InUse => f.write_str(
                ": another program consumes it exclusively; stop that one, or choose another queue",
            ),
            Cause::Missing => f.write_str(
                ": it does not exist; declare it first, or have the server declare it with `QueueOptions::existing()`",
            ),
            Cause::Locked => f.write_str(
                ": it belongs to another connection alone; choose another queue, or close that connection",
            ),
            Cause::Limit => f.write_str(
                ": its virtual host has as many queues as its limit allows; raise that with `rabbitmqctl set_vhost_limits`, or delete queues",
            ),
            Cause::Unknown("") => Ok(()),
            Cause::Unknown(words) => write!(f, ": {}", words.escape_debug()),
        }
    }
}

/// The arguments that `QueueOptions` sets to any value.
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

/// The values in what RabbitMQ says of an argument: what the queue has, and what was declared.
fn values(words: &str) -> Option<(Value<'_>, Value<'_>)> {
    let (words, has) = words.rsplit_once(" but current is ")?;
    let (_, declared) = words.rsplit_once(": received ")?;
    Some((Value(has), Value(declared)))
}

/// The text between two others.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, text) = text.split_once(before)?;
    let (text, _) = text.split_once(after)?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(words: &str) -> String {
        Refusal::new("rpc_queue", words).to_string()
    }

    #[test]
    fn a_queue_of_another_type_is_told_with_both_types_and_what_to_do() {
        let words = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'rpc_queue' in vhost '/': received none but current is the value 'quorum' of type 'longstr'";
        assert_eq!(
            told(words),
            "the broker refused queue 'rpc_queue': it exists with x-queue-type 'quorum', and this server declares 'classic'; declare it with `QueueOptions::quorum()`, use it as it is with `QueueOptions::existing()`, or delete it once it is empty"
        );
    }

    #[test]
    fn other_differences_are_told_with_both_values() {
        for (words, part) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
                "queue 'q': it exists with durable 'false', and this server declares 'true'; use it as it is",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received the value '6' of type 'long' but current is none",
                "x-max-length not set, and this server declares '6'; declare it with the same options, use it",
            ),
            // RabbitMQ cuts what is longer than 255 bytes.
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vh",
                "queue 'rpc_queue': it exists with another x-max-length;",
            ),
        ] {
            let told = told(words);
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn every_refusal_that_is_understood_names_a_remedy() {
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
                "stop that one",
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
                "raise that with `rabbitmqctl set_vhost_limits`",
            ),
        ] {
            let told = told(words);
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn what_is_not_understood_is_left_to_the_brokers_words() {
        let refused = "the broker refused queue 'rpc_queue'";
        assert_eq!(told(""), refused);
        for words in ["PRECONDITION_FAILED", "inequivalent arg 'x", "\n\u{0}"] {
            assert_eq!(told(words), format!("{refused}: {}", words.escape_debug()));
        }
    }

    #[test]
    fn text_of_others_stays_within_its_line() {
        let words = "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': received none but current is the value 'a\nb' of type 'longstr'";
        assert!(told(words).contains(r"x-dead-letter-routing-key 'a\nb'"));
    }
}
