//! The contract of a service as the text of a trait.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use rpc_core::instances::{ArgumentInfo, MethodInfo, MethodKind, ServiceInfo};

use crate::description::returned_type;
use crate::output::visible;
use crate::target::default_queue;

/// Longest line of a method's signature that stays one line.
const WIDTH: usize = 100;

/// Writes the trait.
pub(super) fn text(service: &ServiceInfo) -> String {
    let mut text = String::new();
    text += match service.methods.iter().any(|it| it.kind.has_stream()) {
        true => "use rpc_core::{Stream, rpc};\n\n",
        false => "use rpc_core::rpc;\n\n",
    };
    push_docs(&mut text, "", service.docs.as_deref());
    let ident = identifier(&service.name);
    let common = common_timeout(service);
    push_attribute(
        &mut text,
        "",
        "#[rpc]\n",
        service_options(service, &ident, common),
    );
    text += &format!("pub trait {ident} {{\n");
    for (index, method) in service.methods.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        push_docs(&mut text, "    ", method.docs.as_deref());
        let is_only = service.methods.len() == 1;
        let options = method_options(method, common, is_only);
        push_attribute(&mut text, "    ", "", options);
        text += &signature(method);
    }
    text += "}\n";
    text
}

/// Writes a doc comment. Blank lines and lines that begin with a space keep their form.
fn push_docs(text: &mut String, indent: &str, docs: Option<&str>) {
    for line in docs.unwrap_or_default().lines() {
        // A carriage return would end the comment's line for the compiler.
        let line = visible(line.trim_end());
        let space = if line.is_empty() { "" } else { " " };
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{indent}///{space}{line}");
    }
}

/// Writes `#[rpc(…)]`, or `empty` without any option.
fn push_attribute(text: &mut String, indent: &str, empty: &str, options: Vec<String>) {
    match options.is_empty() {
        true => text.push_str(empty),
        false => {
            let _ = writeln!(text, "{indent}#[rpc({})]", options.join(", "));
        }
    }
}

fn service_options(service: &ServiceInfo, ident: &str, timeout: Option<Duration>) -> Vec<String> {
    let mut options = Vec::new();
    if ident.trim_start_matches("r#") != service.name {
        options.push(format!("name = {}", literal(&service.name)));
    }
    if service.queue != default_queue(&service.name) {
        options.push(format!("queue = {}", literal(&service.queue)));
    }
    options.extend(timeout.map(timeout_option));
    if !service.version.is_empty() {
        options.push(format!("version = {}", literal(&service.version)));
    }
    options
}

/// Returns a timeout for the trait, which methods without one of their own inherit: the one that most methods have.
fn common_timeout(service: &ServiceInfo) -> Option<Duration> {
    let mut counts = BTreeMap::<Duration, usize>::new();
    for method in &service.methods {
        // A method without a timeout shows that the trait has none.
        *counts.entry(method.timeout?).or_default() += 1;
    }
    let (timeout, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (count > 1).then_some(timeout)
}

fn method_options(method: &MethodInfo, common: Option<Duration>, is_only: bool) -> Vec<String> {
    let mut options = Vec::new();
    if identifier(&method.name).trim_start_matches("r#") != method.name {
        options.push(format!("name = {}", literal(&method.name)));
    }
    if let Some(queue) = &method.queue {
        options.push(format!("queue = {}", literal(queue)));
    }
    if method.timeout != common {
        options.extend(method.timeout.map(timeout_option));
    }
    // The only method of a trait is the default without the option.
    let flags = [
        (method.kind == MethodKind::Oneway, "oneway"),
        (method.default && !is_only, "default"),
        (method.idempotent, "idempotent"),
        (method.at_most_once, "at_most_once"),
        (method.persistent, "persistent"),
    ];
    options.extend(
        flags
            .iter()
            .filter(|(is_set, _)| *is_set)
            .map(|(_, flag)| (*flag).to_owned()),
    );
    options.extend(
        method
            .priority
            .map(|priority| format!("priority = {priority}")),
    );
    options
}

/// Writes a timeout in the largest unit that divides it.
fn timeout_option(timeout: Duration) -> String {
    let millis = timeout.as_millis();
    let (number, unit) = match millis {
        _ if millis.is_multiple_of(3_600_000) => (millis / 3_600_000, "h"),
        _ if millis.is_multiple_of(60_000) => (millis / 60_000, "m"),
        _ if millis.is_multiple_of(1000) => (millis / 1000, "s"),
        _ => (millis, "ms"),
    };
    format!("timeout = \"{number}{unit}\"")
}

fn signature(method: &MethodInfo) -> String {
    let arguments: Vec<_> = method.arguments.iter().map(argument).collect();
    let start = format!("    async fn {}(", identifier(&method.name));
    let end = match returned_type(method) {
        Some(result) => format!(") -> {result};\n"),
        None => ");\n".to_owned(),
    };
    let line = format!("{start}{}{end}", arguments.join(", "));
    match line.chars().count() > WIDTH && !arguments.is_empty() {
        false => line,
        true => {
            let lines = arguments.iter().map(|it| format!("        {it},\n"));
            format!("{start}\n{}    {end}", lines.collect::<String>())
        }
    }
}

fn argument(argument: &ArgumentInfo) -> String {
    let ident = identifier(&argument.name);
    let ty = visible(&argument.ty.rust);
    if argument.stream {
        return format!("{ident}: impl Stream<Item = {ty}>");
    }
    let mut attributes = Vec::new();
    if ident.trim_start_matches("r#") != argument.name {
        attributes.push(format!("rename = {}", literal(&argument.name)));
    }
    // An `Option` may be left out without the attribute.
    if argument.optional && !ty.starts_with("Option<") {
        attributes.push("default".to_owned());
    }
    match attributes.is_empty() {
        true => format!("{ident}: {ty}"),
        false => format!("#[serde({})] {ident}: {ty}", attributes.join(", ")),
    }
}

fn literal(text: &str) -> String {
    format!("{text:?}")
}

/// Returns a name as Rust accepts it. Characters that Rust does not accept become underscores, and an option tells the name.
fn identifier(name: &str) -> String {
    let mut ident: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    // The macro refuses arguments that begin with an underscore.
    let begins = ident
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic());
    if !begins {
        ident.insert(0, 'n');
    }
    match ident.as_str() {
        "self" | "Self" | "super" | "crate" => ident + "_",
        word if KEYWORDS.contains(&word) => format!("r#{word}"),
        _ => ident,
    }
}

/// The words that are identifiers only after `r#`.
const KEYWORDS: [&str; 48] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let",
    "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return",
    "static", "struct", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use",
    "virtual", "where", "while", "yield",
];

#[cfg(test)]
mod tests;
