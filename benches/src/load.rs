//! Load: a number of calls in flight for a fixed time. Each answered call is replaced by another.

use std::future::Future;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::cpu;

/// Load on a client.
#[derive(Clone, Debug)]
pub struct Load {
    /// Number of calls that wait for replies at any moment.
    pub in_flight: usize,
    /// Bytes of a body, in each direction.
    pub payload: usize,
    /// Time before calls are counted.
    pub warm_up: Duration,
    /// Time in which calls are counted.
    pub window: Duration,
}

impl Load {
    /// Returns the period in which calls are counted, for a load that starts now.
    #[must_use]
    pub fn start(&self) -> Window {
        let opens = Instant::now() + self.warm_up;
        Window {
            opens,
            closes: opens + self.window,
        }
    }

    /// Returns the body of a request.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        vec![b'x'; self.payload]
    }

    /// Keeps the calls in flight with one task each. `caller` makes the function that a task calls repeatedly.
    pub async fn in_tasks<C, F>(&self, window: Window, caller: impl Fn(usize) -> C) -> Samples
    where
        C: Fn() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for index in 0..self.in_flight {
            let call = caller(index);
            tasks.spawn(async move {
                let mut samples = Samples::default();
                loop {
                    let started = Instant::now();
                    call().await;
                    if samples.record(window, started) == Next::Stop {
                        return samples;
                    }
                }
            });
        }
        let mut all = Samples::default();
        while let Some(samples) = tasks.join_next().await {
            all.0
                .append(&mut samples.expect("a caller does not panic").0);
        }
        all
    }
}

/// Period in which calls are counted.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    opens: Instant,
    closes: Instant,
}

/// Next step after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Call again.
    Call,
    /// The time is over.
    Stop,
}

/// Durations of the counted calls.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Records a reply that arrived now.
    pub fn record(&mut self, window: Window, started: Instant) -> Next {
        let now = Instant::now();
        if now < window.opens {
            return Next::Call;
        }
        if now >= window.closes {
            return Next::Stop;
        }
        self.0.push(now - started);
        Next::Call
    }

    fn percentile(&self, percent: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let index = last * percent / 100;
        self.0.get(index).map_or(f64::NAN, |time| micros(*time))
    }
}

/// Processes whose CPU time is measured, in addition to the client's own.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    /// Processes of the servers.
    pub servers: Vec<u32>,
    /// Process of the broker.
    pub broker: Vec<u32>,
}

/// Result of a run. Times are in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Calls per second.
    pub rate: f64,
    /// Median duration of a call.
    pub p50: f64,
    /// 99th percentile of the duration of a call.
    pub p99: f64,
    /// CPU time of the client's process per call.
    pub client: f64,
    /// CPU time of the servers' processes per call.
    pub server: f64,
    /// CPU time of the broker's process per call.
    pub broker: f64,
}

impl Report {
    /// Runs a client in this process.
    pub async fn of<F>(load: &Load, processes: Processes, run: impl FnOnce(Window) -> F) -> Self
    where
        F: Future<Output = Samples>,
    {
        let window = load.start();
        let Processes { servers, broker } = processes;
        let groups = [vec![std::process::id()], servers, broker];
        let watch = cpu::watch(window.opens, window.closes, groups);
        let mut samples = run(window).await;
        samples.0.sort_unstable();
        let count = samples.0.len() as f64;
        let used = watch.join().expect("reading a file does not panic");
        let [client, server, broker] = used.map(|time| micros(time) / count);
        Self {
            rate: count / load.window.as_secs_f64(),
            p50: samples.percentile(50),
            p99: samples.percentile(99),
            client,
            server,
            broker,
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
