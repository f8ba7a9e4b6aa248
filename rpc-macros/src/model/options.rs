//! What may be said in `#[rpc(…)]`, where, and with which values.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::ext::IdentExt as _;
use syn::{Expr, ExprLit, ExprPath, Lit, LitStr, Path};

use crate::mistakes::Mistakes;
use crate::model::duration::parse_millis;
use crate::parse::{Written, module_path};

/// Where an option may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Trait,
    Method,
}

/// All options there are: the name, how it is written, and where. A new option is a line here and an arm in
/// [`Options::set`].
const OPTIONS: &[(&str, &str, &[Level])] = &[
    ("name", r#"name = "…""#, &[Level::Trait, Level::Method]),
    ("queue", r#"queue = "…""#, &[Level::Trait, Level::Method]),
    (
        "timeout",
        r#"timeout = "2s""#,
        &[Level::Trait, Level::Method],
    ),
    ("crate", r#"crate = "…""#, &[Level::Trait]),
    ("oneway", "oneway", &[Level::Method]),
    ("blocking", "blocking", &[Level::Method]),
    ("default", "default", &[Level::Method]),
    ("idempotent", "idempotent", &[Level::Method]),
    ("at_most_once", "at_most_once", &[Level::Method]),
    ("persistent", "persistent", &[Level::Method]),
    ("priority", "priority = 5", &[Level::Method]),
];

/// AMQP's limit for names, in bytes.
const MAX_NAME: usize = 255;

/// The longest name of a queue, in bytes: AMQP's limit without `rpc.cancel.`, with which a server listens for dropped calls.
pub(crate) const MAX_QUEUE: usize = MAX_NAME - "rpc.cancel.".len();

/// The options of one trait or one method. Which of them can be set depends on the level.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) timeout_millis: Option<u64>,
    pub(crate) krate: Option<Path>,
    pub(crate) oneway: Option<Ident>,
    pub(crate) blocking: Option<Ident>,
    pub(crate) default: Option<Ident>,
    pub(crate) idempotent: Option<Ident>,
    pub(crate) at_most_once: Option<Ident>,
    pub(crate) persistent: Option<Ident>,
    pub(crate) priority: Option<u8>,
}

impl Options {
    pub(crate) fn check(written: &[Written], level: Level, mistakes: &mut Mistakes) -> Self {
        let mut options = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for option in written {
            let name = option.name.unraw().to_string();
            let Some((_, usage, levels)) = OPTIONS.iter().find(|(known, ..)| *known == name) else {
                mistakes.at(&option.name, unknown(&name, level));
                continue;
            };
            if seen.contains(&name) {
                mistakes.at(
                    option,
                    format!("the option `{name}` is given twice: remove one"),
                );
                continue;
            }
            if levels.contains(&level) {
                options.set(&name, usage, option, mistakes);
            } else {
                mistakes.at(option, misplaced(&name, usage, level));
            }
            seen.push(name);
        }
        if let (Some(token), Some(_)) = (&options.at_most_once, &options.idempotent) {
            mistakes.at(
                token,
                "`at_most_once` rules out that the method runs twice, and `idempotent` allows it: remove one",
            );
        }
        options
    }

    /// Takes the value of an option that is known here; `usage` shows how it is written.
    fn set(&mut self, name: &str, usage: &str, option: &Written, mistakes: &mut Mistakes) {
        match name {
            "name" => {
                let text = string(option, usage, mistakes);
                self.name = text.filter(|text| is_name(text, mistakes));
            }
            "queue" => {
                let text = string(option, usage, mistakes);
                self.queue = text.filter(|text| is_queue(text, mistakes));
            }
            "timeout" => {
                self.timeout_millis = string(option, usage, mistakes).and_then(|text| {
                    parse_millis(&text.value())
                        .map_err(|message| mistakes.at(&text, message))
                        .ok()
                });
            }
            "crate" => self.krate = path(option, usage, mistakes),
            "priority" => self.priority = byte(option, usage, mistakes),
            "oneway" => self.oneway = flag(option, mistakes),
            "blocking" => self.blocking = flag(option, mistakes),
            "default" => self.default = flag(option, mistakes),
            "idempotent" => self.idempotent = flag(option, mistakes),
            "at_most_once" => self.at_most_once = flag(option, mistakes),
            "persistent" => self.persistent = flag(option, mistakes),
            // Every name in `OPTIONS` has an arm above; the unit test keeps it so.
            _ => {}
        }
    }
}

fn unknown(name: &str, level: Level) -> String {
    let valid: Vec<&str> = OPTIONS
        .iter()
        .filter(|(.., levels)| levels.contains(&level))
        .map(|(name, ..)| *name)
        .collect();
    let owner = match level {
        Level::Trait => "a trait",
        Level::Method => "a method",
    };
    let list = valid
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match closest(name, &valid) {
        Some(closest) => {
            format!(
                "unknown option `{name}`: did you mean `{closest}`? The options of {owner} are {list}"
            )
        }
        None => format!("unknown option `{name}`: the options of {owner} are {list}"),
    }
}

fn misplaced(name: &str, usage: &str, level: Level) -> String {
    match level {
        Level::Trait => format!(
            "`{name}` is an option of methods: put `#[rpc({usage})]` on the method it is meant for"
        ),
        Level::Method => {
            format!("`{name}` is an option of the trait: put `#[rpc({usage})]` above `trait`")
        }
    }
}

/// The name that was probably meant: the one with the fewest letters to change, if they are few or it
/// was only begun.
fn closest<'a>(name: &str, valid: &[&'a str]) -> Option<&'a str> {
    valid
        .iter()
        .map(|candidate| (edit_distance(name, candidate), *candidate))
        .filter(|(distance, candidate)| {
            let is_beginning = name.len() >= 2 && candidate.starts_with(name);
            is_beginning || *distance <= candidate.len() / 3
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: how many letters to insert, remove or replace.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(x != *y))
                .min(left + 1)
                .min(*above + 1);
            diagonal = *above;
            *above = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

fn flag(option: &Written, mistakes: &mut Mistakes) -> Option<Ident> {
    let name = &option.name;
    if option.value.is_some() {
        mistakes.at(
            option,
            format!("`{name}` takes no value: write `{name}`, or leave it out"),
        );
        return None;
    }
    Some(name.clone())
}

fn string(option: &Written, usage: &str, mistakes: &mut Mistakes) -> Option<LitStr> {
    match literal(option) {
        Some(Lit::Str(text)) => return Some(text.clone()),
        _ => mistakes.at(
            wrong_part(option),
            format!("`{}` takes a string: write `{usage}`", option.name),
        ),
    }
    None
}

fn byte(option: &Written, usage: &str, mistakes: &mut Mistakes) -> Option<u8> {
    match literal(option) {
        Some(Lit::Int(number)) if number.suffix().is_empty() => {
            if let Ok(value) = number.base10_parse() {
                return Some(value);
            }
        }
        _ => {}
    }
    mistakes.at(
        wrong_part(option),
        format!(
            "`{}` takes a number from 0 to 255: write `{usage}`",
            option.name
        ),
    );
    None
}

fn path(option: &Written, usage: &str, mistakes: &mut Mistakes) -> Option<Path> {
    let path = match &option.value {
        Some(Expr::Path(ExprPath {
            attrs,
            qself: None,
            path,
        })) if attrs.is_empty() => path
            .segments
            .iter()
            .all(|segment| segment.arguments.is_none())
            .then(|| path.clone()),
        _ => match literal(option) {
            Some(Lit::Str(text)) => module_path(&text.value(), text.span()),
            _ => None,
        },
    };
    if path.is_none() {
        mistakes.at(
            wrong_part(option),
            format!("`crate` takes the path to `rpc_core`: write `{usage}`, such as `crate = \"::renamed\"`"),
        );
    }
    path
}

fn literal(option: &Written) -> Option<&Lit> {
    match &option.value {
        Some(Expr::Lit(ExprLit { attrs, lit })) if attrs.is_empty() => Some(lit),
        _ => None,
    }
}

/// The value if there is one: that is where the mistake is.
fn wrong_part(option: &Written) -> &dyn ToTokens {
    match &option.value {
        Some(value) => value,
        None => option,
    }
}

/// Tells whether AMQP takes this as the name of a method or a service.
fn is_name(text: &LitStr, mistakes: &mut Mistakes) -> bool {
    let len = text.value().len();
    if len > MAX_NAME {
        let message = format!("this name has {len} bytes, and AMQP allows {MAX_NAME}: shorten it");
        mistakes.at(text, message);
        return false;
    }
    is_text(text, "name", mistakes)
}

fn is_queue(text: &LitStr, mistakes: &mut Mistakes) -> bool {
    let queue = text.value();
    if queue.starts_with("amq.") {
        mistakes.at(
            text,
            "AMQP reserves queue names that begin with `amq.` for the broker: choose another",
        );
        return false;
    }
    if queue.len() > MAX_QUEUE {
        let message = format!("this queue has {}: shorten it", too_long(queue.len()));
        mistakes.at(text, message);
        return false;
    }
    is_text(text, "queue", mistakes)
}

/// The reason why a queue's name of that length is refused.
pub(crate) fn too_long(len: usize) -> String {
    format!(
        "{len} bytes, and more than {MAX_QUEUE} leave no room for the names that a server makes from it"
    )
}

fn is_text(text: &LitStr, what: &str, mistakes: &mut Mistakes) -> bool {
    let value = text.value();
    let message = if value.is_empty() {
        format!("a {what} cannot be empty: write one, or leave the option out")
    } else if value.contains('\0') {
        format!("a {what} cannot contain NUL: remove `\\0`")
    } else {
        return true;
    };
    mistakes.at(text, message);
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::options;
    use quote::quote;

    fn check(tokens: proc_macro2::TokenStream, level: Level) -> (Options, Vec<String>) {
        let mut mistakes = Mistakes::default();
        let written = options(tokens, &mut mistakes);
        let options = Options::check(&written, level, &mut mistakes);
        (options, mistakes.messages())
    }

    #[test]
    fn every_option_can_be_written_as_its_usage_says() {
        for (name, usage, levels) in OPTIONS {
            // `…` stands for any text that is right there.
            let tokens: proc_macro2::TokenStream =
                usage.replace('…', "x").parse().expect("usages are tokens");
            for level in *levels {
                let (options, mistakes) = check(tokens.clone(), *level);
                assert_eq!(mistakes, Vec::<String>::new(), "{name}");
                let Options {
                    name: text,
                    queue,
                    timeout_millis,
                    krate,
                    oneway,
                    blocking,
                    default,
                    idempotent,
                    at_most_once,
                    persistent,
                    priority,
                } = options;
                let set = [
                    text.is_some(),
                    queue.is_some(),
                    timeout_millis.is_some(),
                    krate.is_some(),
                    oneway.is_some(),
                    blocking.is_some(),
                    default.is_some(),
                    idempotent.is_some(),
                    at_most_once.is_some(),
                    persistent.is_some(),
                    priority.is_some(),
                ];
                assert_eq!(
                    set.iter().filter(|set| **set).count(),
                    1,
                    "{name} sets nothing"
                );
            }
        }
    }

    #[test]
    fn every_mistake_in_a_list_is_found() {
        let (_, mistakes) = check(
            quote!(nam = "x", queue = 5, timeout, oneway, "what", queue = "q"),
            Level::Trait,
        );
        assert_eq!(mistakes.len(), 6, "{mistakes:#?}");
    }

    #[test]
    fn a_method_is_not_both_repeated_and_never_repeated() {
        let (_, mistakes) = check(quote!(at_most_once, idempotent), Level::Method);
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    }

    #[test]
    fn the_option_that_was_meant_is_suggested() {
        assert_eq!(closest("time_out", &["name", "timeout"]), Some("timeout"));
        assert_eq!(
            closest("prioritty", &["priority", "persistent"]),
            Some("priority")
        );
        assert_eq!(closest("que", &["name", "queue"]), Some("queue"));
        assert_eq!(closest("prio", &["priority"]), Some("priority"));
        assert_eq!(closest("p", &["priority", "persistent"]), None);
        assert_eq!(closest("", &["name"]), None);
        assert_eq!(closest("retries", &["name", "queue", "timeout"]), None);
    }

    #[test]
    fn the_longest_name_has_255_bytes_and_the_longest_queue_244() {
        let refused = |tokens| check(tokens, Level::Method).1.len();
        let name = "é".repeat(127) + "x";
        assert_eq!(refused(quote!(name = #name)), 0);
        let name = name + "x";
        assert_eq!(refused(quote!(name = #name)), 1);
        let queue = "é".repeat(122);
        assert_eq!(refused(quote!(queue = #queue)), 0);
        let queue = queue + "x";
        assert_eq!(refused(quote!(queue = #queue)), 1);
    }
}
