//! The load: so many calls in flight, for a fixed time, each replaced by another when it is answered.

use std::future::Future;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::cpu;

/// What a client is put under.
#[derive(Clone, Debug)]
pub struct Load {
    /// Calls that wait for their answers at any moment.
    pub in_flight: usize,
    /// Bytes that a call carries each way.
    pub payload: usize,
    /// How long it runs before anything is counted.
    pub warm_up: Duration,
    /// How long calls are counted.
    pub window: Duration,
}

impl Load {
    /// The time in which calls are counted, from now on.
    #[must_use]
    pub fn start(&self) -> Window {
        let opens = Instant::now() + self.warm_up;
        Window {
            opens,
            closes: opens + self.window,
        }
    }

    /// What is sent.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        vec![b'x'; self.payload]
    }

    /// Keeps the calls in flight with a task for each; `caller` makes the function that its task calls again and again.
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

/// When calls are counted.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    opens: Instant,
    closes: Instant,
}

/// What to do after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Call again.
    Call,
    /// The time is over.
    Stop,
}

/// How long the counted calls took.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Takes note of an answer that came just now.
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

/// The processes whose CPU time counts, besides the client's own.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    /// Those of the servers.
    pub servers: Vec<u32>,
    /// The broker's.
    pub broker: Vec<u32>,
}

/// What a run has shown. Times are in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Calls answered in a second.
    pub rate: f64,
    /// Half of the calls took no longer.
    pub p50: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// CPU time of the client's process for a call.
    pub client: f64,
    /// CPU time of the servers' processes for a call.
    pub server: f64,
    /// CPU time of the broker's process for a call.
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
