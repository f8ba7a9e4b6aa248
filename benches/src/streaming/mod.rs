//! Contenders that send many items to one reader.

pub mod by_hand;
pub mod grpc;
pub mod ours;

use std::future::Future;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::contender::Outcome;

/// Window of every contender: rpc-core's default.
pub const WINDOW_ITEMS: u64 = 1024;

/// Result of reading a stream.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Items per second, from the call to the last item.
    pub rate: f64,
}

/// Reads a stream of `items`, and measures the time. `read` returns the number of items that it has read.
pub async fn measure(items: u64, read: impl Future<Output = Outcome<u64>>) -> Outcome<Report> {
    let begun = Instant::now();
    let received = read.await?;
    let took = begun.elapsed();
    if received != items {
        return Err(format!("{received} of {items} items arrived").into());
    }
    Ok(Report {
        rate: items as f64 / took.as_secs_f64(),
    })
}

/// Times of single operations.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Measures an operation.
    pub async fn measure<T>(&mut self, operation: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let begun = Instant::now();
        let output = operation.await?;
        self.0.push(begun.elapsed());
        Ok(output)
    }

    /// Returns a percentile, in microseconds.
    #[must_use]
    pub fn percentile(&self, share: f64) -> f64 {
        let mut times = self.0.clone();
        times.sort_unstable();
        let index = (times.len() as f64 * share) as usize;
        let time = times.get(index.min(times.len().saturating_sub(1)));
        time.map_or(0.0, |time| time.as_secs_f64() * 1e6)
    }
}
