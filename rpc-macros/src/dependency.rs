//! The name under which a crate knows `rpc_core`, where its `Cargo.toml` renames the dependency.
//!
//! A macro cannot ask the compiler that. It runs inside of it, though, and the compiler's arguments say which file is known by which
//! name: `--extern bus=/…/librpc_core-0123456789abcdef.rmeta`. Tools that expand macros by themselves, such as editors, have no such
//! arguments.

use std::env;
use std::ffi::OsStr;
use std::path::Path;

use proc_macro2::Ident;

/// The new name of `rpc_core`. `None` if it has its own name, or is not a dependency.
pub(crate) fn new_name() -> Option<Ident> {
    let arguments = env::args_os();
    let name = new_name_in(arguments.filter_map(|argument| argument.into_string().ok()))?;
    syn::parse_str(&name).ok()
}

fn new_name_in(mut arguments: impl Iterator<Item = String>) -> Option<String> {
    let mut renamed = None;
    while let Some(argument) = arguments.next() {
        let dependency = match argument.strip_prefix("--extern") {
            Some("") => arguments.next()?,
            Some(dependency) if dependency.starts_with('=') => dependency[1..].to_owned(),
            // Such as rustdoc's `--extern-html-root-url`.
            Some(_) | None => continue,
        };
        let (name, file) = match dependency.split_once('=') {
            Some((name, file)) => (name, Path::new(file)),
            None => (dependency.as_str(), Path::new("")),
        };
        // Options may stand before the name, as in `priv:bus`.
        let name = name.rsplit(':').next().unwrap_or(name);
        if name == "rpc_core" {
            return None;
        }
        if is_rpc_core(file) {
            renamed = Some(name.to_owned());
        }
    }
    renamed
}

/// Tells whether a file is `rpc_core` as the compiler names it.
fn is_rpc_core(file: &Path) -> bool {
    let stem = file.file_stem().and_then(OsStr::to_str);
    stem.and_then(|stem| stem.strip_prefix("librpc_core"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::new_name_in;

    fn new_name(arguments: &str) -> Option<String> {
        new_name_in(arguments.split(' ').map(str::to_owned))
    }

    #[test]
    fn the_new_name_is_that_of_the_file() {
        for arguments in [
            "rustc --crate-name app --extern serde=/t/libserde-1.rmeta --extern bus=/t/librpc_core-0a.rmeta src/lib.rs",
            "rustc --extern=bus=/t/librpc_core-0a.rlib --extern proc_macro",
            "rustc --extern priv:bus=/t/librpc_core.rlib",
            "rustdoc --extern-html-root-url serde=https://docs.rs --extern bus=/t/librpc_core-0a.rmeta",
        ] {
            assert_eq!(new_name(arguments).as_deref(), Some("bus"), "{arguments}");
        }
    }

    #[test]
    fn nothing_is_renamed_where_the_own_name_is_there_or_neither_is() {
        for arguments in [
            "rustc --extern rpc_core=/t/librpc_core-0a.rmeta",
            "rustc --extern bus=/t/librpc_core-0a.rmeta --extern rpc_core=/t/librpc_core-0b.rmeta",
            "rustc --extern rpc_core",
            "rustc --extern bus=/t/librpc_core_extras-0a.rmeta --extern other=/t/libother.so",
            "editor --stdio",
            "rustc --extern",
        ] {
            assert_eq!(new_name(arguments), None, "{arguments}");
        }
    }
}
