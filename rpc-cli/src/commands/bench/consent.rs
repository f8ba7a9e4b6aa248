//! Consent to calls that may have effects.

use std::io::Write;
use std::time::Duration;

use crate::failure::Failure;
use crate::units;

/// Returns the question about a method that is not known to be idempotent.
pub(super) fn question(
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

/// Asks for consent on the terminal.
///
/// # Errors
///
/// A usage failure if the answer is not yes, or if no terminal can be asked.
pub(super) async fn ask(question: &str, can_ask: bool) -> Result<(), Failure> {
    if !can_ask {
        return Err(Failure::usage(format!("{question}; confirm with --yes")));
    }
    let mut stderr = anstream::stderr();
    write!(
        stderr,
        "{}. Continue? [y/N] ",
        crate::output::visible(question)
    )?;
    stderr.flush()?;
    // Ctrl-C ends the program while the thread waits for a line.
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = reading.await.map_err(std::io::Error::other)??;
    match is_yes(&line) {
        true => Ok(()),
        false => Err(Failure::usage("nothing was called")),
    }
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_consent() {
        assert!(is_yes("y\n") && is_yes(" Yes\r\n"));
        for line in ["", "\n", "n\n", "yep\n", "no\n"] {
            assert!(!is_yes(line), "{line:?}");
        }
    }

    #[tokio::test]
    async fn without_a_terminal_consent_is_an_option() {
        let question = question("Bank.withdraw", true, Some(5), None);
        let failure = ask(&question, false).await.expect_err("a failure");
        assert_eq!(
            failure.to_string(),
            "Bank.withdraw is not marked as idempotent: each call may have an effect, and bench really calls it 5 times; confirm with --yes"
        );
        let limit = Some(Duration::from_secs(10));
        let question = self::question("A.b", false, None, limit);
        assert!(
            question.ends_with("as often as possible for 10.0 s"),
            "{question}"
        );
    }
}
