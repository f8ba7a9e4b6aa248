//! Replies as messages: a value, the service's own error, or a fault.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::checks::{check_headers, check_size, unreadable};
use crate::codec::{self, ContentType};
use crate::deadline;
use crate::error::{ErrorKind, RpcError};
use crate::headers::{HeaderValue, Headers};
use crate::message::{Outcome, Response};
use crate::names::{
    ERROR, EXECUTED_HEADER, FAULT, INSTANCE_HEADER, INSTANCE_QUEUE_PREFIX, MAX_NAME,
    REDELIVERED_HEADER, RESULT, TIME_HEADER,
};
use crate::transport::{Content, Message};

/// Knowledge of a server about the execution of a request that it answers with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Execution {
    /// No handler has seen the request.
    NotStarted,
    /// A handler of this server has seen the request.
    Started,
    /// The request was delivered before, and may have been run then.
    Unknown,
}

/// Body of a fault.
#[derive(Serialize, Deserialize)]
struct Fault {
    code: String,
    message: String,
}

/// Refuses a reply that cannot be sent.
pub(crate) fn check_reply(
    response: &Response,
    limit: usize,
    frame_max: usize,
) -> Result<(), RpcError> {
    if let Some(problem) = response.headers.problem() {
        let reason = format!("the reply could not be sent: {problem}");
        return Err(RpcError::new(ErrorKind::BadReply, reason));
    }
    check_headers("reply", &response.headers, frame_max).map_err(|error| match error.kind() {
        ErrorKind::TooLarge => error,
        _ => RpcError::new(ErrorKind::BadReply, error.message()),
    })?;
    check_size("reply", &response.body, limit)
}

/// Returns the reply to a request, in the memory of the request.
pub(crate) fn reply_from_result(
    result: Result<Response, RpcError>,
    request: Message,
    execution: Execution,
    app_id: SmolStr,
) -> Message {
    let mut reply = request;
    *reply.0 = Content {
        correlation_id: reply.correlation_id.take(),
        content_type: reply.content_type.take(),
        app_id: Some(app_id),
        ..Content::default()
    };
    match result {
        Ok(response) => {
            reply.kind = Some(match response.outcome {
                Outcome::Result => SmolStr::new_static(RESULT),
                Outcome::Error => SmolStr::new_static(ERROR),
            });
            reply.headers = response.headers;
            reply.body = response.body;
        }
        Err(error) => {
            reply.kind = Some(SmolStr::new_static(FAULT));
            match execution {
                Execution::NotStarted => reply.headers.insert(EXECUTED_HEADER, false),
                Execution::Started => {}
                Execution::Unknown => reply.headers.insert(REDELIVERED_HEADER, true),
            }
            // The client of an unknown format gets JSON, which people can read.
            let known = ContentType::parse(reply.content_type.as_deref())
                .filter(|known| known.is_supported());
            let content_type = known.unwrap_or(if cfg!(feature = "json") {
                ContentType::Json
            } else {
                ContentType::MessagePack
            });
            if known.is_none() {
                reply.content_type = content_type.as_property().map(SmolStr::new_static);
            }
            reply.body = fault_body(&error, content_type, &mut reply.headers);
        }
    }
    reply
}

/// Returns the body of a fault, and adds the headers that belong to its code.
pub(super) fn fault_body(
    error: &RpcError,
    content_type: ContentType,
    headers: &mut Headers,
) -> Bytes {
    let code = error.kind().fault_code();
    if code == ErrorKind::DeadlineExceeded.fault_code() {
        let now = deadline::unix_millis_after(Duration::ZERO);
        headers.insert(TIME_HEADER, now);
    }
    let fault = Fault {
        code: code.to_owned(),
        message: error.message().to_owned(),
    };
    // Every format can represent two strings.
    codec::encode(&fault, content_type).unwrap_or_default()
}

/// Reads the body of a fault of an open stream, whose handler has run.
pub(super) fn fault_of(content_type: ContentType, headers: &Headers, body: &[u8]) -> RpcError {
    match codec::decode(body, content_type) {
        Ok(fault) => error_of(fault, headers).executed_if(true),
        Err(cause) => bad_reply(format!("a fault could not be decoded: {cause}")),
    }
}

/// Sender of a reply that says so: one of the instances that a request went to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Id of the instance: 1 to 255 bytes.
    pub(crate) instance: SmolStr,
    /// Private queue of this instance, if the reply names one.
    pub(crate) private_queue: Option<SmolStr>,
}

impl Origin {
    /// Takes the origin out of a reply. Returns `None` if the reply has none, or one that is malformed.
    pub(crate) fn take(reply: &mut Message) -> Option<Box<Self>> {
        // Nearly every reply ends here.
        if reply.headers.is_empty() {
            return None;
        }
        let HeaderValue::String(instance) = reply.headers.remove(INSTANCE_HEADER)? else {
            return None;
        };
        let fits = (1..=MAX_NAME).contains(&instance.len());
        fits.then(|| {
            // A stranger must not have this client write to other queues.
            let private_queue = reply.reply_to.take();
            let private_queue = private_queue.filter(|queue| is_private_queue_of(&instance, queue));
            Box::new(Self {
                instance: instance.into(),
                private_queue,
            })
        })
    }
}

/// Returns `true` for the name of a private queue of an instance.
fn is_private_queue_of(instance: &str, queue: &str) -> bool {
    let rest = queue.strip_prefix(INSTANCE_QUEUE_PREFIX);
    let rest = rest.and_then(|rest| rest.strip_prefix(instance));
    rest.is_some_and(|rest| rest.starts_with('.'))
}

/// Reads a reply.
pub(crate) fn result_from_reply(message: Message) -> Result<Response, RpcError> {
    let reply = *message.0;
    let (kind, content_type) = (reply.kind.as_deref(), reply.content_type.as_deref());
    result_from_parts(kind, content_type, reply.headers, reply.body)
}

/// Reads a reply from its parts.
pub(crate) fn result_from_parts(
    kind: Option<&str>,
    content_type: Option<&str>,
    headers: Headers,
    body: Bytes,
) -> Result<Response, RpcError> {
    let content_type = ContentType::parse(content_type).ok_or_else(|| {
        bad_reply(format!(
            "the reply has content type '{}'",
            content_type.unwrap_or_default()
        ))
    })?;
    if let Some(reason) = unreadable(&headers) {
        return Err(bad_reply(format!(
            "the headers of the reply cannot be read: {reason}"
        )));
    }
    let mut response = Response::new(Outcome::Result, content_type, body);
    response.headers = headers;
    match kind {
        // A server of the RPC tutorial sets no type.
        None | Some("" | RESULT) => Ok(response),
        Some(ERROR) => {
            response.outcome = Outcome::Error;
            Ok(response)
        }
        Some(FAULT) => {
            let fault: Fault = response.decode()?;
            Err(error_of(fault, &response.headers))
        }
        Some(kind) => Err(bad_reply(format!("the reply has type '{kind}'"))),
    }
}

/// Returns a fault as the caller's error. A fault with an unknown code, of a later version, is a bad reply.
fn error_of(fault: Fault, headers: &Headers) -> RpcError {
    let Fault { code, message } = fault;
    let mut error = match ErrorKind::from_fault_code(&code) {
        // These kinds tell nothing about the execution: a layer may refuse the response of a handler.
        Some(kind @ (ErrorKind::PermissionDenied | ErrorKind::Overloaded)) => {
            RpcError::new(kind, message).executed_if(true)
        }
        Some(kind) => RpcError::new(kind, message),
        None => bad_reply(format!(
            "the server reports an unknown fault '{code}': {message}"
        )),
    };
    if headers.get_as(EXECUTED_HEADER) == Some(false) {
        error = error.not_executed();
    }
    error = error.executed_if(headers.get(REDELIVERED_HEADER).is_some());
    match headers.get_as(TIME_HEADER) {
        Some(time) => error.with_source(deadline::ServerClock::read(time)),
        None => error,
    }
}

fn bad_reply(reason: String) -> RpcError {
    RpcError::new(ErrorKind::BadReply, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply_to(result: Result<Response, RpcError>, execution: Execution) -> Message {
        let request = Message::from(Content {
            correlation_id: Some("id".into()),
            content_type: Some("application/msgpack".into()),
            body: Bytes::from_static(b"of the request"),
            deadline: Some(1),
            batches: true,
            ..Content::default()
        });
        reply_from_result(result, request, execution, "server".into())
    }

    #[test]
    fn replies_have_the_types_of_the_protocol() {
        for (outcome, kind) in [(Outcome::Result, "result"), (Outcome::Error, "error")] {
            let response = Response::new(
                outcome,
                ContentType::MessagePack,
                Bytes::from_static(b"\x01"),
            );
            let message = reply_to(Ok(response), Execution::Started);
            assert_eq!(message.kind.as_deref(), Some(kind));
            assert_eq!(message.correlation_id.as_deref(), Some("id"));
            assert_eq!(result_from_reply(message).unwrap().outcome, outcome);
        }
    }

    #[test]
    fn a_fault_tells_if_its_request_may_have_run() {
        for (execution, may_have_executed) in [
            (Execution::NotStarted, false),
            (Execution::Started, true),
            (Execution::Unknown, true),
        ] {
            for kind in [
                ErrorKind::Cancelled,
                ErrorKind::DeadlineExceeded,
                ErrorKind::PermissionDenied,
                ErrorKind::Overloaded,
            ] {
                let fault = RpcError::new(kind, "no");
                let message = reply_to(Err(fault), execution);
                let error = result_from_reply(message).unwrap_err();
                assert_eq!(
                    error.may_have_executed(),
                    may_have_executed,
                    "{execution:?}"
                );
            }
        }
    }

    #[test]
    fn a_fault_is_a_code_and_a_message() {
        let error = RpcError::new(ErrorKind::UnknownMethod, "no");
        let message = reply_to(Err(error), Execution::Started);
        assert_eq!(
            &message.body[..],
            b"\x82\xa4code\xaeunknown_method\xa7message\xa2no"
        );
        let error = result_from_reply(message).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownMethod);
        assert_eq!(error.to_string(), "no");
    }

    #[test]
    fn a_fault_of_a_later_version_is_a_bad_reply() {
        for (execution, may_have_executed) in
            [(Execution::NotStarted, false), (Execution::Started, true)]
        {
            let mut message = reply_to(Err(RpcError::new(ErrorKind::Panicked, "no")), execution);
            let body = b"\x82\xa4code\xa5later\xa7message\xa2no";
            message.body = Bytes::from_static(body);
            let error = result_from_reply(message).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadReply);
            assert_eq!(
                error.to_string(),
                "the server reports an unknown fault 'later': no"
            );
            assert_eq!(error.may_have_executed(), may_have_executed);
        }
    }

    #[test]
    fn a_fault_of_a_passed_deadline_has_the_servers_time() {
        let error = RpcError::new(ErrorKind::DeadlineExceeded, "late");
        let mut message = reply_to(Err(error), Execution::Started);
        let time = message.headers.get_as::<i64>("rpc-time").unwrap();
        let now = deadline::unix_millis_after(Duration::ZERO);
        assert!((now - 5000..=now).contains(&time), "{time} at {now}");
        message.headers.insert("rpc-time", time + 60_000);
        let mut error = result_from_reply(message).unwrap_err();
        let deadline::ServerClock { ahead_millis } = error.take_source().unwrap();
        assert!((55_000..=60_000).contains(&ahead_millis), "{ahead_millis}");
    }

    #[test]
    fn the_instance_is_taken_out_of_a_reply() {
        let reply = |instance: HeaderValue| {
            let mut message = Message::from(Content {
                reply_to: Some("rpc.instance.a.b".into()),
                ..Content::default()
            });
            message.headers.insert("rpc-instance", instance);
            message.headers.insert("tenant", "x");
            message
        };
        let mut message = reply("a".into());
        let origin = Origin::take(&mut message).unwrap();
        assert_eq!(&*origin.instance, "a");
        assert_eq!(origin.private_queue.as_deref(), Some("rpc.instance.a.b"));
        let response = result_from_reply(message).unwrap();
        assert_eq!(response.headers.iter().count(), 1);
        // Not its own queue.
        let other = Origin::take(&mut reply("aa".into())).unwrap();
        assert_eq!(other.private_queue, None);
        let longest = "x".repeat(255);
        assert!(Origin::take(&mut reply(longest.clone().into())).is_some());
        for malformed in [(longest + "x").into(), "".into(), 7.into()] {
            let mut message = reply(malformed);
            assert_eq!(Origin::take(&mut message), None);
            assert_eq!(message.headers.get("rpc-instance"), None);
        }
        assert_eq!(Origin::take(&mut Message::default()), None);
    }

    #[cfg(feature = "json")]
    #[test]
    fn a_request_of_an_unknown_content_type_is_answered_in_json() {
        let error = RpcError::new(ErrorKind::UnsupportedContentType, "no");
        let request = Message::from(Content {
            content_type: Some("text/xml".into()),
            ..Content::default()
        });
        let message = reply_from_result(Err(error), request, Execution::Started, "server".into());
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
        assert_eq!(
            &message.body[..],
            br#"{"code":"unsupported_content_type","message":"no"}"#
        );
    }

    #[cfg(feature = "json")]
    #[test]
    fn a_reply_of_the_tutorials_server_is_a_value() {
        let message = Message::from(Content {
            body: Bytes::from_static(b"832040"),
            ..Content::default()
        });
        assert_eq!(
            result_from_reply(message).unwrap().decode::<u64>().unwrap(),
            832_040
        );
    }

    #[test]
    fn malformed_replies_are_bad_replies() {
        let kind = Message::from(Content {
            kind: Some("maybe".into()),
            ..Content::default()
        });
        let content_type = Message::from(Content {
            content_type: Some("text/xml".into()),
            ..Content::default()
        });
        let fault = Message::from(Content {
            kind: Some("fault".into()),
            body: Bytes::from_static(b"?"),
            ..Content::default()
        });
        for message in [kind, content_type, fault] {
            assert_eq!(
                result_from_reply(message).unwrap_err().kind(),
                ErrorKind::BadReply
            );
        }
    }
}
