//! W3C Trace Context: the position of a span in its trace, in the headers `traceparent` and `tracestate`.

use std::fmt;

use tracing::Span;
use tracing::field::display;
use uuid::Uuid;

use crate::headers::{HeaderValue, Headers};
use crate::names::{TRACEPARENT, TRACESTATE};

/// The flag `sampled`: the trace is recorded.
const SAMPLED: u8 = 1;

/// The flags `sampled` and `random` (<https://www.w3.org/TR/trace-context-2/#trace-flags>). Other flags are not passed on.
const KNOWN_FLAGS: u8 = 3;

/// Content of a `traceparent`: a span, and the span's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// Makes `span` a child of the span that the headers name, unless `span` has a parent in this process. Then sets the headers to name
/// `span`.
pub(super) fn enter(span: &Span, headers: &mut Headers, is_root: bool) {
    let parent = TraceContext::read(headers);
    #[cfg(feature = "opentelemetry")]
    if bridge::enter(span, headers, parent.filter(|_| is_root)) {
        return;
    }
    #[cfg(not(feature = "opentelemetry"))]
    let _ = is_root;
    let own = parent.map_or_else(TraceContext::root, TraceContext::child);
    span.record("trace_id", display(format_args!("{:032x}", own.trace_id)));
    span.record("span_id", display(format_args!("{:016x}", own.span_id)));
    if let Some(parent) = parent {
        let id = parent.span_id;
        span.record("parent_span_id", display(format_args!("{id:016x}")));
    }
    // A `tracestate` belongs to the trace of its `traceparent`.
    let state = headers.get(TRACESTATE).and_then(HeaderValue::as_str);
    if parent.is_none() || !state.is_some_and(is_state) {
        headers.remove(TRACESTATE);
    }
    headers.insert(TRACEPARENT, own.to_string());
}

impl TraceContext {
    /// Parses the headers. Returns `None` if they are invalid (<https://www.w3.org/TR/trace-context/#traceparent-header>).
    fn read(headers: &Headers) -> Option<Self> {
        let text = headers.get(TRACEPARENT).and_then(HeaderValue::as_str)?;
        let mut parts = text.split('-');
        let version = hexadecimal(parts.next()?, 2)?;
        let context = Self {
            trace_id: hexadecimal(parts.next()?, 32)?,
            span_id: u64::try_from(hexadecimal(parts.next()?, 16)?).ok()?,
            flags: KNOWN_FLAGS & u8::try_from(hexadecimal(parts.next()?, 2)?).ok()?,
        };
        // Later versions may have more fields.
        let ends = version != 0 || parts.next().is_none();
        let is_valid = version != 0xff && ends && context.trace_id != 0 && context.span_id != 0;
        is_valid.then_some(context)
    }

    fn root() -> Self {
        Self {
            trace_id: Uuid::new_v4().as_u128(),
            span_id: fresh_span_id(),
            flags: SAMPLED,
        }
    }

    fn child(self) -> Self {
        Self {
            span_id: fresh_span_id(),
            ..self
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

/// Returns a random span id. It is never zero, because this half of a UUID holds the variant.
fn fresh_span_id() -> u64 {
    Uuid::new_v4().as_u64_pair().1
}

/// Returns `true` if a `tracestate` can be passed on: it has at most 512 bytes, the length that every program must support, and no
/// control characters (<https://www.w3.org/TR/trace-context/#tracestate-header>).
fn is_state(text: &str) -> bool {
    text.len() <= 512 && text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(is_lower))
        .then(|| u128::from_str_radix(text, 16).ok())?
}

/// Checks [`enter`] with any text in the headers, for fuzzers.
#[cfg(all(any(test, fuzzing), feature = "amqp"))]
pub(crate) fn fuzz(parent: &str, state: &str) {
    let mut headers = Headers::new();
    headers.insert(TRACEPARENT, parent);
    headers.insert(TRACESTATE, state);
    let parent = TraceContext::read(&headers);
    enter(&Span::none(), &mut headers, true);
    let own = TraceContext::read(&headers).expect("a traceparent is parsed as it was written");
    assert!(parent.is_none_or(|parent| parent.trace_id == own.trace_id));
    let kept = headers.get(TRACESTATE).and_then(HeaderValue::as_str);
    assert!(kept.is_none_or(|kept| kept == state && is_state(kept) && parent.is_some()));
}

/// Trace contexts with OpenTelemetry's ids.
#[cfg(feature = "opentelemetry")]
mod bridge {
    use std::sync::atomic::{AtomicBool, Ordering};

    use opentelemetry::Context;
    use opentelemetry::trace::{
        SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
    };
    use tracing::{Span, warn};
    use tracing_opentelemetry::{OpenTelemetrySpanExt, SetParentError};

    use super::{TRACEPARENT, TRACESTATE, TraceContext};
    use crate::headers::{HeaderValue, Headers};

    /// `true` once the missing layer was logged.
    static LOGGED: AtomicBool = AtomicBool::new(false);

    /// Does the same as [`super::enter`]. Without an OpenTelemetry layer in the subscriber, has no effect and returns `false`.
    pub(super) fn enter(span: &Span, headers: &mut Headers, parent: Option<TraceContext>) -> bool {
        if let Some(parent) = parent {
            let remote = parent.remote(headers);
            // Fails without the layer, which the next lines detect too.
            let _ = span.set_parent(Context::new().with_remote_span_context(remote));
        }
        let context = span.context();
        let current = context.span();
        let own = current.span_context();
        if !own.is_valid() {
            log_missing_layer(span, &LOGGED);
            return false;
        }
        let traceparent = TraceContext {
            trace_id: u128::from_be_bytes(own.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(own.span_id().to_bytes()),
            flags: own.trace_flags().to_u8(),
        };
        headers.insert(TRACEPARENT, traceparent.to_string());
        let state = own.trace_state().header();
        if state.is_empty() {
            headers.remove(TRACESTATE);
        } else {
            headers.insert(TRACESTATE, state);
        }
        true
    }

    /// Logs once that the subscriber has no layer of the version that this crate uses. A layer of another version is not detected.
    pub(super) fn log_missing_layer(span: &Span, logged: &AtomicBool) {
        if logged.load(Ordering::Relaxed) {
            return;
        }
        // The cheapest call that reports a missing layer.
        let found = span.set_parent(Context::new());
        if matches!(found, Err(SetParentError::LayerNotFound))
            && !logged.swap(true, Ordering::Relaxed)
        {
            warn!(
                "the feature `opentelemetry` of rpc-core is on, but the subscriber has no matching layer, so traces end where services \
                 call each other: add a layer of `tracing_opentelemetry` of the version that rpc-core uses (`cargo tree -d` shows others)"
            );
        }
    }

    impl TraceContext {
        fn remote(self, headers: &Headers) -> SpanContext {
            let state = headers.get(TRACESTATE).and_then(HeaderValue::as_str);
            let state = state.and_then(|text| text.parse::<TraceState>().ok());
            SpanContext::new(
                TraceId::from(self.trace_id),
                SpanId::from(self.span_id),
                TraceFlags::new(self.flags),
                true,
                state.unwrap_or_default(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "opentelemetry")]
    mod without_a_layer {
        use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
        use std::sync::{Arc, Mutex};

        use tracing::field::{Field, Visit};
        use tracing::span::{Attributes, Id, Record};
        use tracing::{Event, Metadata, Subscriber, info_span};

        use super::super::bridge;

        /// A subscriber that stores log messages.
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<String>>>, Arc<AtomicU64>);

        struct Text<'a>(&'a mut Vec<String>);

        impl Visit for Text<'_> {
            fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
                self.0.push(format!("{value:?}"));
            }
        }

        impl Subscriber for Log {
            fn enabled(&self, _: &Metadata<'_>) -> bool {
                true
            }

            fn new_span(&self, _: &Attributes<'_>) -> Id {
                Id::from_u64(self.1.fetch_add(1, Ordering::Relaxed) + 1)
            }

            fn record(&self, _: &Id, _: &Record<'_>) {}

            fn record_follows_from(&self, _: &Id, _: &Id) {}

            fn event(&self, event: &Event<'_>) {
                event.record(&mut Text(&mut self.0.lock().unwrap()));
            }

            fn enter(&self, _: &Id) {}

            fn exit(&self, _: &Id) {}
        }

        #[test]
        fn missing_layer_is_logged_once() {
            let log = Log::default();
            let _logging = tracing::subscriber::set_default(log.clone());
            let logged = AtomicBool::new(false);
            for _ in 0..3 {
                bridge::log_missing_layer(&info_span!("a call"), &logged);
            }
            let lines = log.0.lock().unwrap().clone();
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].contains("cargo tree -d"), "{lines:?}");
        }
    }

    #[test]
    fn the_guide_names_the_versions_of_opentelemetry() {
        let manifest = include_str!("../../../Cargo.toml");
        let guide = include_str!("../guide/observability.md");
        for name in ["opentelemetry", "tracing-opentelemetry"] {
            let start = format!("{name} = {{ version = \"");
            let line = manifest.lines().find_map(|line| line.strip_prefix(&start));
            let version = line.expect("a dependency").split('"').next().unwrap();
            let (minor, _) = version.rsplit_once('.').unwrap();
            let named = format!("`{name}` {minor}");
            assert!(guide.contains(&named), "{named}");
        }
    }

    fn read(text: &str) -> Option<TraceContext> {
        let mut headers = Headers::new();
        headers.insert(TRACEPARENT, text);
        TraceContext::read(&headers)
    }

    #[test]
    fn traceparent_is_parsed_as_it_was_written() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = read(text).unwrap();
        assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        assert_eq!(context.to_string(), text);
        let child = context.child();
        assert_eq!(child.trace_id, context.trace_id);
        assert_ne!(child.span_id, context.span_id);
        let root = TraceContext::root();
        assert_eq!(read(&root.to_string()), Some(root));
    }

    #[test]
    fn invalid_traceparent_is_ignored() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(read(later).is_some());
    }
}
