//! Ranges of integers.

use std::fmt;

use serde_json::{Number, Value};

use super::node::Node;

/// The integers that a schema allows.
#[derive(PartialEq)]
pub(super) struct Range {
    pub(super) min: i128,
    pub(super) max: u128,
}

impl Range {
    /// Returns `None` for limits that are not integers.
    pub(super) fn of(node: &Node<'_>) -> Option<Self> {
        if node.rest.contains_key("exclusiveMinimum") || node.rest.contains_key("exclusiveMaximum")
        {
            return None;
        }
        let minimum = |number: &Number| {
            number
                .as_i64()
                .map(i128::from)
                .or(number.as_u64().map(i128::from))
        };
        let maximum = |number: &Number| number.as_u64().map(u128::from);
        if let Some(Value::Number(number)) = node.constant {
            let min = minimum(number)?;
            return Some(Self {
                min,
                max: u128::try_from(min).unwrap_or(0),
            });
        }
        let format = node.rest.get("format").and_then(|it| it.as_str());
        let mut range = match format {
            Some("int8") => Self::signed(8),
            Some("int16") => Self::signed(16),
            Some("int32") => Self::signed(32),
            Some("int64" | "int") => Self::signed(64),
            Some("uint8") => Self::unsigned(8),
            Some("uint16") => Self::unsigned(16),
            Some("uint32") => Self::unsigned(32),
            Some("uint64" | "uint") => Self::unsigned(64),
            Some("uint128") => Self::unsigned(128),
            Some("int128") => Self::signed(128),
            _ => Self {
                min: i128::MIN,
                max: u128::MAX,
            },
        };
        if let Some(limit) = node.rest.get("minimum") {
            range.min = range.min.max(limit.as_number().and_then(minimum)?);
        }
        if let Some(limit) = node.rest.get("maximum") {
            range.max = range.max.min(limit.as_number().and_then(maximum)?);
        }
        Some(range)
    }

    fn signed(bits: u32) -> Self {
        let max = i128::MAX >> (128 - bits);
        Self {
            min: -max - 1,
            max: max.unsigned_abs(),
        }
    }

    fn unsigned(bits: u32) -> Self {
        Self {
            min: 0,
            max: u128::MAX >> (128 - bits),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}
