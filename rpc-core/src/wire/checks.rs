//! Checks of messages, before they are sent and after they were received.

use crate::codec::ContentType;
use crate::error::{ErrorKind, RpcError};
use crate::headers::{Flaw, Headers, MAX_VALUES};
use crate::names::UNREADABLE_HEADER;
use crate::transport::Message;
use crate::transport::limits::max_header_bytes;

/// Returns the content type of a request, or refuses a request whose content type no codec reads.
pub(crate) fn supported_content_type(request: &Message) -> Result<ContentType, RpcError> {
    let text = request.content_type.as_deref();
    ContentType::parse(text)
        .filter(|known| known.is_supported())
        .ok_or_else(|| {
            let text = text.unwrap_or("text/plain");
            let reason = format!("content type '{text}' is not supported");
            RpcError::new(ErrorKind::UnsupportedContentType, reason)
        })
}

/// Refuses a body that is larger than the connection allows.
pub(crate) fn check_size(what: &str, body: &[u8], limit: usize) -> Result<(), RpcError> {
    if body.len() <= limit {
        return Ok(());
    }
    Err(RpcError::new(
        ErrorKind::TooLarge,
        format!(
            "the {what} has {} bytes; the limit of the connection is {limit}",
            body.len()
        ),
    ))
}

/// Refuses headers that the broker does not take, singly or together.
pub(crate) fn check_headers(
    what: &str,
    headers: &Headers,
    frame_max: usize,
) -> Result<(), RpcError> {
    if headers.is_empty() {
        return Ok(());
    }
    let size = headers.size().and_then(|size| match size.values {
        0..=MAX_VALUES => Ok(size),
        _ => Err(Flaw::TooMany),
    });
    let size = size.map_err(|flaw| {
        let reason = format!("the headers of the {what} cannot be sent: {flaw}");
        RpcError::new(ErrorKind::Encode, reason)
    })?;
    let limit = max_header_bytes(frame_max);
    if size.bytes <= limit {
        return Ok(());
    }
    Err(RpcError::new(
        ErrorKind::TooLarge,
        format!(
            "the headers of the {what} have {} bytes; with the broker's frame_max of {frame_max} the limit is {limit}: send large values in the body",
            size.bytes
        ),
    ))
}

/// Returns the reason if the headers of a message could not be read completely.
pub(crate) fn unreadable(headers: &Headers) -> Option<String> {
    let reason = headers.get(UNREADABLE_HEADER)?;
    Some(reason.as_str().unwrap_or_default().to_owned())
}
