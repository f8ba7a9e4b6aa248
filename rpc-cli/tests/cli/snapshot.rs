//! Outcomes of the program in files, `tests/snapshots/<name>.txt`.
//!
//! `SNAPSHOTS=overwrite` writes the files again. Read the changes as a user would.

use std::path::Path;

use regex_lite::Regex;
use snapbox::Data;
use snapbox::data::DataFormat;

use crate::program::Outcome;

impl Outcome {
    /// Asserts that the command, its outputs and its exit code are those of a file. Ids, times and addresses are replaced, see [`steady`].
    #[track_caller]
    pub(crate) fn snapshot(&self, name: &str) {
        assert_snapshot(name, &self.to_string());
    }
}

/// Asserts that a text is that of a file, after [`steady`].
#[track_caller]
pub(crate) fn assert_snapshot(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let file = folder.join(name).with_extension("txt");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let expected = Data::read_from(&file, Some(DataFormat::Text)).raw();
    let actual = Data::text(steady(text)).raw();
    snapbox::Assert::new()
        .action_env("SNAPSHOTS")
        .eq(actual, expected);
}

/// Replaces the parts of a text that differ from run to run, and runs of spaces within a line, whose lengths depend on these parts.
pub(crate) fn steady(text: &str) -> String {
    const PARTS: [(&str, &str); 9] = [
        ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[id]"),
        ("127\\.0\\.0\\.1:[0-9]+", "[address]"),
        ("stage-[0-9]+", "[vhost]"),
        ("user-[0-9a-f]+-[0-9a-f]+-[0-9]+", "[user]"),
        ("/[^ ']*/\\.tmp[A-Za-z0-9]{6}", "[home]"),
        ("\\b[0-9a-f]{16}\\b", "[hash]"),
        (
            "\"(secs_since_epoch|nanos_since_epoch|secs|nanos)\": [0-9]+",
            "\"$1\": [number]",
        ),
        (
            "(^|[^\"\\w])[0-9]+(\\.[0-9]+)? ?(ns|µs|ms|s|min|h|d)\\b( [0-9]+ ?(ms|s|min|h|d)\\b)*",
            "$1[time]",
        ),
        ("(\\S)  +", "$1  "),
    ];
    PARTS.iter().fold(text.to_owned(), |text, (part, name)| {
        let part = Regex::new(part).unwrap();
        part.replace_all(&text, *name).into_owned()
    })
}
