//! Standard output: text and tables for people, JSON for programs.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// Standard output. Results go here, and everything else goes to standard error.
///
/// Colours are written only to a terminal, and never with `NO_COLOR`.
pub(crate) struct Output {
    stdout: anstream::AutoStream<io::Stdout>,
    /// Programs read the output.
    is_json: bool,
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Self {
        Self {
            stdout: anstream::AutoStream::auto(io::stdout()),
            is_json,
        }
    }

    /// Returns `true` if programs read the output.
    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Result<(), Failure> {
        writeln!(self.stdout, "{text}")?;
        Ok(self.stdout.flush()?)
    }

    /// Writes a value as JSON, for people to read as well.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(text)
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)?;
        self.line(text)
    }

    /// Clears the terminal, for a text that takes the place of the one before. Returns `false` if the output is no terminal, and does nothing then.
    pub(crate) fn redraw(&mut self) -> Result<bool, Failure> {
        // Moves the cursor to the first place, and clears the screen.
        const CLEAR: &str = "\x1b[H\x1b[2J";
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        if is_terminal {
            // Without colours, `self.stdout` removes all sequences. It keeps no text back, so the order is kept.
            write!(stdout.lock(), "{CLEAR}")?;
        }
        Ok(is_terminal)
    }

    /// Writes a table.
    pub(crate) fn table<const N: usize>(
        &mut self,
        header: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Result<(), Failure> {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(header.map(str::to_uppercase))
            .add_rows(rows.into_iter().map(|row| row.map(|cell| visible(&cell))));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// Writes a remark for people to standard error.
pub(crate) fn note(text: impl fmt::Display) {
    // There is no place left to report a standard error that is closed.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Makes control characters visible. Names and docs come from strangers, and a terminal obeys control characters.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("is_json", &self.is_json)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(visible("a\u{1b}[2Jä\u{9b}\r\n"), r"a\u{1b}[2Jä\u{9b}\r\n");
    }
}
