//! Numbers of calls that share messages, from the metrics of this process.

use std::sync::OnceLock;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// Calls that shared a message with others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Batched {
    pub(crate) requests: usize,
    pub(crate) replies: usize,
}

impl Batched {
    /// Returns the calls since the last `take`.
    pub(crate) fn take() -> Self {
        static NUMBERS: OnceLock<Snapshotter> = OnceLock::new();
        let numbers = NUMBERS.get_or_init(|| {
            let recorder = DebuggingRecorder::new();
            let numbers = recorder.snapshotter();
            recorder.install().expect("the only recorder");
            numbers
        });
        let mut batched = Self::default();
        for (key, _, _, value) in numbers.snapshot().into_vec() {
            let DebugValue::Histogram(sizes) = value else {
                continue;
            };
            let calls = match key.key().name() {
                "rpc.client.batch.size" => &mut batched.requests,
                "rpc.server.batch.size" => &mut batched.replies,
                _ => continue,
            };
            let shared = sizes.iter().filter(|size| ***size > 1.0);
            *calls += shared.map(|size| **size as usize).sum::<usize>();
        }
        batched
    }
}
