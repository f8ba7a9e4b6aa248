//! Header tables, walked without recursion and without allocation.
//!
//! lapin's parser recurses into each nested table or array, on a thread whose stack cannot be enlarged, and drops the connection
//! over one value of an unknown type.

use super::text;
use crate::headers::{self, MAX_DEPTH};

/// Limit of values in a header table, at all depths together: the user's limit, and room for the headers of the protocol and the
/// broker.
const MAX_VALUES: usize = headers::MAX_VALUES + headers::OTHER_VALUES;

/// A defect for which lapin cannot read a table, or should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    TooDeep,
    TooMany,
    UnknownType,
    Overrun,
}

impl Defect {
    /// Describes the defect for the receiver of the message.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::TooDeep => "nested more than 32 deep",
            Self::TooMany => "too many values",
            Self::UnknownType => "a value of an unknown type",
            Self::Overrun => "a length that goes beyond its end",
        }
    }
}

/// Turns the keys of a table (without its length) into UTF-8, and checks that lapin can read the table.
pub(super) fn check(table: &mut [u8]) -> Result<(), Defect> {
    let mut walk = Walk::new(table, MAX_VALUES);
    while let Some(step) = walk.step(table) {
        match step {
            Step::Value(_) | Step::Open(_) | Step::Close => {}
            Step::TooDeep(_) => return Err(Defect::TooDeep),
            Step::Cut(defect) => return Err(defect),
        }
    }
    Ok(())
}

/// Appends the readable part of a table (without its length) to `out`, with its length. Adds the text of `mark` under its name, in
/// place of the table's own value.
pub(super) fn rewrite(table: &mut [u8], mark: Option<(&str, &str)>, out: &mut Vec<u8>) {
    // Positions of the lengths of open tables and arrays.
    let mut open = vec![begin(out)];
    let mut walk = Walk::new(table, MAX_VALUES - 1); // The mark counts as one.
    while let Some(step) = walk.step(table) {
        match step {
            Step::Value(entry) => {
                if !(open.len() == 1 && entry.has_key(table, mark)) {
                    out.extend_from_slice(&table[entry.start..entry.end]);
                }
            }
            Step::Open(entry) => {
                if open.len() == 1 && entry.has_key(table, mark) {
                    walk.pass_by(&entry);
                } else {
                    out.extend_from_slice(&table[entry.start..=entry.tag]);
                    open.push(begin(out));
                }
            }
            Step::Close => end(out, open.pop()),
            Step::TooDeep(entry) => {
                out.extend_from_slice(&table[entry.start..entry.tag]);
                out.push(b'V');
            }
            Step::Cut(_) => {}
        }
    }
    if let Some((name, text)) = mark {
        short_string(out, name);
        out.push(b'S');
        let length = begin(out);
        out.extend_from_slice(text.as_bytes());
        end(out, Some(length));
    }
    end(out, open.pop());
}

/// Reserves room for a length.
fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len()
}

/// Writes the length of the bytes that were appended since `begin`.
fn end(out: &mut [u8], begun: Option<usize>) {
    let Some(begun) = begun else { return };
    // At most the bytes that were read and a mark: a frame's length has four bytes.
    let length = u32::try_from(out.len() - begun).unwrap_or(u32::MAX);
    out[begun - 4..begun].copy_from_slice(&length.to_be_bytes());
}

/// Appends the name of a mark, which is short.
fn short_string(out: &mut Vec<u8>, name: &str) {
    out.extend(u8::try_from(name.len()));
    out.extend_from_slice(name.as_bytes());
}

/// A value, with its key if it is in a table. Positions are those in the outermost table.
struct Entry {
    start: usize,
    tag: usize,
    end: usize,
    nested: Option<Nested>,
}

#[derive(Clone, Copy)]
enum Nested {
    Table,
    Array,
}

impl Entry {
    /// Reads the entry at `start` of a container that ends with `bytes`.
    fn read(bytes: &mut [u8], start: usize, container: Nested) -> Result<Self, Defect> {
        let mut tag = start;
        if let Nested::Table = container {
            let length = usize::from(*bytes.get(start).ok_or(Defect::Overrun)?);
            tag = start + 1 + length;
            text::repair(bytes.get_mut(start + 1..tag).ok_or(Defect::Overrun)?);
        }
        let content = bytes.get(tag + 1..).ok_or(Defect::Overrun)?;
        let nested = match bytes[tag] {
            b'F' => Some(Nested::Table),
            b'A' => Some(Nested::Array),
            _ => None,
        };
        // lapin knows the types that RabbitMQ sends (<https://www.rabbitmq.com/amqp-0-9-1-errata>).
        let length = match bytes[tag] {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'S' | b'x' | b'F' | b'A' => {
                let length = content.first_chunk().ok_or(Defect::Overrun)?;
                4_usize.saturating_add(u32::from_be_bytes(*length) as usize)
            }
            _ => return Err(Defect::UnknownType),
        };
        if length > content.len() {
            return Err(Defect::Overrun);
        }
        Ok(Self {
            start,
            tag,
            end: tag + 1 + length,
            nested,
        })
    }

    fn has_key(&self, table: &[u8], mark: Option<(&str, &str)>) -> bool {
        mark.is_some_and(|(name, _)| table[self.start + 1..self.tag] == *name.as_bytes())
    }
}

/// A step through a table.
enum Step {
    Value(Entry),
    /// A table or an array; its entries follow.
    Open(Entry),
    /// The end of the innermost open table or array.
    Close,
    /// A table or an array that is nested too deep. Its entries are skipped.
    TooDeep(Entry),
    /// The rest of the innermost table or array cannot be read.
    Cut(Defect),
}

struct Walk {
    levels: [Level; MAX_DEPTH + 1],
    depth: usize,
    at: usize,
    values_left: usize,
    is_full: bool,
}

#[derive(Clone, Copy)]
struct Level {
    container: Nested,
    end: usize,
}

impl Walk {
    fn new(table: &[u8], max_values: usize) -> Self {
        let outermost = Level {
            container: Nested::Table,
            end: table.len(),
        };
        Self {
            levels: [outermost; MAX_DEPTH + 1],
            depth: 0,
            at: 0,
            values_left: max_values,
            is_full: false,
        }
    }

    /// The next step; `None` at the end of the outermost table.
    fn step(&mut self, table: &mut [u8]) -> Option<Step> {
        let level = self.levels[self.depth];
        if self.is_full {
            self.at = level.end;
        }
        if self.at == level.end {
            self.depth = self.depth.checked_sub(1)?;
            return Some(Step::Close);
        }
        if self.values_left == 0 {
            self.is_full = true;
            return Some(Step::Cut(Defect::TooMany));
        }
        self.values_left -= 1;
        let entry = match Entry::read(&mut table[..level.end], self.at, level.container) {
            Ok(entry) => entry,
            Err(defect) => {
                self.at = level.end;
                return Some(Step::Cut(defect));
            }
        };
        let Some(container) = entry.nested else {
            self.at = entry.end;
            return Some(Step::Value(entry));
        };
        if self.depth == MAX_DEPTH {
            self.at = entry.end;
            return Some(Step::TooDeep(entry));
        }
        self.depth += 1;
        self.levels[self.depth] = Level {
            container,
            end: entry.end,
        };
        self.at = entry.tag + 5; // After the length.
        Some(Step::Open(entry))
    }

    /// Skips the entries of the table or array that was just opened.
    fn pass_by(&mut self, opened: &Entry) {
        self.depth -= 1;
        self.at = opened.end;
    }
}
