//! Short strings, which lapin reads as UTF-8 and the broker as any bytes.

/// Takes the place of each byte that is not part of UTF-8.
const STAND_IN: u8 = b'?';

/// Makes UTF-8 of a text without changing its length. Leaves UTF-8 as it is.
pub(super) fn mend(text: &mut [u8]) {
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
    fn every_offending_byte_is_replaced_and_no_other() {
        for (text, mended) in [
            (&b""[..], &b""[..]),
            (b"plain", b"plain"),
            ("schön ✓".as_bytes(), "schön ✓".as_bytes()),
            (b"\xff", b"?"),
            (b"a\xffb\xc3(c\xe2\x82", b"a?b?(c??"),
            (b"\xed\xa0\x80\xc3\xb6", b"???\xc3\xb6"),
        ] {
            let mut bytes = text.to_vec();
            super::mend(&mut bytes);
            assert_eq!(bytes, mended);
        }
    }
}
