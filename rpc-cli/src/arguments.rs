//! Arguments of a call: from the words of a command line, or from JSON, checked against the description of the method.
//!
//! The check is as strict as the description allows. A type is checked by its schema, else by its name if that is a type of the standard
//! library. Other types are not checked here, but by the server.

mod expected;
mod shown;
#[cfg(test)]
mod tests;
mod word;

use std::io;

use rpc_core::instances::{ArgumentInfo, MethodInfo};
use serde_json::{Map, Value};

use self::expected::Expected;
use self::shown::shown;
use self::word::{Content, Word};
use crate::failure::Failure;
use crate::output::visible;
use crate::units::count;

/// Help for the words that stand for arguments.
pub(crate) const HELP: &str = "\
Arguments of the method, in one of these forms:

  30 Zoë            values in the order of the trait
  n=30 name=Zoë     values by name; may follow values by position
  '{\"n\":30}'        one JSON object: all arguments by name
  '[30,\"Zoë\"]'      one JSON array: all arguments in the order of the trait
  -                 JSON from standard input

A value is a text if the type of the argument is one, so that name=30 is \"30\" for a String and 30 for a u64. Other values are JSON, and a text \
if they are not JSON. Of a value by name:

  note=@FILE        the content of a file instead of the value
  item:='{\"id\":1}'  JSON, whatever the type is
  item:=@FILE       a file with JSON

A method with one argument also takes an object or an array that fits this argument. A text that contains '=' needs its name: filter=a=b.";

/// Similarity from which a name is suggested for another: 1 means equality.
const SIMILAR: f64 = 0.7;

/// Returns `true` if the words ask for JSON from standard input, for [`check`].
pub(crate) fn is_stdin(words: &[String]) -> bool {
    words == ["-"]
}

/// Returns the arguments that words stand for, as in [`HELP`]: an object, or without a description possibly an array in the order of the
/// trait. Reads the files that words name.
///
/// # Errors
///
/// One failure names every argument that is missing, unknown, given twice or of the wrong type.
pub(crate) fn parse(words: &[String], method: Option<&MethodInfo>) -> Result<Value, Failure> {
    parse_with(words, method, &mut |file| std::fs::read_to_string(file))
}

fn parse_with(
    words: &[String],
    method: Option<&MethodInfo>,
    read: &mut dyn FnMut(&str) -> io::Result<String>,
) -> Result<Value, Failure> {
    if let [word] = words
        && word.trim_start().starts_with(['{', '['])
        && let Ok(value) = serde_json::from_str(word)
    {
        return check(value, method);
    }
    let words = words.iter().map(|word| Word::parse(word, read));
    let words: Vec<_> = words.collect::<Result<_, _>>()?;
    match method {
        Some(method) => Signature::of(method).parse(words),
        None => undescribed(words),
    }
}

/// Returns arguments that are JSON as an object, after a check against the description. An array has the order of the trait, and any other
/// value is the only argument.
///
/// # Errors
///
/// As those of [`parse`].
pub(crate) fn check(value: Value, method: Option<&MethodInfo>) -> Result<Value, Failure> {
    match method {
        Some(method) => Signature::of(method).check(value),
        None if value.is_object() || value.is_array() => Ok(value),
        None => Ok(Value::Array(vec![value])),
    }
}

/// The items that a method takes in a stream from its caller.
#[derive(Debug)]
pub(crate) struct Items(Option<Expected>);

impl Items {
    /// Returns the items of a method. Every item fits a method without a stream argument.
    pub(crate) fn of(method: &MethodInfo) -> Self {
        let mut arguments = method.arguments.iter();
        let stream = arguments.find(|argument| argument.stream);
        Self(stream.map(|stream| Expected::of(&stream.ty, method)))
    }

    /// Checks an item. `number` counts from 1.
    pub(crate) fn check(&self, number: u64, item: &Value) -> Result<(), Failure> {
        let problem = self.0.as_ref().and_then(|it| it.problem(item));
        match problem {
            Some(problem) => Err(Failure::usage(format!("item {number}: {problem}"))),
            None => Ok(()),
        }
    }
}

/// Returns arguments whose types and order are not known.
fn undescribed(words: Vec<Word>) -> Result<Value, Failure> {
    let (mut by_position, mut by_name) = (Vec::new(), Map::new());
    for word in words {
        let value = match word.content {
            Content::Plain(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            Content::Json(text) => json(&text).map_err(Failure::usage)?,
        };
        match word.name {
            None => by_position.push(value),
            Some(name) if by_name.contains_key(&name) => {
                let text = format!("argument '{}' is given twice", visible(&name));
                return Err(Failure::usage(text));
            }
            Some(name) => {
                by_name.insert(name, value);
            }
        }
    }
    match (by_position.is_empty(), by_name.is_empty()) {
        (true, _) => Ok(Value::Object(by_name)),
        (false, true) => Ok(Value::Array(by_position)),
        (false, false) => Err(Failure::usage(
            "some arguments are given by position and others by name, but no description tells their order: name all of them",
        )),
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| {
        format!(
            "the text after := is not JSON: {}",
            visible(&error.to_string())
        )
    })
}

/// A value for an argument.
struct Given {
    name: Option<String>,
    content: GivenContent,
}

enum GivenContent {
    Word(Content),
    Value(Value),
}

impl Given {
    fn value(name: Option<String>, value: Value) -> Self {
        let content = GivenContent::Value(value);
        Self { name, content }
    }
}

/// The arguments that a method takes, without a stream.
struct Signature<'a> {
    method: &'a MethodInfo,
    arguments: Vec<(&'a ArgumentInfo, Expected)>,
}

impl<'a> Signature<'a> {
    fn of(method: &'a MethodInfo) -> Self {
        let arguments = method.arguments.iter().filter(|argument| !argument.stream);
        let expected = |argument: &'a ArgumentInfo| Expected::of(&argument.ty, method);
        Self {
            method,
            arguments: arguments.map(|it| (it, expected(it))).collect(),
        }
    }

    fn parse(&self, words: Vec<Word>) -> Result<Value, Failure> {
        let given = words.into_iter().map(|word| Given {
            name: word.name,
            content: GivenContent::Word(word.content),
        });
        self.bind(given).map_err(|problems| self.failure(&problems))
    }

    fn check(&self, value: Value) -> Result<Value, Failure> {
        let bound = match &value {
            Value::Object(map) => {
                let entries = map.clone().into_iter();
                self.bind(entries.map(|(name, value)| Given::value(Some(name), value)))
            }
            Value::Array(values) => {
                self.bind(values.iter().map(|it| Given::value(None, it.clone())))
            }
            _ => self.bind([Given::value(None, value.clone())]),
        };
        match bound {
            Err(_) if self.is_single(&value) => self
                .bind([Given::value(None, value)])
                .map_err(|problems| self.failure(&problems)),
            bound => bound.map_err(|problems| self.failure(&problems)),
        }
    }

    /// Returns `true` if an object or array is the value of the only argument that is needed.
    fn is_single(&self, value: &Value) -> bool {
        let Some(((_, expected), others)) = self.arguments.split_first() else {
            return false;
        };
        // A misspelt name is no field of a value.
        let mut keys = value.as_object().into_iter().flat_map(Map::keys);
        others.iter().all(|(argument, _)| argument.optional)
            && !keys.any(|key| self.similar(key).is_some())
            && expected.fits(value)
    }

    /// Assigns values to the arguments, and returns them as an object, or all problems.
    fn bind(&self, given: impl IntoIterator<Item = Given>) -> Result<Value, Vec<String>> {
        let mut values: Vec<Option<Value>> = self.arguments.iter().map(|_| None).collect();
        let (mut problems, mut positions, mut has_names) = (Vec::new(), 0, false);
        for Given { name, content } in given {
            let index = match &name {
                Some(name) => {
                    has_names = true;
                    let index = self.position(name);
                    if index.is_none() {
                        problems.push(self.unknown(name));
                    }
                    index
                }
                None if has_names => {
                    let text = content.shown();
                    problems.push(format!("{text} follows values by name: give its name too"));
                    None
                }
                None => {
                    positions += 1;
                    Some(positions - 1)
                }
            };
            // A value by position may have no argument: see below.
            let argument =
                index.and_then(|index| self.arguments.get(index).zip(values.get_mut(index)));
            let Some(((argument, expected), place)) = argument else {
                continue;
            };
            let label = format!("argument '{}'", visible(&argument.name));
            if place.is_some() {
                problems.push(format!("{label} is given twice"));
                continue;
            }
            let value = match content {
                GivenContent::Value(value) => Ok(value),
                GivenContent::Word(Content::Plain(text)) => Ok(expected.read(&text)),
                GivenContent::Word(Content::Json(text)) => json(&text),
            };
            let problem = match &value {
                Ok(value) => expected.problem(value),
                Err(problem) => Some(problem.clone()),
            };
            problems.extend(problem.map(|problem| format!("{label}: {problem}")));
            *place = Some(value.unwrap_or_default());
        }
        if positions > values.len() {
            let (given, taken) = (count(positions, "value"), count(values.len(), "argument"));
            problems.push(format!("{given} by position, but the method has {taken}"));
        }
        let mut map = Map::new();
        for ((argument, expected), value) in self.arguments.iter().zip(values) {
            match value {
                Some(value) => {
                    map.insert(argument.name.clone(), value);
                }
                None if argument.optional => {}
                None => {
                    let name = visible(&argument.name);
                    problems.push(format!("argument '{name}' is missing: expected {expected}"));
                }
            }
        }
        match problems.is_empty() {
            true => Ok(Value::Object(map)),
            false => Err(problems),
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        let mut arguments = self.arguments.iter();
        arguments.position(|(argument, _)| argument.name == name)
    }

    /// Returns the name of an argument that resembles another name most.
    fn similar(&self, name: &str) -> Option<&str> {
        let names = self.arguments.iter().map(|(argument, _)| &*argument.name);
        let scores = names.map(|it| (strsim::jaro_winkler(it, name), it));
        let best = scores.max_by(|(a, _), (b, _)| a.total_cmp(b));
        best.filter(|(score, _)| *score > SIMILAR).map(|(_, it)| it)
    }

    fn unknown(&self, name: &str) -> String {
        let mut arguments = self.method.arguments.iter();
        let name_shown = visible(name);
        if arguments.any(|argument| argument.stream && argument.name == name) {
            return format!("'{name_shown}' is a stream: its items are not among the arguments");
        }
        match self.similar(name) {
            Some(similar) => {
                let similar = visible(similar);
                format!("unknown argument '{name_shown}': did you mean '{similar}'?")
            }
            None => format!("unknown argument '{name_shown}'"),
        }
    }

    fn failure(&self, problems: &[String]) -> Failure {
        let arguments = self.arguments.iter().map(|(argument, _)| {
            let sign = if argument.optional { "?" } else { "" };
            format!(
                "{}{sign}: {}",
                visible(&argument.name),
                visible(&argument.ty.rust)
            )
        });
        let arguments: Vec<_> = arguments.collect();
        Failure::usage(format!(
            "the arguments do not fit {}({}):\n  {}",
            visible(&self.method.name),
            arguments.join(", "),
            problems.join("\n  ")
        ))
    }
}

impl GivenContent {
    fn shown(&self) -> String {
        match self {
            Self::Value(value) => shown(value),
            Self::Word(Content::Plain(text) | Content::Json(text)) => {
                shown(&Value::from(text.as_str()))
            }
        }
    }
}
