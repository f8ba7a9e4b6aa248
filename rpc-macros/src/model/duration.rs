//! Durations in options: `"500ms"`, `"2s"`, `"1m"`, `"1h"`.

/// Parses a duration into milliseconds.
///
/// # Errors
///
/// Returns the text of a compile error.
pub(crate) fn parse_millis(text: &str) -> Result<u64, String> {
    const VALID: &str =
        "write a whole number and its unit, such as \"500ms\", \"2s\", \"1m\" or \"1h\"";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if !number.is_empty() => {
            return Err(format!("the duration `{text}` has no unit: {VALID}"));
        }
        _ => return Err(format!("`{text}` is not a duration: {VALID}")),
    };
    if number.is_empty() {
        return Err(format!("the duration `{text}` has no number: {VALID}"));
    }
    match number
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(factor))
    {
        Some(0) => Err(format!("a timeout must be longer than zero: {VALID}")),
        Some(millis) => Ok(millis),
        None => Err(format!("the duration `{text}` is too long: {VALID}")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_millis;

    #[test]
    fn every_unit_is_parsed() {
        for (text, millis) in [
            ("1ms", 1),
            ("500ms", 500),
            ("2s", 2_000),
            ("1m", 60_000),
            ("1h", 3_600_000),
            ("007s", 7_000),
        ] {
            assert_eq!(parse_millis(text), Ok(millis), "{text}");
        }
    }

    #[test]
    fn invalid_durations_are_refused_with_a_valid_example() {
        let overflow = format!("{}h", u64::MAX);
        for text in [
            "", "5", "s", "-5s", "+5s", "5 s", " 5s", "5s ", "1.5s", "5S", "5d", "0s", "٣s",
            "5sms", &overflow,
        ] {
            let message = parse_millis(text).expect_err(text);
            assert!(message.contains("\"500ms\""), "{text}: {message}");
        }
    }
}
