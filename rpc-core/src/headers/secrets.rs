//! Headers whose values are hidden in `Debug` output.

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

/// Secret headers that this program has added, in lower case.
static MORE_SECRET_NAMES: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Hides the values of a header in the `Debug` output of this program.
pub(crate) fn hide(name: &str) {
    let name = name.to_ascii_lowercase();
    let mut names = MORE_SECRET_NAMES.write();
    if !names.contains(&name) {
        names.push(name);
    }
}

/// Returns `true` if the values of a header are to be hidden.
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
