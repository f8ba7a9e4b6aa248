//! Deadlines: the moment, the default, inheritance, the form on the wire, and the texts of faults and errors.
//!
//! A timeout is a duration, a deadline a moment. A call has one [`Deadline`], which travels in its request. Between processes it
//! travels as wall-clock time, because monotonic clocks of different machines cannot be compared.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::error::{ErrorKind, RpcError};

/// Default timeout of a call.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest timeout; longer ones are cut to it. 30 years is tokio's own limit.
pub(crate) const FAR_FUTURE: Duration = Duration::from_secs(86_400 * 365 * 30);

/// Largest difference between the moments at which a caller and a server on the same clock find a deadline to have passed.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_millis(20);

/// Returns the moment that lies `timeout` ahead.
pub(crate) fn after(timeout: Duration) -> Instant {
    after_moment(Instant::now(), timeout)
}

fn after_moment(moment: Instant, timeout: Duration) -> Instant {
    moment + timeout.min(FAR_FUTURE)
}

/// Deadline of one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadline {
    own: Option<Own>,
    /// Deadline of the call in whose handler this one is made, or an earlier limit.
    inherited: Option<Instant>,
    layered: Option<LayeredDeadline>,
}

/// Deadline set on the call or by its method.
#[derive(Clone, Copy, Debug)]
enum Own {
    /// Counts from the first poll of the call.
    Timeout(Duration),
    At(Instant),
}

impl Deadline {
    /// Deadline of a request that a server received.
    pub(crate) fn received(moment: Option<Instant>) -> Self {
        Self {
            own: moment.map(Own::At),
            ..Self::default()
        }
    }

    /// Sets a timeout, in place of an earlier timeout or moment.
    pub(crate) fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.own = timeout.map(Own::Timeout);
    }

    /// Sets a moment, in place of an earlier timeout or moment.
    pub(crate) fn set_moment(&mut self, moment: Instant) {
        self.own = Some(Own::At(moment));
    }

    /// Sets a moment unless there is one.
    pub(crate) fn set_default(&mut self, moment: Option<Instant>) {
        self.own = self.own.or(moment.map(Own::At));
    }

    /// Limits the deadline to that of the call in whose handler this call is made.
    pub(crate) fn inherit(&mut self, moment: Option<Instant>) {
        self.inherited = moment;
    }

    /// Limits the deadline to a moment, beside the other limits.
    pub(crate) fn limit(&mut self, moment: Instant) {
        self.inherited = Some(self.inherited.map_or(moment, |other| other.min(moment)));
    }

    /// Starts the time of a call at its first poll: a timeout becomes a moment.
    pub(crate) fn start(&mut self) {
        if let Some(Own::Timeout(timeout)) = self.own {
            self.own = Some(Own::At(after(timeout)));
        }
    }

    /// Shares the deadline between a call above the layers of a client and the service below them.
    pub(crate) fn enter_layers(&mut self) -> LayeredDeadline {
        let layered = LayeredDeadline::start();
        self.layered = Some(layered.clone());
        layered
    }

    fn own(&self) -> Option<Instant> {
        match self.own? {
            Own::At(moment) => Some(moment),
            Own::Timeout(_) => None,
        }
    }

    /// Returns the earlier of the call's own moment and the inherited one.
    pub(crate) fn moment(&self) -> Option<Instant> {
        self.own().into_iter().chain(self.inherited).min()
    }

    /// Returns `true` if the inherited deadline is earlier than the call's own.
    pub(crate) fn is_inherited(&self) -> bool {
        let own = self.own();
        self.inherited
            .is_some_and(|inherited| own.is_none_or(|own| inherited < own))
    }

    /// Returns the moment, for a call whose timeout is `default` unless set. Time that was spent in layers counts.
    pub(crate) fn moment_or(&self, default: Duration, now: Instant) -> Instant {
        let own = self.own().unwrap_or_else(|| {
            let layered = self.layered.as_ref();
            let left = layered.map(|layered| layered.left_of(default, now));
            after_moment(now, left.unwrap_or(default))
        });
        self.inherited.map_or(own, |inherited| inherited.min(own))
    }

    /// Fixes the moment at which the service below the layers ends the call, and reports the moment to the call above the layers.
    pub(crate) fn fix(&self, default: Duration, now: Instant) -> Instant {
        let moment = self.moment_or(default, now);
        self.report(moment);
        moment
    }

    /// Returns the moment until which a call with streams waits for its first answer: the end of the timeout or the deadline, whichever
    /// is earlier. Time that was spent in layers counts.
    pub(crate) fn first_answer(&self, timeout: Duration, now: Instant) -> Instant {
        let layered = self.layered.as_ref();
        let left = layered.map_or(timeout, |layered| layered.left_of(timeout, now));
        let end = after_moment(now, left);
        self.moment().map_or(end, |moment| moment.min(end))
    }

    /// Fixes the moment until which the service below the layers waits for the first answer, and reports the moment to the call above the
    /// layers.
    pub(crate) fn fix_first_answer(&self, timeout: Duration, now: Instant) -> Instant {
        let moment = self.first_answer(timeout, now);
        self.report(moment);
        moment
    }

    fn report(&self, moment: Instant) {
        if let Some(layered) = &self.layered {
            // A further attempt of a call that is sent again finds the moment of the first.
            let _ = layered.0.fixed.set(moment);
        }
    }
}

/// Deadline that passes through the layers around a client, which do not know the deadline. The service below the layers knows the
/// default timeout and sets the moment. The call above the layers ends at that moment, even if a layer hangs.
#[derive(Clone, Debug)]
pub(crate) struct LayeredDeadline(Arc<LayeredInner>);

#[derive(Debug)]
struct LayeredInner {
    started: Instant,
    /// Deadline that the service below the layers keeps.
    fixed: OnceLock<Instant>,
}

impl LayeredDeadline {
    fn start() -> Self {
        Self(Arc::new(LayeredInner {
            started: Instant::now(),
            fixed: OnceLock::new(),
        }))
    }

    /// Returns the time left of a timeout.
    fn left_of(&self, timeout: Duration, now: Instant) -> Duration {
        timeout.saturating_sub(now.duration_since(self.0.started))
    }

    /// Returns the deadline that the service below the layers keeps, once the call has reached the service.
    pub(crate) fn fixed(&self) -> Option<Instant> {
        self.0.fixed.get().copied()
    }
}

// The form on the wire.

/// Returns the wall-clock time that lies `remaining` ahead, in milliseconds since the Unix epoch.
pub(crate) fn unix_millis_after(remaining: Duration) -> i64 {
    i64::try_from((since_epoch() + remaining).as_millis()).unwrap_or(i64::MAX)
}

/// Returns the wall-clock time.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Returns the time left as RabbitMQ takes it: at least 1 ms, at most 32 bits (<https://www.rabbitmq.com/docs/ttl>).
pub(crate) fn expiration(remaining: Duration) -> u32 {
    u32::try_from(remaining.as_millis())
        .unwrap_or(u32::MAX)
        .max(1)
}

/// Returns the server's view of a deadline: the moment in the header, else the end of the time for which the request could wait in
/// the queue. Returns `None` without either.
pub(crate) fn from_wire(header: Option<i64>, expiration: Option<u32>) -> Option<Instant> {
    let remaining = match header {
        Some(deadline) => {
            let remaining = deadline.saturating_sub(unix_millis_after(Duration::ZERO));
            Duration::from_millis(u64::try_from(remaining).unwrap_or(0))
        }
        None => Duration::from_millis(expiration?.into()),
    };
    Some(after(remaining))
}

/// Returns the time since a request was published: published by the sender's clock, received by this machine's. The request's expiration is the
/// time that was left when it was published.
#[cfg(any(test, feature = "metrics"))]
pub(crate) fn waited(header: Option<i64>, expiration: Option<u32>) -> Option<Duration> {
    // An expiration of `u32::MAX` is a time that was cut: the real one may be longer.
    let remaining = expiration.filter(|millis| *millis < u32::MAX)?;
    let published = header?.saturating_sub(remaining.into());
    let waited = unix_millis_after(Duration::ZERO).saturating_sub(published);
    Some(Duration::from_millis(u64::try_from(waited).unwrap_or(0)))
}

/// Clock of a server at the moment when it found a deadline to have passed.
#[derive(Debug, thiserror::Error)]
#[error("the server's clock was {ahead_millis} ms ahead of this machine's")]
pub(crate) struct ServerClock {
    /// Lead of the server's clock, less the time that the reply took.
    pub(crate) ahead_millis: i64,
}

impl ServerClock {
    /// Compares the time in a fault, in milliseconds since the Unix epoch, with this machine's.
    pub(crate) fn read(time: i64) -> Self {
        Self {
            ahead_millis: time.saturating_sub(unix_millis_after(Duration::ZERO)),
        }
    }
}

// Texts.

/// Shows a timeout in whole milliseconds, because readers do not need the nanoseconds between a call and its sending.
pub(crate) fn shown(timeout: Duration) -> String {
    let millis = (timeout + Duration::from_micros(500)).as_millis();
    format!(
        "{:?}",
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    )
}

/// Error of a call that had no time left when it was made.
pub(crate) fn passed_before_the_call() -> RpcError {
    RpcError::new(
        ErrorKind::Timeout,
        "the deadline had passed before the call was made; nothing was sent",
    )
    .not_executed()
}

/// Error of a call whose time was used up before its request could be published.
pub(crate) fn passed_before_sending() -> RpcError {
    let reason = "the deadline passed before the request could be sent";
    RpcError::new(ErrorKind::Timeout, reason).not_executed()
}

/// Error of a call that a layer around the client has held until its deadline.
pub(crate) fn passed_in_a_layer() -> RpcError {
    RpcError::new(
        ErrorKind::Timeout,
        "the deadline passed in a layer around the client",
    )
}

/// Error of a direct call, whose handler runs in the caller's process.
pub(crate) fn passed_in_a_direct_call() -> RpcError {
    RpcError::new(ErrorKind::Timeout, "no response before the deadline")
}

/// Error of a direct call whose stream has not ended by the deadline.
pub(crate) fn passed_in_a_direct_stream() -> RpcError {
    RpcError::new(
        ErrorKind::Timeout,
        "the deadline passed before the end of the stream",
    )
}

/// Fault of a request whose deadline has passed for the server.
pub(crate) fn passed_at_the_server() -> RpcError {
    RpcError::new(
        ErrorKind::DeadlineExceeded,
        "the request's deadline had passed by the server's clock",
    )
}

/// Explains the fault of a call whose deadline had passed for the server, with `left` of its time left here; names the server's clock
/// if the clock is the likely cause.
pub(crate) fn passed_early_at_the_server(mut fault: RpcError, left: Duration) -> RpcError {
    let ahead = match fault.take_source() {
        Some(ServerClock { ahead_millis }) => {
            let ahead = Duration::from_millis(u64::try_from(ahead_millis).unwrap_or(0));
            if ahead + CLOCK_TOLERANCE < left {
                return fault; // A timeout of a layer of the server, for instance.
            }
            format!("about {ahead:.1?}")
        }
        // The server does not tell its time.
        None => format!("at least {left:.1?}"),
    };
    let note = format!(
        ", {left:.1?} too early: it probably is {ahead} ahead of this machine's; synchronise the two (NTP)"
    );
    fault.with_note(&note)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_timeout_counts_from_the_first_poll() {
        let mut deadline = Deadline::default();
        deadline.set_timeout(Some(SECOND));
        assert_eq!(deadline.moment(), None);
        tokio::time::advance(SECOND).await;
        deadline.start();
        assert_eq!(deadline.moment(), Some(Instant::now() + SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_own_and_inherited_deadline_applies() {
        let now = Instant::now();
        let mut deadline = Deadline::received(Some(now + 2 * SECOND));
        assert!(!deadline.is_inherited());
        deadline.inherit(Some(now + SECOND));
        assert!(deadline.is_inherited());
        assert_eq!(deadline.moment(), Some(now + SECOND));
        deadline.set_moment(now);
        assert!(!deadline.is_inherited());
        assert_eq!(deadline.moment_or(SECOND, now), now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_default_applies_without_a_deadline_and_ends_with_the_inherited_one() {
        let now = Instant::now();
        let mut deadline = Deadline::default();
        assert_eq!(deadline.moment_or(SECOND, now), now + SECOND);
        deadline.inherit(Some(now + SECOND / 2));
        assert_eq!(deadline.moment_or(SECOND, now), now + SECOND / 2);
        deadline.set_default(Some(now));
        assert_eq!(deadline.moment(), Some(now));
    }

    #[tokio::test(start_paused = true)]
    async fn time_spent_in_layers_counts() {
        let mut deadline = Deadline::default();
        let layered = deadline.enter_layers();
        tokio::time::advance(SECOND).await;
        let now = Instant::now();
        assert_eq!(layered.fixed(), None);
        let moment = deadline.fix(3 * SECOND, now);
        assert_eq!(moment, now + 2 * SECOND);
        assert_eq!(layered.fixed(), Some(moment));
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_answer_is_due_within_the_timeout_and_by_the_deadline() {
        let mut deadline = Deadline::default();
        let layered = deadline.enter_layers();
        tokio::time::advance(SECOND).await;
        let now = Instant::now();
        assert_eq!(deadline.first_answer(3 * SECOND, now), now + 2 * SECOND);
        deadline.set_moment(now + SECOND);
        assert_eq!(deadline.fix_first_answer(3 * SECOND, now), now + SECOND);
        assert_eq!(layered.fixed(), Some(now + SECOND));
        deadline.inherit(Some(now));
        assert_eq!(deadline.first_answer(3 * SECOND, now), now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_arrives_as_wall_clock_time_or_as_expiration() {
        for millis in [0, -1, i64::MIN] {
            assert_eq!(from_wire(Some(millis), None), Some(Instant::now()));
        }
        assert!(from_wire(Some(i64::MAX), None).unwrap() > Instant::now());
        assert_eq!(
            from_wire(None, Some(7)),
            Some(Instant::now() + Duration::from_millis(7))
        );
        assert_eq!(from_wire(None, None), None);
        assert_eq!(expiration(Duration::ZERO), 1);
        assert_eq!(expiration(Duration::MAX), u32::MAX);
    }

    #[test]
    fn the_time_of_publishing_follows_from_deadline_and_expiration() {
        let sent_before = |ago: i64, expiration: u32| {
            let deadline = unix_millis_after(Duration::ZERO) - ago + i64::from(expiration);
            waited(Some(deadline), Some(expiration)).map(|waited| waited.as_millis())
        };
        let waited_for = sent_before(300, 5_000).unwrap();
        assert!((300..400).contains(&waited_for), "{waited_for}");
        // The sender's clock is ahead.
        assert_eq!(sent_before(-300, 5_000), Some(0));
        assert_eq!(sent_before(300, u32::MAX), None);
        assert_eq!(waited(None, Some(1)), None);
        assert_eq!(waited(Some(1), None), None);
    }

    const LEFT: Duration = Duration::from_millis(4900);

    fn refused_at(ahead_millis: i64) -> String {
        let fault = passed_at_the_server().with_source(ServerClock { ahead_millis });
        passed_early_at_the_server(fault, LEFT).to_string()
    }

    #[test]
    fn a_clock_that_is_ahead_is_named_with_the_difference() {
        assert_eq!(
            refused_at(60_000),
            "the request's deadline had passed by the server's clock, 4.9s too early: it probably is about 60.0s ahead of \
             this machine's; synchronise the two (NTP)"
        );
    }

    #[test]
    fn without_the_servers_time_its_clock_is_ahead_by_at_least_the_time_left() {
        let error = passed_early_at_the_server(passed_at_the_server(), LEFT).to_string();
        assert!(error.contains("at least 4.9s ahead"), "{error}");
    }

    #[test]
    fn a_clock_that_is_right_or_behind_or_slightly_ahead_is_not_reported() {
        for ahead in [0, 20, 4_000, -60_000, i64::MIN] {
            assert_eq!(refused_at(ahead), passed_at_the_server().to_string());
        }
    }
}
