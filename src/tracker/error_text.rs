//! Text of error pages of the service. No I/O.

use std::io::Read;

use crate::api::redact;

/// Maximum number of bytes read of an error page.
pub(super) const MAX_ERROR_PAGE_BYTES: usize = 64 * 1024;
/// Maximum length of the text that is kept.
const MAX_ERROR_TEXT_CHARS: usize = 200;
/// Keys of the message in an error object: of the tracker, the UAA, Cloud Foundry, and common gateways.
const MESSAGE_KEYS: [&str; 6] = [
    "message",
    "error_description",
    "description",
    "error",
    "msg",
    "detail",
];

/// Returns the text of an error page: the message of JSON, or the text of HTML without tags.
pub(super) fn error_text(body: &[u8], gzip: bool, secrets: &[&str]) -> String {
    let mut unpacked = Vec::new();
    let body = if gzip && body.starts_with(&[0x1f, 0x8b]) {
        // If the end is damaged, the text before it is enough.
        let limit = u64::try_from(MAX_ERROR_PAGE_BYTES).unwrap_or(u64::MAX);
        let _ = flate2::read::GzDecoder::new(body)
            .take(limit)
            .read_to_end(&mut unpacked);
        &unpacked
    } else {
        body
    };
    let text = String::from_utf8_lossy(body);
    let message = serde_json::from_str(&text)
        .ok()
        .and_then(|json| find_message(&json, 0));
    let message = message.unwrap_or_else(|| {
        if text.contains('<') {
            without_tags(&text)
        } else {
            text.into_owned()
        }
    });
    redact(&message, secrets, MAX_ERROR_TEXT_CHARS)
}

fn find_message(json: &serde_json::Value, depth: u8) -> Option<String> {
    match json {
        serde_json::Value::String(text) => Some(text.clone()),
        // The deepest known form is `{"error": {"message": …}}`.
        serde_json::Value::Object(map) if depth < 3 => MESSAGE_KEYS
            .iter()
            .filter_map(|key| map.get(*key))
            .find_map(|value| find_message(value, depth + 1)),
        serde_json::Value::Array(list) if depth < 3 => {
            list.first().and_then(|value| find_message(value, depth + 1))
        }
        _ => None,
    }
}

fn without_tags(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut inside = false;
    for c in html.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            _ if !inside => text.push(c),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::REDACTED;
    use std::io::Write;

    #[test]
    fn error_pages_may_be_json_html_or_plain_text() {
        for (body, expected) in [
            (r#"{"message":"too many sessions"}"#, "too many sessions"),
            (
                r#"{"error":"invalid_grant","error_description":"Bad credentials"}"#,
                "Bad credentials",
            ),
            (r#"{"error":{"message":"deep"}}"#, "deep"),
            (r#"{"code":7}"#, r#"{"code":7}"#),
            ("plain\n  text\0", "plain text"),
            ("<html><h1>502 Bad Gateway</h1></html>", "502 Bad Gateway"),
            ("", ""),
        ] {
            assert_eq!(error_text(body.as_bytes(), false, &[]), expected);
        }
        assert_eq!(
            error_text("word ".repeat(1000).as_bytes(), false, &[])
                .chars()
                .count(),
            MAX_ERROR_TEXT_CHARS
        );
        assert!(error_text(&[0xff, 0xfe, b'a'], false, &[]).ends_with('a'));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"packed page").unwrap();
        assert_eq!(error_text(&gzip.finish().unwrap(), true, &[]), "packed page");
    }

    #[test]
    fn secrets_in_an_error_page_are_redacted() {
        let secret = "s3cr\"et+/=";
        for body in [
            format!("you sent {secret}!"),
            format!("you sent {}", "s3cr%22et%2B%2F%3D"),
            r#"{"x":"s3cr\"et+/="}"#.to_owned(),
            serde_json::json!({"message": format!("bad {secret}")}).to_string(),
        ] {
            let text = error_text(body.as_bytes(), false, &[secret]);
            assert!(!text.contains("s3cr") && text.contains(REDACTED), "{text}");
        }
        let text = error_text(b"bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", false, &[]);
        assert_eq!(text, "bearer [redacted]");
    }
}
