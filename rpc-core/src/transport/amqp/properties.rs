//! Conversion between messages and AMQP properties.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use smol_str::SmolStr;

use crate::headers::{HeaderValue, Headers};
use crate::names::{BATCHES_HEADER, DEADLINE_HEADER};
use crate::transport::error::TransportError;
use crate::transport::limits::too_long;
use crate::transport::message::{Content, Message};

/// AMQP's delivery mode for messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;

pub(super) fn to_properties(message: Message) -> Result<(BasicProperties, Bytes), TransportError> {
    let content = *message.0;
    let mut properties = BasicProperties::default();
    if let Some(id) = content.correlation_id {
        properties = properties.with_correlation_id(short("the correlation id", id)?);
    }
    if let Some(queue) = content.reply_to {
        properties = properties.with_reply_to(short("the name of the reply queue", queue)?);
    }
    if let Some(id) = content.message_id {
        properties = properties.with_message_id(short("the message id", id)?);
    }
    if let Some(kind) = content.kind {
        properties = properties.with_type(short("the method's name", kind)?);
    }
    if let Some(content_type) = content.content_type {
        properties = properties.with_content_type(short("the content type", content_type)?);
    }
    if let Some(milliseconds) = content.expiration {
        properties = properties.with_expiration(milliseconds.to_string().into());
    }
    if content.persistent {
        properties = properties.with_delivery_mode(PERSISTENT);
    }
    if let Some(priority) = content.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(name) = content.app_id {
        properties = properties.with_app_id(short("the connection's name", name)?);
    }
    if let Some(user) = content.user_id {
        properties = properties.with_user_id(short("the user id", user)?);
    }
    if !content.headers.is_empty() || content.deadline.is_some() || content.batches {
        let mut table = to_table(content.headers)?;
        if let Some(deadline) = content.deadline {
            table.insert(DEADLINE_HEADER.into(), AMQPValue::LongLongInt(deadline));
        }
        if content.batches {
            table.insert(BATCHES_HEADER.into(), AMQPValue::Boolean(true));
        }
        properties = properties.with_headers(table);
    }
    Ok((properties, content.body))
}

pub(super) fn to_message(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let owned = |text: &Option<ShortString>| text.as_ref().map(|text| SmolStr::from(text.as_str()));
    let mut content = Content {
        correlation_id: owned(properties.correlation_id()),
        reply_to: owned(properties.reply_to()),
        message_id: owned(properties.message_id()),
        kind: owned(properties.kind()),
        content_type: owned(properties.content_type()),
        expiration: properties
            .expiration()
            .as_ref()
            .and_then(|text| text.as_str().parse().ok()),
        deadline: None,
        batches: false,
        mandatory: false,
        persistent: *properties.delivery_mode() == Some(PERSISTENT),
        priority: *properties.priority(),
        app_id: owned(properties.app_id()),
        user_id: owned(properties.user_id()),
        headers: Headers::new(),
        body: body.into(),
        topic: None,
    };
    if let Some(table) = properties.headers() {
        take_headers(&mut content, table);
    }
    content.into()
}

/// Converts a text to a short string of AMQP, which holds 255 bytes. lapin's own conversion panics on a longer text.
pub(super) fn short(what: &str, text: impl Into<String>) -> Result<ShortString, TransportError> {
    ShortString::try_new(text).map_err(|_| too_long(what))
}

pub(super) fn to_table(headers: Headers) -> Result<FieldTable, TransportError> {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert(short("a header's name", name)?, to_field(value)?);
    }
    Ok(table)
}

fn to_field(value: HeaderValue) -> Result<AMQPValue, TransportError> {
    Ok(match value {
        HeaderValue::Void => AMQPValue::Void,
        HeaderValue::Bool(flag) => AMQPValue::Boolean(flag),
        HeaderValue::Int(number) => AMQPValue::LongLongInt(number),
        HeaderValue::Float(number) => AMQPValue::Double(number),
        HeaderValue::String(text) => AMQPValue::LongString(text.into()),
        HeaderValue::Bytes(bytes) => AMQPValue::ByteArray(bytes.to_vec().into()),
        HeaderValue::Timestamp(seconds) => AMQPValue::Timestamp(seconds),
        HeaderValue::List(values) => {
            let values: Result<Vec<_>, _> = values.into_iter().map(to_field).collect();
            AMQPValue::FieldArray(values?.into())
        }
        HeaderValue::Table(headers) => AMQPValue::FieldTable(to_table(headers)?),
    })
}

/// Reads headers. The protocol's headers that are in nearly every message have fields of their own; one with a wrong type is
/// ignored.
fn take_headers(content: &mut Content, table: &FieldTable) {
    for (name, value) in table.inner() {
        match name.as_str() {
            DEADLINE_HEADER => content.deadline = to_value(value).as_int(),
            BATCHES_HEADER => content.batches = to_value(value).as_bool() == Some(true),
            name => content.headers.insert(name, to_value(value)),
        }
    }
}

fn to_headers(table: &FieldTable) -> Headers {
    table
        .inner()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), to_value(value)))
        .collect()
}

fn to_value(value: &AMQPValue) -> HeaderValue {
    match value {
        AMQPValue::Boolean(flag) => HeaderValue::Bool(*flag),
        AMQPValue::ShortShortInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::ShortShortUInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::ShortInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::ShortUInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::LongInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::LongUInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::LongLongInt(number) => HeaderValue::Int(*number),
        AMQPValue::Float(number) => HeaderValue::Float((*number).into()),
        AMQPValue::Double(number) => HeaderValue::Float(*number),
        AMQPValue::DecimalValue(decimal) => {
            HeaderValue::Float(f64::from(decimal.value) / 10_f64.powi(decimal.scale.into()))
        }
        AMQPValue::ShortString(text) => HeaderValue::String(text.as_str().to_owned()),
        AMQPValue::LongString(text) => to_text(text),
        AMQPValue::FieldArray(values) => list(values),
        AMQPValue::Timestamp(seconds) => HeaderValue::Timestamp(*seconds),
        AMQPValue::FieldTable(table) => HeaderValue::Table(to_headers(table)),
        AMQPValue::ByteArray(bytes) => HeaderValue::Bytes(Bytes::copy_from_slice(bytes.as_slice())),
        AMQPValue::Void => HeaderValue::Void,
    }
}

/// Reads a long string of AMQP: any bytes, which most clients use for text.
fn to_text(text: &LongString) -> HeaderValue {
    match std::str::from_utf8(text.as_bytes()) {
        Ok(text) => HeaderValue::String(text.to_owned()),
        Err(_) => HeaderValue::Bytes(Bytes::copy_from_slice(text.as_bytes())),
    }
}

fn list(values: &FieldArray) -> HeaderValue {
    HeaderValue::List(values.as_slice().iter().map(to_value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let headers = [
            ("flag".to_owned(), true.into()),
            ("number".to_owned(), (-5_i64).into()),
            ("text".to_owned(), "a".into()),
            ("bytes".to_owned(), vec![0xff_u8].into()),
            (
                "list".into(),
                HeaderValue::List(vec![1.into(), HeaderValue::Void]),
            ),
        ];
        Message::from(Content {
            correlation_id: Some("id".into()),
            reply_to: Some("queue".into()),
            message_id: Some("stream".into()),
            kind: Some("fib".into()),
            content_type: Some("application/msgpack".into()),
            expiration: Some(1500),
            deadline: Some(1_700_000_000_000),
            batches: true,
            mandatory: false,
            persistent: true,
            priority: Some(3),
            app_id: Some("app".into()),
            user_id: Some("guest".into()),
            headers: headers.into_iter().collect(),
            body: Bytes::from_static(b"body"),
            topic: None,
        })
    }

    #[test]
    fn messages_survive_conversion_to_properties_and_back() {
        let original = message();
        let (properties, body) = to_properties(original.clone()).unwrap();
        let back = to_message(&properties, body.to_vec());
        assert_eq!(format!("{back:?}"), format!("{original:?}"));
    }

    #[test]
    fn properties_are_those_of_the_wire_protocol() {
        let (properties, _) = to_properties(message()).unwrap();
        assert_eq!(properties.expiration().as_ref().unwrap().as_str(), "1500");
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "fib");
    }

    #[test]
    fn texts_too_long_for_amqp_are_refused() {
        let long = "x".repeat(256);
        let mut named = message();
        named.app_id = Some(long.clone().into());
        to_properties(named).expect_err("a long name");
        let mut with_header = message();
        with_header.headers.insert(long, 1);
        to_properties(with_header).expect_err("a long header name");
    }
}
