//! Syntax of the texts in a spec: one predicate per rule of [`super::rules`]. No I/O.

use jiff::civil::Date;

use super::address::is_path_byte;
use super::rules::limit;

/// Parses `YYYY-MM-DD` exactly: a calendar date in [`limit::YEARS`].
pub fn parse_date(text: &str) -> Option<Date> {
    let shape = text.len() == limit::DATE_CHARS
        && text.bytes().zip(b"0000-00-00").all(|(byte, form)| {
            if *form == b'-' {
                byte == b'-'
            } else {
                byte.is_ascii_digit()
            }
        });
    let date: Date = shape.then(|| text.parse().ok())??;
    (limit::YEARS.0..=limit::YEARS.1)
        .contains(&date.year())
        .then_some(date)
}

/// Accepts the characters that a segment of a URL path allows unescaped, except `.` and `..`.
pub fn is_space_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(is_path_byte) && id != "." && id != ".."
}

/// Accepts a folder of the prefix that query engines do not skip.
pub(super) fn is_prefix_component(part: &str) -> bool {
    // Another rule rejects empty folders.
    part.bytes().all(is_path_byte) && !part.starts_with(['.', '_'])
}

/// Checks the naming rules of S3, except for the length.
pub(super) fn is_bucket_name(name: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let numbers = name
        .split('.')
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() >= 2
        && name.starts_with(end)
        && name.ends_with(end)
        && name.chars().all(|c| end(c) || c == '-' || c == '.')
        && !["..", ".-", "-."].iter().any(|pair| name.contains(pair))
        && !(numbers && name.split('.').count() == 4)
}

/// Checks for a DNS subdomain as Kubernetes defines it (RFC 1123).
pub(super) fn is_subdomain(name: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.split('.').all(|label| {
        label.starts_with(end) && label.ends_with(end) && label.chars().all(|c| end(c) || c == '-')
    })
}

/// Returns true for a folder name that this program creates below the prefix.
pub(super) fn is_reserved(part: &str) -> bool {
    ["space=", "scope=", "date="]
        .iter()
        .any(|name| part.starts_with(name))
}

/// Accepts letters, digits, inner hyphens and underscores.
pub(super) fn is_s3_region(name: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(end) && name.ends_with(end) && is_ascii_token(name, "-_")
}

/// Accepts one line that is not blank. White space and control characters are those of RE2's classes: ASCII.
pub(super) fn is_gap_reason(text: &str) -> bool {
    let visible = text.chars().any(|c| !matches!(c, '\t'..='\r' | ' '));
    visible && !text.chars().any(|c| c.is_ascii_control())
}

/// Accepts one or more ASCII letters, digits and characters of `signs`.
pub(super) fn is_ascii_token(text: &str, signs: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}

/// Accepts the number of a manifest, a colon, and 64 lower-case hexadecimal digits.
pub(super) fn is_head(text: &str) -> bool {
    text.split_once(':').is_some_and(|(number, digest)| {
        let decimal = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        decimal && (1..=8).contains(&number.len()) && digest.len() == 64 && digest.bytes().all(hex)
    })
}
