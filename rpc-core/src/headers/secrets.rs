//! Headers whose values are hidden in `Debug` output, and from programs that watch the calls of a server.

use parking_lot::RwLock;

/// Headers that are always secret, in lower case.
const SECRET_NAMES: [&str; 8] = [
    "authorization",
    "cookie",
    "password",
    "proxy-authorization",
    "secret",
    "set-cookie",
    "token",
    "x-api-key",
];

/// Text in place of a secret value.
pub(crate) const HIDDEN: &str = "<hidden>";

/// Secret headers that this program has added, in lower case.
static MORE_SECRET_NAMES: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Hides the values of a header in the `Debug` output of this program, and from watchers of its calls.
pub(crate) fn hide(name: &str) {
    let name = name.to_ascii_lowercase();
    let mut names = MORE_SECRET_NAMES.write();
    if !names.contains(&name) {
        names.push(name);
    }
}

/// Returns `true` for the name of a header whose value is not shown.
pub(crate) fn is_secret(name: &str) -> bool {
    let is_name = |secret: &str| name.eq_ignore_ascii_case(secret);
    let is_added = || {
        MORE_SECRET_NAMES
            .read()
            .iter()
            .any(|secret| is_name(secret))
    };
    SECRET_NAMES.into_iter().any(is_name) || is_added()
}
