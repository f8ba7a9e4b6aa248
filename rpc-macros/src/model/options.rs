//! Options of `#[rpc(…)]`: their names, places and values.

use proc_macro2::Ident;
use quote::ToTokens;
use syn::ext::IdentExt as _;
use syn::{Expr, ExprLit, ExprPath, Lit, LitStr, Path};

use crate::diagnostics::Diagnostics;
use crate::model::duration::parse_millis;
use crate::names::{
    BROKER_QUEUE_PREFIX, MAX_NAME, MAX_QUEUE_NAME, MAX_SERVICE_NAME, METHOD_PREFIX,
};
use crate::parse::{RawOption, module_path};

/// The place of an option.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Trait,
    Method,
}

/// All options: name, usage and places. A new option is a line here and an arm in [`Options::set`].
const OPTIONS: &[(&str, &str, &[Level])] = &[
    ("name", r#"name = "…""#, &[Level::Trait, Level::Method]),
    ("queue", r#"queue = "…""#, &[Level::Trait, Level::Method]),
    (
        "timeout",
        r#"timeout = "2s""#,
        &[Level::Trait, Level::Method],
    ),
    ("version", r#"version = "…""#, &[Level::Trait]),
    ("crate", r#"crate = "…""#, &[Level::Trait]),
    ("oneway", "oneway", &[Level::Method]),
    ("blocking", "blocking", &[Level::Method]),
    ("default", "default", &[Level::Method]),
    ("idempotent", "idempotent", &[Level::Method]),
    ("at_most_once", "at_most_once", &[Level::Method]),
    ("persistent", "persistent", &[Level::Method]),
    ("priority", "priority = 5", &[Level::Method]),
];

/// The options of one trait or one method. The level determines the options that can be set.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) timeout_millis: Option<u64>,
    pub(crate) version: Option<LitStr>,
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
    pub(crate) fn check(
        written: &[RawOption],
        level: Level,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let mut options = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for option in written {
            let name = option.name.unraw().to_string();
            let Some((_, usage, levels)) = OPTIONS.iter().find(|(known, ..)| *known == name) else {
                diagnostics.at(&option.name, unknown(&name, level));
                continue;
            };
            if seen.contains(&name) {
                diagnostics.at(
                    option,
                    format!("the option `{name}` is set twice: remove one"),
                );
                continue;
            }
            if levels.contains(&level) {
                options.set(&name, usage, option, level, diagnostics);
            } else {
                diagnostics.at(option, misplaced(&name, usage, level));
            }
            seen.push(name);
        }
        if let (Some(token), Some(_)) = (&options.at_most_once, &options.idempotent) {
            diagnostics.at(
                token,
                "`at_most_once` contradicts `idempotent`, which allows a method to run twice: remove one",
            );
        }
        options
    }

    /// Sets an option that is valid at this level. `usage` is shown in errors.
    fn set(
        &mut self,
        name: &str,
        usage: &str,
        option: &RawOption,
        level: Level,
        diagnostics: &mut Diagnostics,
    ) {
        match name {
            "name" => {
                let text = string(option, usage, diagnostics);
                self.name = text.filter(|text| is_name(text, level, diagnostics));
            }
            "queue" => {
                let text = string(option, usage, diagnostics);
                self.queue = text.filter(|text| is_queue(text, diagnostics));
            }
            "timeout" => {
                self.timeout_millis = string(option, usage, diagnostics).and_then(|text| {
                    parse_millis(&text.value())
                        .map_err(|message| diagnostics.at(&text, message))
                        .ok()
                });
            }
            "version" => {
                let text = string(option, usage, diagnostics);
                self.version = text.filter(|text| is_text(text, "version", diagnostics));
            }
            "crate" => self.krate = path(option, usage, diagnostics),
            "priority" => self.priority = byte(option, usage, diagnostics),
            "oneway" => self.oneway = flag(option, diagnostics),
            "blocking" => self.blocking = flag(option, diagnostics),
            "default" => self.default = flag(option, diagnostics),
            "idempotent" => self.idempotent = flag(option, diagnostics),
            "at_most_once" => self.at_most_once = flag(option, diagnostics),
            "persistent" => self.persistent = flag(option, diagnostics),
            // Every name in `OPTIONS` has an arm above, as a unit test shows.
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
        Level::Trait => {
            format!("`{name}` is an option of methods: put `#[rpc({usage})]` above a method")
        }
        Level::Method => {
            format!("`{name}` is an option of the trait: put `#[rpc({usage})]` above `trait`")
        }
    }
}

/// Returns the valid name that is closest to an unknown one: a completion, or a name with few letters to change.
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

/// Levenshtein's distance: the number of letters to insert, remove or replace.
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

fn flag(option: &RawOption, diagnostics: &mut Diagnostics) -> Option<Ident> {
    let name = &option.name;
    if option.value.is_some() {
        diagnostics.at(
            option,
            format!("`{name}` takes no value: write `{name}`, or remove it"),
        );
        return None;
    }
    Some(name.clone())
}

fn string(option: &RawOption, usage: &str, diagnostics: &mut Diagnostics) -> Option<LitStr> {
    match literal(option) {
        Some(Lit::Str(text)) => return Some(text.clone()),
        _ => diagnostics.at(
            wrong_part(option),
            format!("`{}` takes a string: write `{usage}`", option.name),
        ),
    }
    None
}

fn byte(option: &RawOption, usage: &str, diagnostics: &mut Diagnostics) -> Option<u8> {
    match literal(option) {
        Some(Lit::Int(number)) if number.suffix().is_empty() => {
            if let Ok(value) = number.base10_parse() {
                return Some(value);
            }
        }
        _ => {}
    }
    diagnostics.at(
        wrong_part(option),
        format!(
            "`{}` takes a number from 0 to 255: write `{usage}`",
            option.name
        ),
    );
    None
}

fn path(option: &RawOption, usage: &str, diagnostics: &mut Diagnostics) -> Option<Path> {
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
        diagnostics.at(
            wrong_part(option),
            format!("`crate` takes the path to `rpc_core`: write `{usage}`, such as `crate = \"::renamed\"`"),
        );
    }
    path
}

fn literal(option: &RawOption) -> Option<&Lit> {
    match &option.value {
        Some(Expr::Lit(ExprLit { attrs, lit })) if attrs.is_empty() => Some(lit),
        _ => None,
    }
}

/// Returns the tokens to mark for an invalid value: the value, or the whole option if it has none.
fn wrong_part(option: &RawOption) -> &dyn ToTokens {
    match &option.value {
        Some(value) => value,
        None => option,
    }
}

/// Returns `true` if the text can be the name of a service or a method on the wire.
fn is_name(text: &LitStr, level: Level, diagnostics: &mut Diagnostics) -> bool {
    let name = text.value();
    let len = name.len();
    let message = match level {
        Level::Trait if len > MAX_SERVICE_NAME => Some(too_long_service(len)),
        Level::Method if len > MAX_NAME => Some(format!(
            "this name has {len} bytes, and AMQP allows {MAX_NAME}: shorten the name"
        )),
        _ => None,
    };
    if let Some(message) = message {
        diagnostics.at(text, message);
        return false;
    }
    if level == Level::Method && name.starts_with(METHOD_PREFIX) {
        diagnostics.at(text, reserved_method(&name));
        return false;
    }
    is_text(text, "name", diagnostics)
}

/// Describes the length of a service's name that is too long.
pub(crate) fn too_long_service(len: usize) -> String {
    format!(
        "this name has {len} bytes, and at most {MAX_SERVICE_NAME} are allowed, because servers derive a longer name from it: shorten the name"
    )
}

fn reserved_method(name: &str) -> String {
    let free = name.trim_start_matches(METHOD_PREFIX);
    let advice = match free {
        "" => "write another name".to_owned(),
        free => format!("write `name = \"{free}\"`"),
    };
    format!(
        "method names that begin with `{METHOD_PREFIX}` are reserved for built-in methods: {advice}"
    )
}

fn is_queue(text: &LitStr, diagnostics: &mut Diagnostics) -> bool {
    let queue = text.value();
    if queue.starts_with(BROKER_QUEUE_PREFIX) {
        let message = format!(
            "AMQP reserves queue names that begin with `{BROKER_QUEUE_PREFIX}` for the broker: write another name"
        );
        diagnostics.at(text, message);
        return false;
    }
    if queue.len() > MAX_QUEUE_NAME {
        let message = format!(
            "this queue name has {}: shorten the name",
            too_long(queue.len())
        );
        diagnostics.at(text, message);
        return false;
    }
    is_text(text, "queue name", diagnostics)
}

/// Describes the length of a queue's name that is too long.
pub(crate) fn too_long(len: usize) -> String {
    format!(
        "{len} bytes, and at most {MAX_QUEUE_NAME} are allowed, because servers derive longer names from it"
    )
}

fn is_text(text: &LitStr, what: &str, diagnostics: &mut Diagnostics) -> bool {
    let value = text.value();
    let message = if value.is_empty() {
        format!("a {what} cannot be empty: write a {what}, or remove the option")
    } else if value.contains('\0') {
        format!("a {what} cannot contain NUL: remove `\\0`")
    } else {
        return true;
    };
    diagnostics.at(text, message);
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::options;
    use quote::quote;

    fn check(tokens: proc_macro2::TokenStream, level: Level) -> (Options, Vec<String>) {
        let mut diagnostics = Diagnostics::default();
        let written = options(tokens, &mut diagnostics);
        let options = Options::check(&written, level, &mut diagnostics);
        (options, diagnostics.messages())
    }

    #[test]
    fn every_usage_text_is_accepted() {
        for (name, usage, levels) in OPTIONS {
            // `…` stands for any valid text.
            let tokens: proc_macro2::TokenStream =
                usage.replace('…', "x").parse().expect("usages are tokens");
            for level in *levels {
                let (options, diagnostics) = check(tokens.clone(), *level);
                assert_eq!(diagnostics, Vec::<String>::new(), "{name}");
                let Options {
                    name: text,
                    queue,
                    timeout_millis,
                    version,
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
                    version.is_some(),
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
    fn all_errors_in_a_list_are_reported() {
        let (_, diagnostics) = check(
            quote!(nam = "x", queue = 5, timeout, oneway, "what", queue = "q"),
            Level::Trait,
        );
        assert_eq!(diagnostics.len(), 6, "{diagnostics:#?}");
    }

    #[test]
    fn at_most_once_contradicts_idempotent() {
        let (_, diagnostics) = check(quote!(at_most_once, idempotent), Level::Method);
        assert_eq!(diagnostics.len(), 1, "{diagnostics:#?}");
    }

    #[test]
    fn unknown_options_suggest_the_closest_valid_option() {
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
    fn names_have_at_most_255_bytes_and_queues_244() {
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

    #[test]
    fn names_of_services_have_at_most_241_bytes() {
        let refused = |name: String| check(quote!(name = #name), Level::Trait).1.len();
        assert_eq!(refused("x".repeat(241)), 0);
        assert_eq!(refused("x".repeat(242)), 1);
    }

    #[test]
    fn method_names_must_not_begin_with_the_reserved_prefix() {
        let messages = |name: &str, level| check(quote!(name = #name), level).1;
        for (name, advice) in [
            ("rpc.ping", "write `name = \"ping\"`"),
            ("rpc.rpc.ping", "write `name = \"ping\"`"),
            ("rpc.", "write another name"),
        ] {
            let messages = messages(name, Level::Method);
            assert!(
                messages.len() == 1 && messages[0].ends_with(advice),
                "{name}: {messages:?}"
            );
        }
        for name in ["rpc", "rpcping", "Rpc.ping", "my.rpc.ping"] {
            assert_eq!(messages(name, Level::Method), Vec::<String>::new());
        }
        assert_eq!(messages("rpc.Fib", Level::Trait), Vec::<String>::new());
    }
}
