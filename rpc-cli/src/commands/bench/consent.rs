//! Reason for which a run needs a confirmation.

use std::time::Duration;

use crate::units;

/// Returns the reason to confirm calls of a method that is not known to be idempotent.
pub(super) fn reason(
    name: &str,
    is_described: bool,
    count: Option<u64>,
    limit: Option<Duration>,
) -> String {
    let reason = match is_described {
        true => "is not marked as idempotent",
        false => "is not described by any server, and may not be idempotent",
    };
    let calls = match (count, limit) {
        (Some(1), _) => "once".to_owned(),
        (Some(count), _) => format!("{count} times"),
        (None, limit) => {
            let limit = units::duration(limit.unwrap_or_default());
            format!("as often as possible for {limit}")
        }
    };
    format!("{name} {reason}: each call may have an effect, and bench really calls it {calls}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_the_number_of_calls_or_their_time() {
        assert_eq!(
            reason("Bank.withdraw", true, Some(5), None),
            "Bank.withdraw is not marked as idempotent: each call may have an effect, and bench really calls it 5 times"
        );
        let limit = Some(Duration::from_secs(10));
        let reason = reason("A.b", false, None, limit);
        assert!(
            reason.ends_with("as often as possible for 10.0 s"),
            "{reason}"
        );
    }
}
