//! Short strings: bytes for the broker, UTF-8 for lapin.

/// Replacement of each byte that is not part of UTF-8.
const STAND_IN: u8 = b'?';

/// Turns a text into UTF-8 without changing its length. Keeps valid UTF-8.
pub(super) fn repair(text: &mut [u8]) {
    if text.is_ascii() {
        return;
    }
    let mut rest = text;
    while let Err(error) = std::str::from_utf8(rest) {
        rest = &mut rest[error.valid_up_to()..];
        let bad = error.error_len().unwrap_or(rest.len());
        rest[..bad].fill(STAND_IN);
        rest = &mut rest[bad..];
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_invalid_bytes_are_replaced() {
        for (text, repaired) in [
            (&b""[..], &b""[..]),
            (b"plain", b"plain"),
            ("schön ✓".as_bytes(), "schön ✓".as_bytes()),
            (b"\xff", b"?"),
            (b"a\xffb\xc3(c\xe2\x82", b"a?b?(c??"),
            (b"\xed\xa0\x80\xc3\xb6", b"???\xc3\xb6"),
        ] {
            let mut bytes = text.to_vec();
            super::repair(&mut bytes);
            assert_eq!(bytes, repaired);
        }
    }
}
