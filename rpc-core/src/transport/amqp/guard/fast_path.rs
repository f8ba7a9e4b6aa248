//! Fast path for frames that need no repair, which are nearly all. Other frames are checked more closely.

/// `basic.deliver`
const DELIVER: [u8; 4] = [0, 60, 0, 60];

/// Length in bytes up to which a table cannot have too many values.
const SHORT_TABLE: usize = 2_000;

/// Recognizes the method frame of a delivery with only ASCII in its texts.
pub(super) fn is_delivery(payload: &[u8]) -> bool {
    let rest = payload.strip_prefix(&DELIVER);
    let rest = rest.and_then(after_text); // The consumer's tag.
    let rest = rest.and_then(|rest| rest.get(9..)); // The delivery's, and a flag.
    let rest = rest.and_then(after_text).and_then(after_text); // Exchange and routing key.
    rest.is_some_and(<[u8]>::is_empty)
}

/// Recognizes a header frame with only ASCII in its texts and no tables or arrays in its headers.
pub(super) fn is_header(payload: &[u8]) -> bool {
    // Class, weight and the body's size come first.
    let Some((flags, rest)) = payload.get(12..).and_then(<[u8]>::split_first_chunk) else {
        return false;
    };
    let mut flags = u16::from_be_bytes(*flags) & !0b11; // Two have no meaning.
    let mut rest = Some(rest);
    while flags != 0 {
        let property = flags.leading_zeros();
        flags &= !(0x8000 >> property);
        rest = rest.and_then(|rest| match property {
            2 => after_table(rest),
            3 | 4 => rest.get(1..),
            9 => rest.get(8..),
            _ => after_text(rest),
        });
    }
    rest.is_some_and(<[u8]>::is_empty)
}

/// The bytes after a short string of ASCII.
#[inline]
fn after_text(bytes: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(length.into())?;
    is_ascii(text).then_some(rest)
}

/// The bytes after a long string.
fn after_long(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.get(u32::from_be_bytes(*length) as usize..)
}

/// The bytes after a table without nested tables and arrays.
fn after_table(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (mut table, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    if table.len() > SHORT_TABLE {
        return None;
    }
    while !table.is_empty() {
        let (&kind, value) = after_text(table)?.split_first()?;
        table = match kind {
            b'S' | b'x' => after_long(value),
            b't' | b'b' | b'B' => value.get(1..),
            b's' | b'U' | b'u' => value.get(2..),
            b'I' | b'i' | b'f' => value.get(4..),
            b'l' | b'L' | b'd' | b'T' => value.get(8..),
            _ => None,
        }?;
    }
    Some(rest)
}

/// The same as [`<[u8]>::is_ascii`], but faster for short texts, which are most of the cost of a message.
#[inline]
fn is_ascii(text: &[u8]) -> bool {
    // Some of the last bytes are checked twice, instead of one by one.
    if let Some(last) = text.last_chunk::<8>() {
        let mut bits = u64::from_ne_bytes(*last);
        let mut rest = text;
        while let Some((first, after)) = rest.split_first_chunk::<8>() {
            bits |= u64::from_ne_bytes(*first);
            rest = after;
        }
        bits & u64::from_ne_bytes([0x80; 8]) == 0
    } else if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        let bits = u32::from_ne_bytes(*first) | u32::from_ne_bytes(*last);
        bits & u32::from_ne_bytes([0x80; 4]) == 0
    } else {
        text.iter().all(u8::is_ascii)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_single_non_ascii_byte_is_found_at_any_position() {
        for length in 0..40 {
            let mut text = vec![0x7f; length];
            assert!(super::is_ascii(&text));
            for at in 0..length {
                text[at] = 0x80;
                assert!(!super::is_ascii(&text), "{at} of {length}");
                text[at] = 0;
            }
        }
    }
}
