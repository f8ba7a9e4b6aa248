//! Layers of rpc-core: each module names only modules below its own row of the table in ARCHITECTURE.md.
//!
//! The test reads the sources: `use` declarations and paths that begin with `crate`, `self` or `super`, outside of tests. A path
//! to a name that `mod.rs` re-exports counts as an arrow to that `mod.rs`.
//!
//! ```text
//! cargo test -p rpc-tests --test layers
//! ```
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The most files in a circle, all of them in one folder.
const MAX_CIRCLE: usize = 3;

/// A module's path in the crate, such as `transport::amqp::channel`; empty for the root.
type Module = String;

/// Modules of the crate, and the arrows between them.
struct Sources {
    /// The files of modules, without those of tests.
    files: BTreeMap<Module, PathBuf>,
    /// For each module, the modules that it names, with the paths.
    arrows: BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Sources {
    fn read() -> Self {
        let mut sources = Self {
            files: BTreeMap::new(),
            arrows: BTreeMap::new(),
        };
        let mut paths = BTreeMap::new();
        sources.read_module("", &root().join("rpc-core/src/lib.rs"), &mut paths);
        for (module, paths) in paths {
            for path in paths {
                let target = sources.module_of(&path);
                if target != module {
                    let arrows = sources.arrows.entry(module.clone()).or_default();
                    arrows.entry(target).or_default().insert(path.join("::"));
                }
            }
        }
        sources
    }

    /// Reads a file, and those of the modules that it declares.
    fn read_module(
        &mut self,
        module: &str,
        file: &Path,
        paths: &mut BTreeMap<Module, BTreeSet<Vec<String>>>,
    ) {
        let text =
            fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let tokens: TokenStream = text.parse().unwrap();
        let mut found = Found::default();
        found.read(tokens);
        self.files.insert(module.to_owned(), file.to_owned());
        let here: Vec<String> = module
            .split("::")
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        let named = found.paths.iter().filter_map(|path| absolute(&here, path));
        paths.entry(module.to_owned()).or_default().extend(named);
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap();
        let folder = file.parent().unwrap();
        let folder = match stem {
            "lib" | "mod" => folder.to_owned(),
            _ => folder.join(stem),
        };
        for child in found.modules {
            let name = [here.as_slice(), std::slice::from_ref(&child)]
                .concat()
                .join("::");
            let beside = folder.join(format!("{child}.rs"));
            let below = folder.join(&child).join("mod.rs");
            let file = if beside.exists() { beside } else { below };
            self.read_module(&name, &file, paths);
        }
    }

    /// Returns the module that defines or re-exports a path's target.
    fn module_of(&self, path: &[String]) -> Module {
        (0..=path.len())
            .rev()
            .map(|len| path[..len].join("::"))
            .find(|module| self.files.contains_key(module))
            .unwrap_or_default()
    }

    /// Calls a function with every arrow: from, to, and a path.
    fn each(&self, mut call: impl FnMut(&str, &str, &str)) {
        for (from, arrows) in &self.arrows {
            for (to, paths) in arrows {
                call(from, to, paths.first().map_or("", String::as_str));
            }
        }
    }
}

/// Returns a path from the root of the crate.
fn absolute(here: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut parts = path.iter().peekable();
    let mut base = match parts.next()?.as_str() {
        "crate" => Vec::new(),
        "self" => here.to_vec(),
        "super" => here[..here.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    while parts.next_if(|part| *part == "super").is_some() {
        base.pop();
    }
    base.extend(parts.cloned());
    Some(base)
}

/// Paths and modules in the tokens of a file.
#[derive(Default)]
struct Found {
    paths: BTreeSet<Vec<String>>,
    modules: Vec<String>,
}

impl Found {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut is_test = false;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    // Attributes may be inner ones, `#![…]`.
                    at += 1;
                    while !matches!(tokens.get(at), None | Some(TokenTree::Group(_))) {
                        at += 1;
                    }
                    if let Some(TokenTree::Group(attribute)) = tokens.get(at) {
                        let text = attribute.stream().to_string().replace(' ', "");
                        is_test |= text == "cfg(test)" || text.contains("any(test,fuzzing)");
                    }
                    at += 1;
                    continue;
                }
                // A visibility stands between an attribute and its item.
                TokenTree::Ident(word) if word == "pub" => {
                    at += 1;
                    while matches!(tokens.get(at), Some(TokenTree::Group(_))) {
                        at += 1;
                    }
                    continue;
                }
                TokenTree::Ident(word) if word == "mod" => {
                    if let (Some(TokenTree::Ident(name)), Some(next)) =
                        (tokens.get(at + 1), tokens.get(at + 2))
                    {
                        match next {
                            TokenTree::Group(_) if is_test => at += 2,
                            TokenTree::Punct(end) if end.as_char() == ';' => {
                                if !is_test {
                                    self.modules.push(name.to_string());
                                }
                                at += 2;
                            }
                            _ => {}
                        }
                    }
                }
                TokenTree::Ident(word) if word == "use" => {
                    let end = tokens[at..].iter().position(
                        |token| matches!(token, TokenTree::Punct(end) if end.as_char() == ';'),
                    );
                    let end = at + end.unwrap_or(tokens.len() - at);
                    if !is_test && !matches!(tokens.get(at + 1), Some(TokenTree::Punct(_))) {
                        self.add_use(&[], &tokens[at + 1..end]);
                    }
                    at = end;
                }
                TokenTree::Ident(word)
                    if ["crate", "self", "super"].iter().any(|first| word == first) =>
                {
                    let mut path = vec![word.to_string()];
                    while let [
                        TokenTree::Punct(a),
                        TokenTree::Punct(b),
                        TokenTree::Ident(part),
                        ..,
                    ] = &tokens[at + 1..]
                        && a.as_char() == ':'
                        && b.as_char() == ':'
                    {
                        path.push(part.to_string());
                        at += 3;
                    }
                    if path.len() > 1 {
                        self.paths.insert(path);
                    }
                }
                TokenTree::Group(group) => self.read(group.stream()),
                _ => {}
            }
            is_test = false;
            at += 1;
        }
    }

    /// Adds the paths of a tree of names.
    fn add_use(&mut self, before: &[String], tree: &[TokenTree]) {
        let mut path = before.to_vec();
        for token in tree {
            match token {
                TokenTree::Ident(word) if word == "as" => break,
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for branch in inner.split(
                        |token| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ','),
                    ) {
                        if !branch.is_empty() {
                            self.add_use(&path, branch);
                        }
                    }
                    return;
                }
                _ => {}
            }
        }
        // `use super::{self, …}`
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        self.paths.insert(path);
    }
}

/// Returns the rows of the table in ARCHITECTURE.md, from the top, each with its modules.
fn layers() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with("Layers"))
        .expect("a section called Layers");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cell = row.split('|').nth(1).unwrap_or_default();
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    })
    .collect()
}

/// Returns the top-level module that contains a module.
fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

#[test]
fn every_module_names_only_modules_below_it() {
    let layers = layers();
    let row = |module: &str| {
        layers
            .iter()
            .position(|row| row.iter().any(|name| name == module))
    };
    let sources = Sources::read();
    let mut wrong = Vec::new();
    for module in sources
        .files
        .keys()
        .map(|module| top(module))
        .filter(|module| !module.is_empty())
    {
        if row(module).is_none() {
            wrong.push(format!("`{module}` is not in the table of ARCHITECTURE.md"));
        }
    }
    sources.each(|from, to, path| {
        let (above, below) = (top(from), top(to));
        // The root re-exports what is public, and names nothing else.
        if above.is_empty() || above == below {
            return;
        }
        if below.is_empty() {
            wrong.push(format!(
                "{from} -> the root of the crate ({path}): name the module"
            ));
        } else if row(above) >= row(below) {
            wrong.push(format!(
                "{from} -> {to} ({path}): `{below}` is not below `{above}`"
            ));
        }
    });
    assert!(
        wrong.is_empty(),
        "arrows against the layers:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn circles_of_files_are_small_and_stay_in_one_folder() {
    let sources = Sources::read();
    let names = |module: &str| {
        sources
            .arrows
            .get(module)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|to| !to.is_empty())
    };
    let reachable = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&String> = names(from).collect();
        while let Some(module) = open.pop() {
            if seen.insert(module.clone()) {
                open.extend(names(module));
            }
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = sources
        .files
        .keys()
        .map(|module| (module, reachable(module)))
        .collect();
    let mut circles = BTreeSet::new();
    for (module, reached) in &reach {
        let circle: BTreeSet<&String> = reached
            .iter()
            .filter(|other| reach[other].contains(*module))
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    let folder = |module: &String| sources.files[module].parent().map(Path::to_owned);
    let wrong: Vec<String> = circles
        .into_iter()
        .filter(|circle| {
            let folders: BTreeSet<_> = circle.iter().map(|module| folder(module)).collect();
            circle.len() > MAX_CIRCLE || folders.len() > 1
        })
        .map(|circle| {
            let mut arrows = Vec::new();
            sources.each(|from, to, path| {
                if circle.iter().any(|module| *module == from)
                    && circle.iter().any(|module| *module == to)
                {
                    arrows.push(format!("  {from} -> {to} ({path})"));
                }
            });
            format!("{} files:\n{}", circle.len(), arrows.join("\n"))
        })
        .collect();
    assert!(wrong.is_empty(), "circles of files:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_amqp_transport_names_lapin() {
    fn names_lapin(tokens: TokenStream) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(word) => word == "lapin",
            TokenTree::Group(group) => names_lapin(group.stream()),
            _ => false,
        })
    }
    let sources = Sources::read();
    for (module, file) in &sources.files {
        let tokens: TokenStream = fs::read_to_string(file).unwrap().parse().unwrap();
        let may = module.starts_with("transport::amqp");
        assert!(may || !names_lapin(tokens), "`{module}` names lapin");
    }
}

#[test]
fn the_reader_sees_paths_in_code_and_in_macros_and_not_in_tests() {
    let mut found = Found::default();
    let source = r"
        use crate::a::{self, b::{C, D as E}};
        pub(crate) use super::f;
        mod child;
        fn run() -> crate::g::H { format!({}, self::i::j()); }
        /// Like [`crate::doc::Link`].
        fn two(&self) { self.field(); }
        #[cfg(test)]
        mod tests { use crate::k; }
        #[cfg(test)]
        mod model;
    ";
    found.read(source.parse().unwrap());
    let paths: Vec<String> = found.paths.iter().map(|path| path.join("::")).collect();
    let expected = [
        "crate::a",
        "crate::a::b::C",
        "crate::a::b::D",
        "crate::g::H",
        "self::i::j",
        "super::f",
    ];
    assert_eq!(paths, expected);
    assert_eq!(found.modules, ["child"]);
}
