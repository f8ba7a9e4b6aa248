//! The name under which a crate knows `rpc_core`: its own, one that `Cargo.toml` gives the dependency, or none.
//!
//! A macro cannot ask the compiler that. It runs inside of it, though, and the compiler's arguments say which file is known by which
//! name: `--extern bus=/…/librpc_core-0123456789abcdef.rmeta`. Tools that expand macros by themselves, such as editors, have no such
//! arguments.

use std::env;
use std::ffi::OsStr;
use std::path::Path;

/// The name of `rpc_core` in the crate that is compiled.
#[derive(Debug, PartialEq)]
pub(crate) enum Name {
    /// Its own, as far as the arguments tell.
    Own,
    New(String),
    /// None: the crate has dependencies, and `rpc_core` is not among them.
    Missing,
}

pub(crate) fn name() -> Name {
    let arguments = env::args_os();
    let arguments: Vec<_> = arguments
        .filter_map(|argument| argument.into_string().ok())
        .collect();
    name_in(&arguments)
}

fn name_in(arguments: &[String]) -> Name {
    let mut name = Name::Missing;
    for dependency in values(arguments, "--extern") {
        let (known_as, file) = dependency.split_once('=').unwrap_or((dependency, ""));
        // Options may stand before the name, as in `priv:bus`.
        let known_as = known_as.rsplit(':').next().unwrap_or(known_as);
        if known_as == "rpc_core" {
            return Name::Own;
        }
        if is_rpc_core(Path::new(file)) {
            name = Name::New(known_as.to_owned());
        }
    }
    if name == Name::Missing && !are_all(arguments) {
        return Name::Own;
    }
    name
}

/// Tells whether the arguments name every dependency by which the crate could know `rpc_core`.
fn are_all(arguments: &[String]) -> bool {
    let is_rpc_core = values(arguments, "--crate-name").any(|name| name == "rpc_core");
    // More arguments are in a file, as for the examples in docs.
    let has_more = arguments.iter().any(|argument| argument.starts_with('@'));
    values(arguments, "--extern").next().is_some() && !is_rpc_core && !has_more
}

/// The values of an option, which stand behind it or in the next argument.
fn values<'a>(arguments: &'a [String], option: &str) -> impl Iterator<Item = &'a str> {
    let nexts = arguments.iter().skip(1).map(Some).chain([None]);
    arguments
        .iter()
        .zip(nexts)
        .filter_map(
            move |(argument, next)| match argument.strip_prefix(option)? {
                "" => next.map(String::as_str),
                // Without `=` another option, such as rustdoc's `--extern-html-root-url`.
                rest => rest.strip_prefix('='),
            },
        )
}

/// Tells whether a file is `rpc_core` as the compiler names it.
fn is_rpc_core(file: &Path) -> bool {
    let stem = file.file_stem().and_then(OsStr::to_str);
    stem.and_then(|stem| stem.strip_prefix("librpc_core"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::{Name, name_in};

    fn name(arguments: &str) -> Name {
        let arguments: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
        name_in(&arguments)
    }

    #[test]
    fn the_new_name_is_that_of_the_file() {
        for arguments in [
            "rustc --crate-name app --extern serde=/t/libserde-1.rmeta --extern bus=/t/librpc_core-0a.rmeta src/lib.rs",
            "rustc --extern=bus=/t/librpc_core-0a.rlib --extern proc_macro",
            "rustc --extern priv:bus=/t/librpc_core.rlib",
            "rustdoc --extern-html-root-url serde=https://docs.rs --extern bus=/t/librpc_core-0a.rmeta",
        ] {
            assert_eq!(name(arguments), Name::New("bus".to_owned()), "{arguments}");
        }
    }

    #[test]
    fn nothing_is_renamed_where_the_own_name_is_there_or_dependencies_are_not_known() {
        for arguments in [
            "rustc --extern rpc_core=/t/librpc_core-0a.rmeta",
            "rustc --extern bus=/t/librpc_core-0a.rmeta --extern rpc_core=/t/librpc_core-0b.rmeta",
            "rustc --extern rpc_core",
            "rustc --crate-name rpc_core --extern serde=/t/libserde-1.rmeta src/lib.rs",
            "rustc --crate-name=rpc_core --extern serde=/t/libserde-1.rmeta src/lib.rs",
            "rustc @/t/rustdoc-cfgs --extern doctest_bundle=/t/libdoctest_bundle.rmeta",
            "editor --stdio",
            "rustc --extern",
        ] {
            assert_eq!(name(arguments), Name::Own, "{arguments}");
        }
    }

    #[test]
    fn a_crate_with_other_dependencies_alone_does_not_know_it() {
        for arguments in [
            "rustc --crate-name app --extern facade=/t/libfacade-0a.rmeta src/lib.rs",
            "rustc --extern bus=/t/librpc_core_extras-0a.rmeta --extern other=/t/libother.so",
        ] {
            assert_eq!(name(arguments), Name::Missing, "{arguments}");
        }
    }
}
