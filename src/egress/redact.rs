//! Text of a peer made safe to show: no control characters, no change of text direction, no tokens. No I/O.

use crate::api::is_printable;

/// Replacement of a secret.
pub(crate) const REDACTED: &str = "[redacted]";
/// Maximum length of a run of the base64 alphabet that is not a token: session tokens of clouds have hundreds of
/// characters.
const MAX_PLAIN_RUN: usize = 128;

/// Returns the text on one line, with white space collapsed. Removes the characters that terminals and log viewers
/// interpret ([`is_printable`]).
fn single_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || !is_printable(c));
    let words = words.filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Returns the text on one line, with everything that looks like a token replaced, including unknown tokens.
pub(crate) fn redact_tokens(text: &str) -> String {
    let words = single_line(text);
    if !words.split(' ').any(looks_like_token) {
        return words;
    }
    let words = words.split(' ');
    let words = words.map(|word| if looks_like_token(word) { REDACTED } else { word });
    words.collect::<Vec<_>>().join(" ")
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
    fn control_characters_are_removed() {
        for (text, shown) in [
            ("plain words", "plain words"),
            ("a\u{1b}[31mred\u{1b}[0m", "a [31mred [0m"),
            ("one\r\nERROR two\tthree\0", "one ERROR two three"),
            ("csi\u{9b}2J", "csi 2J"),
            ("abc\u{202e}fed\u{2066}\u{200b}", "abc fed"),
            ("a\u{2028}b\u{85}c", "a b c"),
            ("tenant-ü €", "tenant-ü €"),
        ] {
            assert_eq!(single_line(text), shown, "{text:?}");
        }
    }

    #[test]
    fn unknown_tokens_are_redacted() {
        let long = "A1b+/".repeat(40);
        assert_eq!(
            redact_tokens(&format!("it said {long}, twice")),
            "it said [redacted] twice"
        );
        assert_eq!(
            redact_tokens("bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln"),
            "bearer [redacted]"
        );
        let path = "tracker/space=c1/".repeat(20);
        assert_eq!(redact_tokens(&"f".repeat(64)), "f".repeat(64));
        assert_eq!(redact_tokens(&path.replace('=', ".")), path.replace('=', "."));
    }
}
