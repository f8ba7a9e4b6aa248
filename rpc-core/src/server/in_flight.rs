//! Calls that a server runs: when each began, for statistics and for the warning about slow handlers.

use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::time::{Duration, Instant};

use crate::definition::Method;

/// The calls of known methods that a server runs.
///
/// The lock is held for a few instructions at the start and at the end of a call, and while the calls are listed.
#[derive(Debug, Default)]
pub(super) struct CallsInFlight(Mutex<Slab>);

/// Calls in places that are used again, so that a call needs no memory of its own.
#[derive(Debug, Default)]
struct Slab {
    places: Vec<Option<RunningCall>>,
    free: Vec<usize>,
}

/// A call that runs.
#[derive(Clone, Debug)]
pub(super) struct RunningCall {
    /// Index of the queue in the instance.
    pub(super) queue: usize,
    pub(super) method: &'static Method,
    pub(super) begun: Instant,
    pub(super) correlation_id: Option<SmolStr>,
    /// Set once the log has a warning about the call.
    is_reported: bool,
    /// Set once a stream of the call is open.
    pub(super) is_stream: bool,
}

impl RunningCall {
    pub(super) fn new(
        queue: usize,
        method: &'static Method,
        begun: Instant,
        correlation_id: Option<SmolStr>,
    ) -> Self {
        Self {
            queue,
            method,
            begun,
            correlation_id,
            is_reported: false,
            is_stream: false,
        }
    }
}

impl CallsInFlight {
    /// Registers a call. Returns its place.
    pub(super) fn begin(&self, call: RunningCall) -> usize {
        let mut slab = self.0.lock();
        match slab.free.pop() {
            Some(place) => {
                slab.places[place] = Some(call);
                place
            }
            None => {
                slab.places.push(Some(call));
                slab.places.len() - 1
            }
        }
    }

    /// Records that a stream of the call at a place is open.
    pub(super) fn open_stream(&self, place: usize) {
        if let Some(call) = &mut self.0.lock().places[place] {
            call.is_stream = true;
        }
    }

    /// Removes the call at a place.
    pub(super) fn end(&self, place: usize) {
        let mut slab = self.0.lock();
        let ended = slab.places[place].take();
        slab.free.push(place);
        drop(slab);
        drop(ended); // Frees memory outside of the lock.
    }

    /// Looks at each call.
    pub(super) fn for_each(&self, look: impl FnMut(&RunningCall)) {
        self.0.lock().places.iter().flatten().for_each(look);
    }

    /// Returns the calls that began at least `limit` ago and are not reported yet, which then count as reported, and the time until the
    /// next call may become slow. An open stream is not slow.
    pub(super) fn take_slow(&self, limit: Duration) -> (Vec<RunningCall>, Duration) {
        let now = Instant::now();
        let mut slow = Vec::new();
        let mut oldest = now;
        let mut slab = self.0.lock();
        let calls = slab.places.iter_mut().flatten();
        for call in calls.filter(|call| !call.is_reported && !call.is_stream) {
            if now.duration_since(call.begun) >= limit {
                call.is_reported = true;
                slow.push(call.clone());
            } else {
                oldest = oldest.min(call.begun);
            }
        }
        (slow, limit - now.duration_since(oldest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: &Method = &Method::new("wait", &[]);

    fn call(id: &str) -> RunningCall {
        RunningCall::new(0, METHOD, Instant::now(), Some(id.into()))
    }

    fn ids(calls: &[RunningCall]) -> Vec<&str> {
        let ids = calls.iter().map(|call| call.correlation_id.as_deref());
        ids.map(Option::unwrap).collect()
    }

    #[test]
    fn places_are_used_again() {
        let calls = CallsInFlight::default();
        let places: Vec<usize> = (0..3).map(|n| calls.begin(call(&n.to_string()))).collect();
        calls.end(places[1]);
        assert_eq!(calls.begin(call("3")), places[1]);
        let mut running = Vec::new();
        calls.for_each(|call| running.push(call.clone()));
        assert_eq!(ids(&running), ["0", "3", "2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_slow_call_is_reported_once() {
        const LIMIT: Duration = Duration::from_secs(60);
        let advance = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        let calls = CallsInFlight::default();
        let (slow, next) = calls.take_slow(LIMIT);
        assert_eq!((slow.len(), next), (0, LIMIT));
        calls.begin(call("first"));
        advance(20).await;
        let ended = calls.begin(call("ended"));
        advance(20).await;
        calls.begin(call("last"));
        let (slow, next) = calls.take_slow(LIMIT);
        assert_eq!((slow.len(), next), (0, Duration::from_secs(20)));
        advance(20).await;
        let (slow, next) = calls.take_slow(LIMIT);
        assert_eq!((ids(&slow), next), (vec!["first"], Duration::from_secs(20)));
        calls.end(ended);
        advance(20).await;
        let (slow, next) = calls.take_slow(LIMIT);
        assert_eq!((slow.len(), next), (0, Duration::from_secs(20)));
        advance(20).await;
        let (slow, next) = calls.take_slow(LIMIT);
        assert_eq!((ids(&slow), next), (vec!["last"], LIMIT));
    }
}
