//! Standard output: text and tables for people, JSON for programs.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use terminal_size::{Height, Width};
use unicode_width::UnicodeWidthChar;

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
        self.line(escaped(&text))
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)?;
        self.json_text(&text)
    }

    /// Writes a value that is JSON already as one line.
    pub(crate) fn json_text(&mut self, json: &str) -> Result<(), Failure> {
        self.line(one_line(&escaped(json)))
    }

    /// Writes a table.
    pub(crate) fn table<const N: usize>(
        &mut self,
        header: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Result<(), Failure> {
        for line in table(header, rows) {
            self.line(line)?;
        }
        Ok(())
    }

    /// Writes lines that take the place of the ones before. On a terminal, lines that have no room are left out, and the last line tells their
    /// number. Otherwise an empty line stands between two writes.
    pub(crate) fn redraw(&mut self, mut lines: Vec<String>) -> Result<(), Failure> {
        // Moves the cursor to the first place, and clears the screen.
        const CLEAR: &str = "\x1b[H\x1b[2J";
        let stdout = io::stdout();
        match stdout.is_terminal() {
            true => {
                // A terminal without a size gets all lines.
                if let Some((width, height)) = terminal_size() {
                    cut(&mut lines, width, height);
                }
                // Without colours, `self.stdout` removes all sequences. It keeps no text back, so the order is kept.
                write!(stdout.lock(), "{CLEAR}")?;
            }
            false => lines.push(String::new()),
        }
        for line in lines {
            self.line(line)?;
        }
        Ok(())
    }
}

/// Returns the columns and rows of the terminal; `None` if standard output is no terminal, or one without a size.
pub(crate) fn terminal_size() -> Option<(usize, usize)> {
    let (Width(columns), Height(rows)) = terminal_size::terminal_size_of(io::stdout())?;
    Some((columns.into(), rows.into()))
}

/// Leaves out the parts of lines, and the lines, that have no room in a terminal. The cursor takes the last line.
fn cut(lines: &mut Vec<String>, width: usize, height: usize) {
    for line in &mut *lines {
        line.truncate(fitting(line, width).len());
    }
    let room = height.saturating_sub(1);
    if room > 0 && lines.len() > room {
        let left_out = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(format!("… {left_out} more lines"));
    }
}

/// Returns the beginning of a text that fits into a number of columns.
pub(crate) fn fitting(text: &str, columns: usize) -> &str {
    let mut taken = 0;
    for (at, character) in text.char_indices() {
        taken += character.width().unwrap_or(0);
        if taken > columns {
            return &text[..at];
        }
    }
    text
}

/// Returns the lines of a table.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Vec<String> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        // Cells that are broken into lines are hard to read, and programs such as `grep` see half of them.
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.map(str::to_uppercase))
        .add_rows(rows.into_iter().map(|row| row.map(|cell| visible(&cell))));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect()
}

/// Writes a remark for people to standard error. Control characters are made visible, except for ends of lines.
pub(crate) fn note(text: impl fmt::Display) {
    let text = text.to_string();
    // There is no place left to report a standard error that is closed.
    let _ = writeln!(anstream::stderr(), "{}", visible_lines(&text));
}

/// Makes control characters visible in a text that may have several lines.
pub(crate) fn visible_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(visible).collect();
    lines.join("\n")
}

/// Escapes the control characters that JSON allows in texts: a terminal obeys some of them.
fn escaped(json: &str) -> Cow<'_, str> {
    let is_control = |c: char| ('\u{7f}'..='\u{9f}').contains(&c);
    if !json.contains(is_control) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match is_control(c) {
            true => escaped += &format!("\\u{:04x}", u32::from(c)),
            false => escaped.push(c),
        }
    }
    escaped.into()
}

/// Returns JSON without ends of lines between its parts. Texts have none.
pub(crate) fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

/// Makes control characters visible. Names and docs come from other programs, and a terminal obeys control characters.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() || is_direction(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Returns `true` for marks of the direction of writing, which can show a text in another order than it has.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
    fn lines_without_room_are_counted() {
        let after = |count: usize, height| {
            let mut lines = vec!["line".to_owned(); count];
            cut(&mut lines, 80, height);
            (lines.len(), lines.pop().unwrap_or_default())
        };
        assert_eq!(after(4, 5), (4, "line".to_owned()));
        assert_eq!(after(5, 5), (4, "… 2 more lines".to_owned()));
        assert_eq!(after(9, 2), (1, "… 9 more lines".to_owned()));
        assert_eq!(after(2, 1), (2, "line".to_owned()));
    }

    #[test]
    fn lines_are_cut_by_columns() {
        assert_eq!(fitting("abc", 3), "abc");
        assert_eq!(fitting("abcd", 3), "abc");
        // Two columns each.
        assert_eq!(fitting("日本語", 5), "日本");
        assert_eq!(fitting("→x", 1), "→");
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(visible("a\u{1b}[2Jä\u{9b}\r\n"), r"a\u{1b}[2Jä\u{9b}\r\n");
        assert_eq!(visible("a\u{202e}b"), r"a\u{202e}b");
        assert_eq!(visible_lines("a\r\nb\u{1b}"), "a\\r\nb\\u{1b}");
    }

    #[test]
    fn json_of_strangers_is_one_line_without_control_characters() {
        let json = "{\n\t\"a\": \"\u{9b}2J\u{7f}ä\\n\" }\r\n";
        let written = one_line(&escaped(json));
        assert_eq!(written, "{ \t\"a\": \"\\u009b2J\\u007fä\\n\" }  ");
        let value = |json| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(value(&written), value(json));
    }
}
