//! Nesting of bodies, measured without recursion and without the codecs.

/// Returns the maximum nesting of arrays and objects in well-formed JSON.
pub(super) fn of_json(body: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Returns the maximum nesting of arrays and maps in MessagePack, or `None` if the body is not exactly one value
/// (<https://github.com/msgpack/msgpack/blob/master/spec.md>).
pub(super) fn of_message_pack(body: &[u8]) -> Option<usize> {
    let mut rest = body;
    let deepest = skip(&mut rest)?;
    rest.is_empty().then_some(deepest)
}

/// Returns `true` if well-formed MessagePack is a map with a key that is not text. Bytes that are not UTF-8 are not text.
pub(super) fn has_other_keys_than_texts(body: &[u8]) -> bool {
    let mut rest = body;
    let pairs = rmp::decode::read_map_len(&mut rest).unwrap_or(0);
    (0..pairs).any(|_| {
        let is_text = rmp::decode::read_str_from_slice(rest).is_ok();
        !is_text || skip(&mut rest).and_then(|_| skip(&mut rest)).is_none()
    })
}

/// Skips one value, and returns its nesting.
fn skip(rest: &mut &[u8]) -> Option<usize> {
    // The numbers of values that are left in the open arrays and maps.
    let mut open: Vec<u64> = vec![1];
    let mut deepest = 0;
    while let Some(left) = open.last_mut() {
        if *left == 0 {
            open.pop();
            continue;
        }
        *left -= 1;
        let marker = take(rest, 1)?[0];
        let (bytes, values) = match marker {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => (0, None),
            0x80..=0x8f => (0, Some(u64::from(marker & 15) * 2)),
            0x90..=0x9f => (0, Some(u64::from(marker & 15))),
            0xa0..=0xbf => (usize::from(marker & 31), None),
            0xc1 => return None,
            0xc4..=0xc6 => (length(rest, 1 << (marker - 0xc4))?, None),
            0xc7..=0xc9 => (length(rest, 1 << (marker - 0xc7))? + 1, None),
            0xca | 0xce | 0xd2 => (4, None),
            0xcb | 0xcf | 0xd3 => (8, None),
            0xcc | 0xd0 => (1, None),
            0xcd | 0xd1 => (2, None),
            0xd4..=0xd8 => ((1 << (marker - 0xd4)) + 1, None),
            0xd9..=0xdb => (length(rest, 1 << (marker - 0xd9))?, None),
            0xdc | 0xdd => (0, Some(length(rest, 2 << (marker - 0xdc))? as u64)),
            0xde | 0xdf => (0, Some(length(rest, 2 << (marker - 0xde))? as u64 * 2)),
        };
        take(rest, bytes)?;
        if let Some(values) = values {
            open.push(values);
            deepest = deepest.max(open.len() - 1);
        }
    }
    Some(deepest)
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

/// Reads a length of `bytes` bytes.
fn length(rest: &mut &[u8], bytes: usize) -> Option<usize> {
    let bytes = take(rest, bytes)?.iter();
    Some(bytes.fold(0, |length, byte| length << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_other_than_text_are_detected() {
        assert!(!has_other_keys_than_texts(
            b"\x82\xa1a\x91\x07\xd9\x01b\x80"
        ));
        assert!(has_other_keys_than_texts(b"\x82\xa1a\x91\x07\x01\x80"));
        assert!(has_other_keys_than_texts(b"\x81\xa1\xff\x80"));
        assert!(!has_other_keys_than_texts(b"\x91\x07"));
    }

    #[test]
    fn nesting_is_counted() {
        assert_eq!(of_json(br#"{"a[[":["\"[",{}],"b":[]}"#), 3);
        assert_eq!(of_json(b"7"), 0);
        assert_eq!(of_message_pack(b"\x07"), Some(0));
        assert_eq!(
            of_message_pack(b"\x82\xa1a\x91\x91\x07\xa1b\xc4\x01\x91"),
            Some(3)
        );
        assert_eq!(
            of_message_pack(b"\xdd\x00\x00\x00\x02\x90\xde\x00\x01\x90\x91\xc0"),
            Some(3)
        );
        for body in [
            &b""[..],
            b"\x91",
            b"\x07\x07",
            b"\xc1",
            b"\xdd\xff\xff\xff\xff",
        ] {
            assert_eq!(of_message_pack(body), None, "{body:x?}");
        }
    }
}
