//! Entry points for fuzzers (see `fuzz/`): for all tokens, the attribute returns items or an error, and never panics.

use proc_macro2::{Delimiter, Group, Ident, Literal, Punct, Spacing, Span, TokenStream, TokenTree};

use crate::{parse, pipeline};

/// Runs the attribute on text: the first line holds the options, the rest the item.
pub(crate) fn macro_text(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let (options, item) = text.split_once('\n').unwrap_or(("", text));
    if let (Ok(options), Ok(item)) = (options.parse(), item.parse()) {
        check(options, item);
    }
}

/// Runs the attribute on a trait of tokens that the macro or its parser knows. Each byte picks a token.
pub(crate) fn macro_tokens(picks: &[u8]) {
    let mut picks = picks.iter();
    let options = tokens(&mut picks, 0);
    let head = tokens(&mut picks, 0);
    let body = Group::new(Delimiter::Brace, tokens(&mut picks, 0));
    let item = "trait T".parse::<TokenStream>();
    let item = item.into_iter().flatten().chain(head);
    check(options, item.chain([TokenTree::from(body)]).collect());
}

/// Returns the tokens for the picks up to the next end of a group.
fn tokens(picks: &mut std::slice::Iter<'_, u8>, depth: usize) -> TokenStream {
    /// Deeper than real code nests, and far from a stack overflow.
    const MAX_DEPTH: usize = 24;
    const WORDS: &[&str] = &[
        "async",
        "fn",
        "self",
        "Self",
        "mut",
        "pub",
        "const",
        "unsafe",
        "extern",
        "type",
        "where",
        "for",
        "dyn",
        "impl",
        "crate",
        "super",
        "static",
        "ref",
        "in",
        "as",
        "move",
        "macro_rules",
        "auto",
        "default",
        "safe",
        "gen",
        "r#type",
        "_",
        "rpc",
        "ctx",
        "serde",
        "rename",
        "doc",
        "cfg",
        "cfg_attr",
        "deprecated",
        "allow",
        "cold",
        "must_use",
        "test",
        "feature",
        "name",
        "queue",
        "timeout",
        "oneway",
        "blocking",
        "idempotent",
        "at_most_once",
        "persistent",
        "priority",
        "version",
        "Result",
        "Option",
        "Vec",
        "String",
        "u64",
        "str",
        "Context",
        "Send",
        "Sync",
        "Sized",
        "T",
        "U",
        "E",
        "a",
        "b",
        "_c",
        "new",
        "into",
        "with_queue",
        "fib",
        "FibClient",
        "__rpc",
        "__Service",
        "true",
        "__Handler",
        "skip",
        "with",
        "flatten",
        "alias",
        "Stream",
        "Item",
    ];
    const LITERALS: &[&str] = &[
        "",
        "s",
        "5s",
        "1.5ms",
        "18446744073709551616h",
        "rpc.Fib",
        "::a::b",
        "crate",
        "ä\0",
        "_x",
    ];
    const PUNCTUATION: &[u8] = b":;,.=<>&*+-#!?|'$@~^/%";

    let mut tokens = TokenStream::new();
    while let Some(&pick) = picks.next() {
        let choice = usize::from(pick);
        let token: TokenTree = match pick {
            0 => break,
            1..=4 => {
                let delimiter = match pick {
                    1 => Delimiter::Parenthesis,
                    2 => Delimiter::Brace,
                    3 => Delimiter::Bracket,
                    _ => Delimiter::None,
                };
                if depth == MAX_DEPTH {
                    continue;
                }
                Group::new(delimiter, self::tokens(picks, depth + 1)).into()
            }
            5..=7 => {
                tokens.extend(
                    [
                        Punct::new(':', Spacing::Joint),
                        Punct::new(':', Spacing::Alone),
                    ]
                    .map(TokenTree::from),
                );
                continue;
            }
            8..=10 => {
                tokens.extend(
                    [
                        Punct::new('-', Spacing::Joint),
                        Punct::new('>', Spacing::Alone),
                    ]
                    .map(TokenTree::from),
                );
                continue;
            }
            11..=63 => {
                let byte = PUNCTUATION[choice % PUNCTUATION.len()];
                let spacing = match byte {
                    b'\'' => Spacing::Joint,
                    _ => Spacing::Alone,
                };
                Punct::new(byte.into(), spacing).into()
            }
            64..=79 => Literal::string(LITERALS[choice % LITERALS.len()]).into(),
            80 => Literal::u64_unsuffixed(u64::MAX).into(),
            81 => Literal::i32_suffixed(256).into(),
            82 => Literal::f64_unsuffixed(0.5).into(),
            83 => Literal::byte_string(b"s").into(),
            84 => Literal::character('c').into(),
            85.. => match WORDS[choice % WORDS.len()] {
                word if word.starts_with("r#") => {
                    Ident::new_raw(&word[2..], Span::call_site()).into()
                }
                word => Ident::new(word, Span::call_site()).into(),
            },
        };
        tokens.extend([token]);
    }
    tokens
}

fn check(options: TokenStream, item: TokenStream) {
    let is_trait = parse::item_trait(item.clone()).is_ok();
    let expanded = pipeline::run(options, item);
    if (is_trait || !expanded.to_string().contains("compile_error"))
        && let Err(error) = syn::parse2::<syn::File>(expanded.clone())
    {
        panic!("the expansion is not valid Rust: {error}: {expanded}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The last line of the output names a seed that fails.
    #[test]
    fn all_seeds_expand_to_items_or_an_error() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, target) in [
            ("macro_text", super::macro_text as fn(&[u8])),
            ("macro_tokens", super::macro_tokens),
        ] {
            let mut seeds = 0;
            for seed in fs::read_dir(corpus.join(name)).unwrap() {
                let path = seed.unwrap().path();
                println!("{}", path.display());
                target(&fs::read(path).unwrap());
                seeds += 1;
            }
            assert!(seeds > 0, "{name} has no seeds");
        }
    }
}
