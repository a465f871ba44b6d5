//! Text of other parties in messages of this program: maximum length and allowed characters. No I/O.
//!
//! Text from a peer, a bucket or a file ends up on terminals, in logs and in a status. Control characters could hide or
//! fake parts of a message there, and a text of a megabyte would bury it.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Maximum length of a foreign name, key or value in a message, in characters.
pub const MAX_SANITIZED_CHARS: usize = 256;

/// Returns true unless the character is a control character, changes the direction of writing (Unicode Bidirectional
/// Algorithm, UAX #9), or has no width.
pub fn is_printable(c: char) -> bool {
    !(c.is_control()
        || matches!(
            c,
            '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        ))
}

/// Truncates a text to [`MAX_SANITIZED_CHARS`] and escapes it.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_SANITIZED_CHARS) {
        None => escape(text),
        Some((end, _)) => Cow::Owned(format!("{}…", escape(text.get(..end).unwrap_or_default()))),
    }
}

/// Escapes characters that are not printable, as `\u{1b}`. Does not truncate: for text that is already bounded.
pub fn escape(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_printable(c) {
            escaped.push(c);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{{{:x}}}", u32::from(c));
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_short_and_on_one_line() {
        assert_eq!(sanitize("a/date=2018-06-28/ü"), "a/date=2018-06-28/ü");
        assert_eq!(sanitize("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\u{a}c");
        assert_eq!(sanitize("\u{202e}gnp"), "\\u{202e}gnp");
        let long = "é".repeat(MAX_SANITIZED_CHARS + 1);
        assert_eq!(sanitize(&long).chars().count(), MAX_SANITIZED_CHARS + 1);
        assert!(sanitize(&long).ends_with('…'));
    }
}
