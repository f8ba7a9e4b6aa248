//! The watchers of a server: programs that see its calls, and the limits of the events that they get.
//!
//! A call waits for no watcher: an event that a watcher does not get at once is left out, and counted. Without a watcher, a call costs the read
//! of a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::rate_limit::RateLimit;
use super::streams::Streams;
use crate::headers::{HeaderValue, Headers, is_secret};
use crate::instances::{TapEvent, TapEventKind, TapFilter, TapHeaders, TapOutcome};
use crate::names::PROTOCOL_PREFIX;

/// Watchers of an instance at a time.
pub(super) const MAX_WATCHERS: usize = 8;

/// Events of an instance in a second, to all watchers together, and bodies and headers in KiB.
const EVENTS_PER_SECOND: u32 = 1000;
const KIB_PER_SECOND: u32 = 1024;

/// Events that may wait to be sent to a watcher.
const MAX_WAITING: usize = 256;

/// Time in which the watchers of a stopping server learn of the end.
const STOPPING: Duration = Duration::from_secs(1);

/// The watchers of an instance.
pub(super) struct CallTap {
    /// Set while there is a watcher.
    is_watched: AtomicBool,
    watchers: Mutex<Vec<Arc<Watcher>>>,
    /// One permit for each watcher.
    places: Arc<Semaphore>,
    /// The watchers' streams, which take no places of the server's own.
    streams: Streams,
    calls: AtomicU64,
    events: RateLimit,
    kib: RateLimit,
}

/// A program that watches.
pub(super) struct Watcher {
    filter: TapFilter,
    events: mpsc::Sender<Arc<TapEvent>>,
    /// Number of events that were left out, and that the watcher has not been told of.
    skipped: AtomicU64,
}

/// A watcher in the list. Dropping it removes the watcher.
pub(super) struct Watching {
    pub(super) watcher: Arc<Watcher>,
    tap: Arc<CallTap>,
    _place: OwnedSemaphorePermit,
}

impl CallTap {
    pub(super) fn new() -> Self {
        Self {
            is_watched: AtomicBool::new(false),
            watchers: Mutex::default(),
            places: Arc::new(Semaphore::new(MAX_WATCHERS)),
            streams: Streams::new(MAX_WATCHERS),
            calls: AtomicU64::new(0),
            events: RateLimit::new(EVENTS_PER_SECOND, EVENTS_PER_SECOND),
            kib: RateLimit::new(KIB_PER_SECOND, KIB_PER_SECOND),
        }
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Ends the watchers' streams, after the events that they wait for.
    pub(super) async fn stop(&self) {
        self.streams.stop();
        let all = u32::try_from(MAX_WATCHERS).unwrap_or(u32::MAX);
        // A watcher that does not read in time learns of the end by the loss of the instance.
        let _ = timeout(STOPPING, self.places.acquire_many(all)).await;
    }

    /// Returns `true` while there is a watcher.
    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Returns the number of a call that is watched.
    pub(super) fn number(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a watcher, and returns its events. `None` if there are too many watchers.
    pub(super) fn watch(
        self: &Arc<Self>,
        filter: TapFilter,
    ) -> Option<(Watching, mpsc::Receiver<Arc<TapEvent>>)> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let (events, shown) = mpsc::channel(MAX_WAITING);
        let watcher = Arc::new(Watcher {
            filter,
            events,
            skipped: AtomicU64::new(0),
        });
        let mut watchers = self.watchers.lock();
        watchers.push(watcher.clone());
        self.is_watched.store(true, Ordering::Relaxed);
        drop(watchers);
        let watching = Watching {
            watcher,
            tap: self.clone(),
            _place: place,
        };
        Some((watching, shown))
    }

    /// Returns the watchers that a call concerns.
    pub(super) fn watchers_of(
        &self,
        service: &str,
        method: Option<&str>,
        headers: &Headers,
    ) -> Vec<Arc<Watcher>> {
        let watchers = self.watchers.lock();
        let wanted = watchers
            .iter()
            .filter(|watcher| watcher.wants(service, method, headers));
        wanted.cloned().collect()
    }

    /// Gives an event to watchers, within the limits. The event is made once, and only if one of them can have it.
    pub(super) fn show(&self, watchers: &[&Arc<Watcher>], event: impl Fn() -> TapEvent) {
        let mut made: Option<(Arc<TapEvent>, u32)> = None;
        for watcher in watchers {
            let Ok(place) = watcher.events.try_reserve() else {
                watcher.skip(1);
                continue;
            };
            if !self.events.take() {
                watcher.skip(1);
                continue;
            }
            let (event, kib) = made.get_or_insert_with(|| {
                let event = event();
                let kib = kib_of(&event);
                (Arc::new(event), kib)
            });
            match self.kib.take_several(*kib) {
                true => place.send(event.clone()),
                false => watcher.skip(1),
            }
        }
    }
}

impl Watching {
    /// Time for which the watcher wants to watch.
    pub(super) fn duration(&self) -> Duration {
        self.watcher.filter.duration()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let tap = &*self.tap;
        let mut watchers = tap.watchers.lock();
        watchers.retain(|other| !Arc::ptr_eq(other, &self.watcher));
        tap.is_watched
            .store(!watchers.is_empty(), Ordering::Relaxed);
    }
}

impl Watcher {
    /// Returns the service whose calls are watched.
    pub(super) fn service(&self) -> &str {
        &self.filter.service
    }

    fn wants(&self, service: &str, method: Option<&str>, headers: &Headers) -> bool {
        let filter = &self.filter;
        let has_header = |name: &String| {
            let Some(value) = headers.get(name).filter(|_| !is_protocols(name)) else {
                return false;
            };
            match &filter.value {
                None => true,
                // Otherwise a watcher could guess the value.
                Some(_) if is_secret(name) => false,
                Some(wanted) => text_of(value) == *wanted,
            }
        };
        filter.service == service
            && filter
                .method
                .as_deref()
                .is_none_or(|wanted| method == Some(wanted))
            && filter.header.as_ref().is_none_or(has_header)
    }

    /// Returns `true` if the watcher wants the events of a call before its end, for `None`, or an end with an outcome.
    pub(super) fn wants_outcome(&self, outcome: Option<TapOutcome>) -> bool {
        let wanted = self.filter.outcome;
        wanted.is_none_or(|wanted| outcome == Some(wanted))
    }

    /// Returns `true` if the watcher wants the calls with one outcome, which is known at the end of a call.
    pub(super) fn selects_outcome(&self) -> bool {
        self.filter.outcome.is_some()
    }

    /// Counts events that are left out.
    pub(super) fn skip(&self, events: usize) {
        self.skipped.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Returns the number of events that were left out since the last time.
    pub(super) fn take_skipped(&self) -> u64 {
        self.skipped.swap(0, Ordering::Relaxed)
    }
}

/// Returns `true` for a header that no watcher sees.
pub(super) fn is_protocols(header: &str) -> bool {
    header.starts_with(PROTOCOL_PREFIX)
}

/// Returns the value of a header as text.
pub(super) fn text_of(value: &HeaderValue) -> String {
    match value {
        HeaderValue::Void => String::new(),
        HeaderValue::Bool(flag) => flag.to_string(),
        HeaderValue::Int(number) => number.to_string(),
        HeaderValue::Float(number) => number.to_string(),
        HeaderValue::Timestamp(seconds) => seconds.to_string(),
        HeaderValue::String(text) => text.clone(),
        HeaderValue::Bytes(_) | HeaderValue::List(_) | HeaderValue::Table(_) => {
            format!("{value:?}")
        }
    }
}

/// Length of an event in KiB, about.
fn kib_of(event: &TapEvent) -> u32 {
    let of_headers = |headers: &TapHeaders| {
        let lens = headers.values.iter();
        lens.map(|(name, value)| name.len() + value.len()).sum()
    };
    let (headers, body): (usize, usize) = match &event.kind {
        TapEventKind::Request(request) => (of_headers(&request.headers), request.body.bytes.len()),
        TapEventKind::Answer(answer) => {
            let body = answer.body.as_ref();
            let body = body.map_or(0, |body| body.bytes.len());
            (of_headers(&answer.headers), body)
        }
        _ => (0, 0),
    };
    // An event without content takes up a part of a KiB.
    u32::try_from((headers + body).div_ceil(1024).max(1)).unwrap_or(u32::MAX)
}
