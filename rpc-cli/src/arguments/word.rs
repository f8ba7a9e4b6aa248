//! The words of a command line that stand for arguments.

use crate::failure::Failure;

/// A word that stands for an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Name of the argument; `None` if its position names it.
    pub(super) name: Option<String>,
    pub(super) content: Content,
}

/// Content of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// JSON or a text: the argument's type tells which.
    Plain(String),
    /// JSON, whatever the type is.
    Json(String),
}

impl Word {
    /// Parses a word. `read` returns the content of a file.
    pub(super) fn parse(
        word: &str,
        read: &mut dyn FnMut(&str) -> std::io::Result<String>,
    ) -> Result<Self, Failure> {
        let Some((name, content)) = word.split_once('=') else {
            return Ok(Self::positional(word));
        };
        let (name, is_json) = match name.strip_suffix(':') {
            Some(name) => (name, true),
            None => (name, false),
        };
        if !is_name(name) {
            return Ok(Self::positional(word));
        }
        let content = match content.strip_prefix('@') {
            Some(file) => read(file).map_err(|error| {
                Failure::usage(format!(
                    "argument '{name}': the file '{file}' cannot be read: {error}; a text that begins with @ is written as \
                     {name}:='\"@{file}\"'"
                ))
            })?,
            None => content.to_owned(),
        };
        Ok(Self {
            name: Some(name.to_owned()),
            content: match is_json {
                true => Content::Json(content),
                false => Content::Plain(content),
            },
        })
    }

    fn positional(word: &str) -> Self {
        Self {
            name: None,
            content: Content::Plain(word.to_owned()),
        }
    }
}

/// Returns `true` for a text that can be the name of an argument: a name of Rust, or a renamed one such as `order-id`.
fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || "_-".contains(c))
}
