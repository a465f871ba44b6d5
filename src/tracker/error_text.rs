//! Text of error pages of the service. No I/O.

use crate::api::redact;
use crate::egress::reply_text;

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
pub(super) fn error_text(body: &[u8], secrets: &[&str]) -> String {
    let text = reply_text(body);
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
            assert_eq!(error_text(body.as_bytes(), &[]), expected);
        }
        assert_eq!(
            error_text("word ".repeat(1000).as_bytes(), &[]).chars().count(),
            MAX_ERROR_TEXT_CHARS
        );
        assert_eq!(error_text(&[0xff, 0xfe, b'a'], &[]), "");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"packed page").unwrap();
        assert_eq!(error_text(&gzip.finish().unwrap(), &[]), "packed page");
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
            let text = error_text(body.as_bytes(), &[secret]);
            assert!(!text.contains("s3cr") && text.contains(REDACTED), "{text}");
        }
        let text = error_text(b"bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", &[]);
        assert_eq!(text, "bearer [redacted]");
    }
}
