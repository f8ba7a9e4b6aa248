//! Files that the user names.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use crate::failure::{Exit, Failure};

/// Reads a file of text.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

/// Writes a file of text, and replaces an older one.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| unwritable(path, &error))
}

/// Failure to read a file.
pub(crate) fn unreadable(path: &Path, error: &dyn Display) -> Failure {
    let path = path.display();
    Failure::new(Exit::Failed, format!("cannot read {path}: {error}"))
}

/// Failure to write a file, or into a folder.
pub(crate) fn unwritable(path: &Path, error: &dyn Display) -> Failure {
    let path = path.display();
    Failure::new(Exit::Failed, format!("cannot write {path}: {error}"))
}
