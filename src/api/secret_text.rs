//! Values of Secrets as people store them: with line breaks, quotes or a byte order mark around them. No I/O.

use std::borrow::Cow;

/// Minimum length of a decoded value for which base64 counts as encoded twice: a random key decodes to other bytes than
/// visible ASCII.
const DECODED_MIN_BYTES: usize = 16;
/// Fields of the JSON file with which IBM Cloud delivers an API key.
const API_KEY_FIELDS: [&str; 2] = ["apikey", "apiKey"];

/// Returns a text without a byte order mark and the line breaks at its end.
pub fn trimmed_text(bytes: &[u8]) -> Result<&str, &'static str> {
    let text = text(bytes)?.trim_end_matches(['\r', '\n']);
    if text.trim().is_empty() {
        return Err("is empty");
    }
    Ok(text)
}

/// Returns a name or password, by [`trimmed_text`]. It may have blanks and quotes.
pub fn password_text(bytes: &[u8]) -> Result<&str, &'static str> {
    let text = trimmed_text(bytes)?;
    if text.chars().any(char::is_control) {
        return Err("has line breaks or control characters inside: store the value alone, as UTF-8");
    }
    Ok(text)
}

/// Returns a key or token, which is one word of visible ASCII: without white space and one pair of quotes around it.
pub fn key_text(bytes: &[u8]) -> Result<&str, &'static str> {
    let text = text(bytes)?.trim();
    let quoted = ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    let text = quoted.unwrap_or(text).trim();
    if text.is_empty() {
        return Err("is empty");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "has blanks, line breaks or other characters than visible ASCII inside: store the value alone",
        );
    }
    if has_name(text) || text.starts_with(['<', '[', '{']) {
        return Err("has a name or brackets around the value: store the value alone");
    }
    if is_encoded_twice(text) {
        return Err(
            "is the base64 of a text, so that it was encoded twice: put the value itself into stringData, or encode it once",
        );
    }
    Ok(text)
}

/// Returns an API key, also from the JSON file with which IBM Cloud delivers one.
pub fn api_key_text(bytes: &[u8]) -> Result<Cow<'_, str>, &'static str> {
    let file = text(bytes)?.trim();
    if !file.starts_with('{') {
        return key_text(bytes).map(Cow::Borrowed);
    }
    let json: serde_json::Value =
        serde_json::from_str(file).map_err(|_| "begins like JSON, but is not valid JSON")?;
    let key = API_KEY_FIELDS.iter().find_map(|field| json.get(*field)?.as_str());
    let key =
        key.ok_or("is JSON without the field apikey: use the key file of IBM Cloud, or the key alone")?;
    key_text(key.as_bytes()).map(|key| Cow::Owned(key.to_owned()))
}

fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("is UTF-16: save the file as UTF-8");
    }
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|_| "is not UTF-8 text")
}

/// Returns true for a line of an environment file, such as `API_KEY=value`. Base64 has `=` at its end only.
fn has_name(text: &str) -> bool {
    let named = text.trim_end_matches('=').split_once('=');
    named.is_some_and(|(name, _)| {
        let name = name.to_ascii_lowercase();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        name.bytes().all(is_name)
            && ["key", "token", "secret", "id"]
                .iter()
                .any(|end| name.ends_with(end))
    })
}

fn is_encoded_twice(text: &str) -> bool {
    let decoded = aws_smithy_types::base64::decode(text).unwrap_or_default();
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    decoded.len() >= DECODED_MIN_BYTES && decoded.iter().all(is_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Form of a key of IBM Cloud: 44 characters of base64url.
    const KEY: &str = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdEf";

    #[test]
    fn a_key_is_found_in_the_classic_forms() {
        let json = format!("{{\"name\": \"n\", \"description\": \"\", \"apikey\": \"{KEY}\"}}\n");
        for text in [
            KEY.to_owned(),
            format!("{KEY}\n"),
            format!("{KEY}\r\n\n"),
            format!("  {KEY} "),
            format!("\u{feff}{KEY}"),
            format!("\"{KEY}\"\n"),
            format!("'{KEY}'"),
            json,
        ] {
            assert_eq!(api_key_text(text.as_bytes()).as_deref(), Ok(KEY), "{text:?}");
        }
        // Base64, and a name that is none.
        for text in ["QUtJRA==", "a/b+key==", "x=y"] {
            assert_eq!(key_text(text.as_bytes()), Ok(text));
        }
    }

    #[test]
    fn a_value_that_is_no_key_is_named_without_the_value() {
        let twice = aws_smithy_types::base64::encode(format!("{KEY}\n"));
        let json = format!("{{\n\t\"name\": \"n\",\n\t\"apikey\": \"{KEY}\"\n}}\n");
        let json_twice = aws_smithy_types::base64::encode(json);
        let no_mark: Vec<u8> = KEY.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let utf16 = [&[0xff, 0xfe], no_mark.as_slice()].concat();
        for (bytes, problem) in [
            (twice.as_bytes(), "encoded twice"),
            (json_twice.as_bytes(), "encoded twice"),
            (no_mark.as_slice(), "visible ASCII"),
            (b"key\0", "visible ASCII"),
            (utf16.as_slice(), "UTF-16"),
            (b"\n", "is empty"),
            (b"\"\"", "is empty"),
            (b"one two", "blanks"),
            (b"one\ntwo", "line breaks"),
            ("k\u{e9}y".as_bytes(), "visible ASCII"),
            (b"{\"apikey\": ", "not valid JSON"),
            (b"{\"key\": \"k\"}", "without the field apikey"),
            (b"\xff\xffkey", "UTF-8"),
            (b"apikey=k-1", "a name or brackets"),
            (b"EVENTEXPORT_API_KEY=k-1==", "a name or brackets"),
            (b"<your key>", "visible ASCII"),
            (b"<your-key>", "a name or brackets"),
            (b"[{\"apikey\":\"k\"}]", "a name or brackets"),
        ] {
            let error = api_key_text(bytes).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_password_keeps_blanks_and_quotes() {
        assert_eq!(password_text(b"\xef\xbb\xbf \"pw\" \r\n\n"), Ok(" \"pw\" "));
        assert_eq!(password_text(b" \n"), Err("is empty"));
        for bad in [&b"\np"[..], b"user\npw", b"p\0w\0", b"pw\0", b"p\x1b"] {
            assert!(
                password_text(bad).is_err_and(|error| error.contains("inside")),
                "{bad:?}"
            );
        }
    }
}
