//! What the URIs of engines have in common.

/// Why a text is not percent-encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PercentError {
    /// A `%` without two hexadecimal digits behind it.
    Digits,
    /// What it decodes to is not UTF-8.
    Utf8,
}

/// What a percent-encoded text stands for (RFC 3986 section 2.1).
///
/// # Errors
/// It is none.
pub fn percent_decoded(text: &str) -> Result<String, PercentError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => return Err(PercentError::Digits),
        }
    }
    String::from_utf8(out).map_err(|_| PercentError::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_text_are_checked() {
        assert_eq!(percent_decoded("a%40b%2Fc%c3%bc"), Ok("a@b/cü".to_owned()));
        for bad in ["%", "a%4", "%+1", "%zz"] {
            assert_eq!(percent_decoded(bad), Err(PercentError::Digits), "{bad}");
        }
        assert_eq!(percent_decoded("%ff"), Err(PercentError::Utf8));
    }
}
