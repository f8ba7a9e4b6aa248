//! Results of calls on standard output.

use std::io::IsTerminal;

use rpc_core::{Answers, Call, CallError, Encoded, Headers, Streaming};
use serde_json::Value;
use serde_json::value::RawValue;

use super::failed_call;
use crate::failure::Failure;
use crate::header;
use crate::output::{Output, note, one_line};

/// Output of a call with a stream.
type StreamReply = Result<Streaming<Encoded, CallError<Encoded>>, CallError<Encoded>>;

/// Writer of results.
pub(super) struct Results<'a> {
    pub(super) out: &'a mut Output,
    /// Texts are written without quotes.
    pub(super) is_raw: bool,
    /// The headers of replies are written to standard error.
    pub(super) shows_headers: bool,
}

impl Results<'_> {
    /// Makes a call, and writes its result.
    pub(super) async fn of_call(
        &mut self,
        call: Call<Result<Encoded, CallError<Encoded>>>,
    ) -> Result<(), Failure> {
        let (result, headers) = call.with_headers().await;
        self.headers(&headers);
        let value = result.map_err(failed_call)?;
        let json = value.to_json()?;
        let is_for_people = !self.out.is_json() && std::io::stdout().is_terminal();
        match is_for_people && !self.is_raw {
            true => self.indented(&json),
            false => self.line(&json),
        }
    }

    /// Writes the items of a stream, at most `limit` of them, each as a line.
    pub(super) async fn of_stream(
        &mut self,
        reply: StreamReply,
        limit: Option<u64>,
    ) -> Result<(), Failure> {
        let mut items = reply.map_err(failed_call)?;
        self.headers(items.headers());
        let mut left = limit.unwrap_or(u64::MAX);
        while left > 0
            && let Some(item) = items.next().await
        {
            self.line(&item.map_err(failed_call)?.to_json()?)?;
            left -= 1;
        }
        Ok(())
    }

    /// Writes the answers of instances, each as a line of JSON. Fails like the first answer that is no result, once all have arrived.
    pub(super) async fn of_instances(
        &mut self,
        mut answers: Answers<Result<Encoded, CallError<Encoded>>>,
    ) -> Result<(), Failure> {
        let mut failure = None;
        while let Some((instance, answer)) = answers.next().await {
            let (name, value) = match answer {
                Ok(value) => ("result", json_value(&value)?),
                Err(error) => {
                    let (name, value) = match &error {
                        CallError::App(error) => ("error", json_value(error)?),
                        CallError::Rpc(error) => ("fault", text_value(&error.to_string())?),
                    };
                    failure = failure.or(Some(failed_call(error)));
                    (name, value)
                }
            };
            let instance = text_value(&instance)?;
            self.out
                .json_text(&format!("{{\"instance\":{instance},\"{name}\":{value}}}"))?;
        }
        failure.map_or(Ok(()), Err)
    }

    fn line(&mut self, json: &str) -> Result<(), Failure> {
        if self.is_raw
            && let Ok(Value::String(text)) = serde_json::from_str(json)
        {
            return self.out.line(text);
        }
        self.out.json_text(json)
    }

    /// Writes JSON with a line for each part. A number keeps its digits.
    fn indented(&mut self, json: &str) -> Result<(), Failure> {
        let value: &RawValue = serde_json::from_str(json)?;
        match value.get().starts_with(['{', '[']) {
            true => self.out.json(&serde_json::from_str::<Value>(json)?),
            false => self.out.json_text(json),
        }
    }

    fn headers(&self, headers: &Headers) {
        if self.shows_headers {
            for (name, value) in headers.iter() {
                note(format_args!("{name}: {}", header::value_to_json(value)));
            }
        }
    }
}

fn json_value(value: &Encoded) -> Result<String, Failure> {
    Ok(one_line(&value.to_json()?))
}

fn text_value(text: &str) -> Result<String, Failure> {
    Ok(serde_json::to_string(text)?)
}

/// Returns the service's own error as a line of text.
pub(super) fn text(error: &Encoded) -> String {
    json_value(error).unwrap_or_else(|failure| format!("({failure})"))
}
