//! The name of `rpc_core` in the crate that is compiled, where `Cargo.toml` may rename the dependency.
//!
//! The compiler has no interface for this question. But a macro runs inside the compiler's process, and the compiler's
//! arguments map names to files: `--extern bus=/…/librpc_core-0123456789abcdef.rmeta`. Tools that expand macros in another
//! process, such as editors, have no such arguments; the name is then `rpc_core`.

use std::env;
use std::ffi::OsStr;
use std::path::Path;

/// The name of `rpc_core` in the crate that is compiled.
#[derive(Debug, PartialEq)]
pub(crate) enum Name {
    /// `rpc_core`, or unknown.
    Own,
    /// Another name, given in `Cargo.toml`.
    New(String),
    /// No name: the crate has dependencies, and `rpc_core` is not among them.
    Missing,
}

/// Returns the name of `rpc_core` in the crate that is compiled.
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
        // Options may precede the name, as in `priv:bus`.
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

/// Returns `true` if the arguments name all dependencies of the crate.
fn are_all(arguments: &[String]) -> bool {
    let is_rpc_core = values(arguments, "--crate-name").any(|name| name == "rpc_core");
    // A file may hold more arguments. rustdoc passes one for examples in docs.
    let has_more = arguments.iter().any(|argument| argument.starts_with('@'));
    values(arguments, "--extern").next().is_some() && !is_rpc_core && !has_more
}

/// Returns the values of an option, in the forms `--option=value` and `--option value`.
fn values<'a>(arguments: &'a [String], option: &str) -> impl Iterator<Item = &'a str> {
    let nexts = arguments.iter().skip(1).map(Some).chain([None]);
    arguments
        .iter()
        .zip(nexts)
        .filter_map(
            move |(argument, next)| match argument.strip_prefix(option)? {
                "" => next.map(String::as_str),
                // Without `=`, it is another option, such as rustdoc's `--extern-html-root-url`.
                rest => rest.strip_prefix('='),
            },
        )
}

/// Returns `true` if the compiler would give this file name to `rpc_core`.
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
    fn renamed_dependency_is_found_by_its_file() {
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
    fn name_is_rpc_core_if_present_or_if_dependencies_are_unknown() {
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
    fn dependency_is_missing_if_only_others_are_listed() {
        for arguments in [
            "rustc --crate-name app --extern facade=/t/libfacade-0a.rmeta src/lib.rs",
            "rustc --extern bus=/t/librpc_core_extras-0a.rmeta --extern other=/t/libother.so",
        ] {
            assert_eq!(name(arguments), Name::Missing, "{arguments}");
        }
    }
}
