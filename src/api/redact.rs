//! Text of other parties in messages of this program: bounded, on one line, printable, without secrets. No I/O.
//!
//! Text from a peer, a certificate, a library, a bucket or a file ends up on terminals, in logs and in a status. Control
//! characters could hide or fake parts of a message there, and a text of a megabyte would bury it. All such text passes
//! one of the two functions of this file: [`redact`] for sentences, [`sanitize`] for names, keys and values, which are
//! shown exactly.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;
use std::io;

/// Maximum length of a foreign name, key or value in a message, in characters.
pub const MAX_SANITIZED_CHARS: usize = 256;
/// Maximum length of a foreign sentence in a message, in characters: a reply, or an error of a library.
pub const MAX_REDACTED_CHARS: usize = 300;
/// Replacement of a secret.
pub const REDACTED: &str = "[redacted]";
/// Stands for [`REDACTED`] until all secrets are replaced, as a part of that word may be a secret: a character that is
/// no text (Unicode, section 23.7).
const MARK: &str = "\u{fdd0}";
/// Maximum length of a run of the base64 alphabet that is not a token: session tokens of clouds have hundreds of
/// characters.
const MAX_PLAIN_RUN: usize = 128;
/// Maximum depth of a chain of causes.
const MAX_CAUSES: usize = 16;
/// Maximum bytes of a foreign sentence that are read: a megabyte in a message is not searched for secrets to its end.
const MAX_READ_BYTES: usize = 64 * 1024;

/// Returns true unless the character is a control character, ends a line, changes the direction of writing (Unicode
/// Bidirectional Algorithm, UAX #9), or is not visible (`Default_Ignorable_Code_Point` of UAX #44, and the empty Braille
/// pattern).
pub fn is_printable(c: char) -> bool {
    !(c.is_control()
        || matches!(
            c,
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
        ))
}

/// Truncates a name, key or value to [`MAX_SANITIZED_CHARS`] and escapes it.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    sanitize_to(text, MAX_SANITIZED_CHARS)
}

/// Truncates a text to `max_chars` and escapes it.
pub fn sanitize_to(text: &str, max_chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max_chars) {
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

/// Returns a foreign sentence made safe to show: on one line, at most `max_chars` characters, without the characters that
/// terminals and log viewers interpret ([`is_printable`]), and with [`REDACTED`] in place of `secrets` and of everything
/// that looks like a token.
pub fn redact(text: &str, secrets: &[&str], max_chars: usize) -> String {
    let mut text = Cow::Borrowed(prefix(text, MAX_READ_BYTES));
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let in_form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let in_json = serde_json::to_string(secret).unwrap_or_default();
        for form in [*secret, in_form.as_str(), in_json.trim_matches('"')] {
            if text.contains(form) {
                text = Cow::Owned(text.replace(form, MARK));
            }
        }
    }
    let words = text.split(|c: char| c.is_whitespace() || !is_printable(c));
    let words = words.filter(|word| !word.is_empty());
    let words = words.map(|word| if looks_like_token(word) { MARK } else { word });
    let line = words
        .collect::<Vec<_>>()
        .join(" ")
        .replace(MARK, REDACTED)
        .replace(char::REPLACEMENT_CHARACTER, ".");
    match line.char_indices().nth(max_chars) {
        None => line,
        Some(_) => line
            .chars()
            .take(max_chars.saturating_sub(1))
            .chain(['…'])
            .collect(),
    }
}

/// Returns an error of a library and its causes as one sentence, without repetitions, by [`redact`]. Libraries quote
/// their peers: an error of TLS quotes the names of a certificate.
pub fn redact_error(error: &(dyn Error + 'static), secrets: &[&str]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        if !texts.iter().any(|outer| outer.contains(&text)) {
            texts.push(text);
        }
    }
    redact(&texts.join(": "), secrets, MAX_REDACTED_CHARS)
}

/// Returns the error and its causes, outermost first, at most 16.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| next_cause(*error)).take(MAX_CAUSES)
}

/// Returns the next cause. The cause of an `io::Error` is the error that it wraps.
fn next_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// Returns the first cause of a type.
pub fn find_cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Returns the beginning of a text, at most `max` bytes.
fn prefix(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Returns true for a JSON web token, which begins with an encoded `{"`, and for a long run of base64, such as a
/// session token.
fn looks_like_token(word: &str) -> bool {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    word.find("eyJ").is_some_and(|at| word.len() - at > 20)
        || word
            .as_bytes()
            .split(|byte| !base64(*byte))
            .any(|run| run.len() >= MAX_PLAIN_RUN)
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
        let long = "é ".repeat(MAX_READ_BYTES);
        assert_eq!(redact(&long, &[], 20).chars().count(), 20);
    }

    #[test]
    fn control_characters_are_removed() {
        for (text, shown) in [
            ("plain words", "plain words"),
            ("a\u{1b}[31mred\u{1b}[0m", "a [31mred [0m"),
            ("one\r\nERROR two\tthree\0", "one ERROR two three"),
            ("csi\u{9b}2J", "csi 2J"),
            ("abc\u{202e}fed\u{2066}\u{200b}", "abc fed"),
            ("a\u{2028}b\u{85}c", "a b c"),
            (
                "a\u{34f}b\u{fe0f}c\u{e0101}d\u{3164}e\u{ffa0}f\u{2800}g\u{115f}h",
                "a b c d e f g h",
            ),
            ("tenant-ü €", "tenant-ü €"),
        ] {
            assert_eq!(redact(text, &[], MAX_REDACTED_CHARS), shown, "{text:?}");
        }
    }

    #[test]
    fn unknown_tokens_are_redacted() {
        let redact = |text: &str| redact(text, &[], 1000);
        let long = "A1b+/".repeat(40);
        assert_eq!(
            redact(&format!("it said {long}, twice")),
            "it said [redacted] twice"
        );
        assert_eq!(
            redact("bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln"),
            "bearer [redacted]"
        );
        let path = "tracker/space=c1/".repeat(20);
        assert_eq!(redact(&"f".repeat(64)), "f".repeat(64));
        assert_eq!(redact(&path.replace('=', ".")), path.replace('=', "."));
    }

    #[test]
    fn a_replacement_is_not_replaced() {
        let shown = redact("red cab", &["a", "b", "red", "act"], 100);
        assert_eq!(shown, "[redacted] c[redacted][redacted]");
    }

    #[test]
    fn known_secrets_are_redacted_in_each_notation() {
        let secret = "s3cr\"et+/=";
        for text in ["s3cr\"et+/=", "s3cr%22et%2B%2F%3D", r#"{"x":"s3cr\"et+/="}"#] {
            let shown = redact(&format!("you sent {text}!"), &["", secret], 100);
            assert!(!shown.contains("s3cr") && shown.contains(REDACTED), "{shown}");
        }
    }
}
