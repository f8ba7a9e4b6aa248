//! Questions on the terminal before something is destroyed, or may have effects.

use std::io::{self, IsTerminal, Write};

use crate::failure::{Exit, Failure};
use crate::output::visible;

/// Fails if no terminal can be asked. The reason tells why the command asks.
pub(crate) fn require_terminal(reason: &str) -> Result<(), Failure> {
    match io::stdin().is_terminal() && io::stderr().is_terminal() {
        true => Ok(()),
        false => Err(without_terminal(reason)),
    }
}

fn without_terminal(reason: &str) -> Failure {
    Failure::usage(format!(
        "{reason}, and there is no terminal to ask for confirmation: repeat the command with --yes"
    ))
}

/// Asks a question that the user answers with yes or no.
///
/// # Errors
///
/// A failure if the answer is not yes.
pub(crate) async fn ask(question: &str) -> Result<(), Failure> {
    let mut stderr = anstream::stderr();
    write!(stderr, "{} [y/N] ", visible(question))?;
    stderr.flush()?;
    // Ctrl-C ends the program while the thread waits for a line.
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = reading.await.map_err(io::Error::other)??;
    match is_yes(&line) {
        true => Ok(()),
        false => Err(Failure::new(
            Exit::Failed,
            "the answer was not yes: nothing was done",
        )),
    }
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_a_confirmation() {
        assert!(is_yes("y\n") && is_yes(" Yes\r\n"));
        for line in ["", "\n", "n\n", "yep\n", "no\n"] {
            assert!(!is_yes(line), "{line:?}");
        }
    }

    #[test]
    fn without_a_terminal_an_option_confirms() {
        let failure = without_terminal("drop destroys letters");
        assert_eq!(failure.exit(), Exit::Usage);
        assert_eq!(
            failure.to_string(),
            "drop destroys letters, and there is no terminal to ask for confirmation: repeat the command with --yes"
        );
    }
}
