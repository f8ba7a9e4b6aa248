//! Statistics of the calls that a server has run, and the recording of each call.
//!
//! Recording takes a few hundred instructions and no memory, except for a method's first call, which allocates 11 KiB for the durations.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use histogram::{AtomicHistogram, Quantile};
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::time::Instant;

use super::in_flight::{CallsInFlight, RunningCall};
use crate::definition::{Method, Service};
use crate::error::RpcError;
use crate::instances::{CallInFlight, MethodStats};
use crate::message::Response;

/// Number of calls in [`InstanceStats::oldest`](crate::instances::InstanceStats::oldest).
const OLDEST: usize = 16;

/// Precision of durations: a percentile is at most 1/32 too long.
const GROUPING_POWER: u8 = 5;

/// Longest duration that percentiles tell apart: 2^46 nanoseconds, which are 19 hours.
const MAX_VALUE_POWER: u8 = 46;
const MAX_NANOS: u64 = (1 << MAX_VALUE_POWER) - 1;

/// Status of a call whose handling was abandoned.
pub(super) const DROPPED: &str = "dropped";

/// Statistics of a service.
#[derive(Debug)]
pub(super) struct Statistics {
    definition: &'static Service,
    /// In the order of the definition.
    methods: Box<[MethodStatistics]>,
}

/// Statistics of a method.
#[derive(Debug, Default)]
struct MethodStatistics {
    results: AtomicU64,
    errors: AtomicU64,
    /// Behind a lock, because only a call that fails takes the lock.
    faults: Mutex<BTreeMap<&'static str, u64>>,
    /// Sum of all durations, in nanoseconds: 584 years of running handlers fit.
    nanos: AtomicU64,
    max_nanos: AtomicU64,
    durations: OnceLock<AtomicHistogram>,
}

/// Numbers of a method's calls that have not ended.
#[derive(Clone, Copy, Default)]
struct Running {
    calls: u64,
    streams: u64,
}

impl Statistics {
    pub(super) fn new(definition: &'static Service) -> Self {
        Self {
            definition,
            methods: definition
                .methods
                .iter()
                .map(|_| MethodStatistics::default())
                .collect(),
        }
    }

    fn of(&self, method: &'static Method) -> Option<&MethodStatistics> {
        self.definition
            .position(method)
            .map(|index| &self.methods[index])
    }

    /// Returns the statistics of all methods, and the oldest of the calls in flight that `is_own` accepts by the index of their queue. Open
    /// streams are counted apart from the calls in flight.
    pub(super) fn read(
        &self,
        in_flight: &CallsInFlight,
        is_own: impl Fn(usize) -> bool,
    ) -> (Vec<MethodStats>, Vec<CallInFlight>) {
        let mut running = vec![Running::default(); self.methods.len()];
        let mut oldest: Vec<RunningCall> = Vec::with_capacity(OLDEST + 1);
        in_flight.for_each(|call| {
            if !is_own(call.queue) {
                return;
            }
            let index = self.definition.position(call.method);
            let running = index.map(|index| &mut running[index]);
            if call.is_stream {
                if let Some(running) = running {
                    running.streams += 1;
                }
                return;
            }
            if let Some(running) = running {
                running.calls += 1;
            }
            let rank = oldest.partition_point(|older| older.begun <= call.begun);
            if rank < OLDEST {
                oldest.insert(rank, call.clone());
                oldest.truncate(OLDEST);
            }
        });
        let methods = self.definition.methods.iter().zip(&self.methods);
        let methods = methods
            .zip(running)
            .map(|((method, statistics), running)| statistics.read(method.name, running))
            .collect();
        let now = Instant::now();
        let oldest = oldest.into_iter().map(|call| CallInFlight {
            method: call.method.name.to_owned(),
            age: now.duration_since(call.begun),
            correlation_id: call.correlation_id.map(|id| id.to_string()),
        });
        (methods, oldest.collect())
    }
}

impl MethodStatistics {
    fn record(&self, outcome: Option<&Result<Response, RpcError>>, duration: Duration) {
        match outcome {
            Some(Ok(response)) if response.is_error() => {
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
            Some(Ok(_)) => {
                self.results.fetch_add(1, Ordering::Relaxed);
            }
            Some(Err(error)) => self.count_fault(error.kind().fault_code()),
            None => self.count_fault(DROPPED),
        }
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.max_nanos.fetch_max(nanos, Ordering::Relaxed);
        let durations = self.durations.get_or_init(|| {
            AtomicHistogram::new(GROUPING_POWER, MAX_VALUE_POWER)
                .expect("the powers are in the histogram's range, as a test shows")
        });
        let _ = durations.increment(nanos.min(MAX_NANOS)); // Fails above the maximum only.
    }

    fn count_fault(&self, code: &'static str) {
        *self.faults.lock().entry(code).or_default() += 1;
    }

    fn read(&self, name: &str, running: Running) -> MethodStats {
        let results = self.results.load(Ordering::Relaxed);
        let errors = self.errors.load(Ordering::Relaxed);
        let faults: BTreeMap<String, u64> = self
            .faults
            .lock()
            .iter()
            .map(|(code, number)| ((*code).to_owned(), *number))
            .collect();
        let calls = results + errors + faults.values().sum::<u64>();
        let max = Duration::from_nanos(self.max_nanos.load(Ordering::Relaxed));
        let nanos = self.nanos.load(Ordering::Relaxed);
        let [p50, p90, p99] = self.percentiles().map(|percentile| percentile.min(max));
        MethodStats {
            name: name.to_owned(),
            calls,
            results,
            errors,
            faults,
            in_flight: running.calls,
            streams: running.streams,
            mean: Duration::from_nanos(nanos.checked_div(calls).unwrap_or(0)),
            p50,
            p90,
            p99,
            max,
        }
    }

    /// Returns the median, and the 90th and the 99th percentile; zero without a call.
    fn percentiles(&self) -> [Duration; 3] {
        const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];
        let durations = self.durations.get().map(AtomicHistogram::load);
        let found = durations.and_then(|durations| durations.quantiles(&QUANTILES).ok().flatten());
        QUANTILES.map(|quantile| {
            let quantile = Quantile::new(quantile).ok();
            let bucket = found.as_ref().zip(quantile);
            let bucket = bucket.and_then(|(found, quantile)| found.get(&quantile));
            Duration::from_nanos(bucket.map_or(0, histogram::Bucket::end))
        })
    }
}

/// The recording of a call, from the start of its handling. A recording that is dropped counts the call as dropped.
#[derive(Debug, Default)]
pub(super) struct Recording<'a> {
    statistics: Option<&'a MethodStatistics>,
    /// The calls in flight, the place of this one, and its start.
    running: Option<(&'a CallsInFlight, usize, Instant)>,
    /// Duration of a call whose stream is open.
    accepted_after: Option<Duration>,
}

impl<'a> Recording<'a> {
    /// Starts to record a call.
    pub(super) fn begin(
        statistics: Option<&'a Statistics>,
        in_flight: &'a CallsInFlight,
        queue: usize,
        method: &'static Method,
        correlation_id: Option<&SmolStr>,
    ) -> Self {
        let begun = Instant::now();
        let call = RunningCall::new(queue, method, begun, correlation_id.cloned());
        Self {
            statistics: statistics.and_then(|statistics| statistics.of(method)),
            running: Some((in_flight, in_flight.begin(call), begun)),
            accepted_after: None,
        }
    }

    /// Records that a stream of the call is open. The duration of the call ends here.
    pub(super) fn accepted(&mut self) {
        if let Some((in_flight, place, begun)) = self.running {
            in_flight.open_stream(place);
            self.accepted_after = Some(begun.elapsed());
        }
    }

    /// Records the outcome.
    pub(super) fn ended(mut self, outcome: &Result<Response, RpcError>) {
        self.end(Some(outcome));
    }

    fn end(&mut self, outcome: Option<&Result<Response, RpcError>>) {
        let Some((in_flight, place, begun)) = self.running.take() else {
            return;
        };
        in_flight.end(place);
        if let Some(statistics) = self.statistics {
            let duration = self.accepted_after.unwrap_or_else(|| begun.elapsed());
            statistics.record(outcome, duration);
        }
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.end(None);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::codec::ContentType;
    use crate::error::ErrorKind;
    use crate::message::Outcome;

    // Statics, because methods are compared by address.
    static FIB: &Method = &Method::new("fib", &["n"]);
    static WAIT: &Method = &Method::new("wait", &[]);
    static SERVICE: &Service = &Service::new("Fib", "rpc.Fib", METHODS);
    static METHODS: &[&Method] = &[FIB, WAIT];

    fn response(outcome: Outcome) -> Result<Response, RpcError> {
        Ok(Response::new(
            outcome,
            ContentType::MessagePack,
            Bytes::new(),
        ))
    }

    struct Server {
        statistics: Statistics,
        in_flight: CallsInFlight,
    }

    impl Server {
        fn new() -> Self {
            Self {
                statistics: Statistics::new(SERVICE),
                in_flight: CallsInFlight::default(),
            }
        }

        fn begin(&self, method: &'static Method, id: &str) -> Recording<'_> {
            let statistics = Some(&self.statistics);
            Recording::begin(statistics, &self.in_flight, 0, method, Some(&id.into()))
        }

        fn read(&self) -> (MethodStats, MethodStats, Vec<CallInFlight>) {
            let (methods, oldest) = self.statistics.read(&self.in_flight, |queue| queue == 0);
            let [fib, wait] = <[MethodStats; 2]>::try_from(methods).unwrap();
            (fib, wait, oldest)
        }
    }

    #[test]
    fn without_a_call_all_numbers_are_zero() {
        let (fib, ..) = Server::new().read();
        assert_eq!((fib.calls, fib.in_flight), (0, 0));
        assert_eq!([fib.mean, fib.p50, fib.p99, fib.max], [Duration::ZERO; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn percentiles_are_at_most_a_32nd_too_long() {
        let server = Server::new();
        for millis in 1..=100 {
            let recording = server.begin(FIB, "1");
            tokio::time::advance(Duration::from_millis(millis)).await;
            recording.ended(&response(Outcome::Result));
        }
        let (fib, wait, _) = server.read();
        assert_eq!((fib.calls, fib.results, wait.calls), (100, 100, 0));
        assert_eq!(fib.mean, Duration::from_micros(50_500));
        assert_eq!(fib.max, Duration::from_millis(100));
        for (percentile, millis) in [(fib.p50, 50), (fib.p90, 90), (fib.p99, 99)] {
            let exact = Duration::from_millis(millis);
            assert!(percentile >= exact, "{percentile:?}");
            assert!(percentile <= exact + exact / 32, "{percentile:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_percentile_exceeds_the_maximum() {
        let server = Server::new();
        for duration in [Duration::from_nanos(1_000_001), Duration::from_secs(86_400)] {
            let recording = server.begin(FIB, "1");
            tokio::time::advance(duration).await;
            recording.ended(&response(Outcome::Result));
            let (fib, ..) = server.read();
            assert!(fib.p99 <= fib.max, "{fib:?}");
            assert_eq!(fib.max.as_millis(), duration.as_millis());
        }
    }

    #[test]
    fn outcomes_are_counted_by_kind() {
        let server = Server::new();
        server.begin(FIB, "1").ended(&response(Outcome::Result));
        server.begin(FIB, "2").ended(&response(Outcome::Error));
        for kind in [ErrorKind::Panicked, ErrorKind::Timeout, ErrorKind::Panicked] {
            server
                .begin(FIB, "3")
                .ended(&Err(RpcError::new(kind, "no")));
        }
        drop(server.begin(FIB, "4"));
        let (fib, wait, oldest) = server.read();
        assert_eq!((fib.calls, fib.results, fib.errors), (6, 1, 1));
        let faults = [("deadline_exceeded", 1), ("dropped", 1), ("panicked", 2)];
        assert_eq!(
            fib.faults,
            faults.map(|(code, n)| (code.to_owned(), n)).into()
        );
        assert_eq!((fib.in_flight, wait.calls, oldest.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_calls_come_first_and_are_limited() {
        let server = Server::new();
        let mut running = Vec::new();
        for n in 0..20 {
            let method = if n % 2 == 0 { FIB } else { WAIT };
            running.push(server.begin(method, &n.to_string()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // The places of ended calls are taken by younger ones.
        running.remove(0);
        running.push(server.begin(FIB, "20"));
        let _other_service = Recording::begin(None, &server.in_flight, 1, FIB, None);
        let (fib, wait, oldest) = server.read();
        assert_eq!((fib.in_flight, wait.in_flight), (10, 10));
        let ids = oldest
            .iter()
            .map(|call| call.correlation_id.clone().unwrap());
        assert!(ids.eq((1..=16).map(|n| n.to_string())), "{oldest:?}");
        assert_eq!(oldest[0].age, Duration::from_secs(19));
        assert_eq!(oldest[0].method, "wait");
    }
}
