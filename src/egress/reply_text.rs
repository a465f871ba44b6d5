//! Text of the body of an error reply, whatever peer sent it. No I/O.

use std::borrow::Cow;
use std::io::Read as _;

/// Maximum bytes of a compressed body after decompression: 64 KiB.
const UNPACKED_MAX_BYTES: u64 = 64 << 10;

/// Returns a body as text, which the caller redacts. Some proxies compress, unasked; a body that is no text is not shown.
pub(crate) fn reply_text(body: &[u8]) -> Cow<'_, str> {
    if let [0x1f, 0x8b, ..] = body {
        let mut text = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(body).take(UNPACKED_MAX_BYTES);
        // If the end is damaged, the text before it is enough.
        let _ = decoder.read_to_end(&mut text);
        return Cow::Owned(String::from_utf8_lossy(&text).into_owned());
    }
    let text = String::from_utf8_lossy(body);
    let unreadable = |c: &char| *c == char::REPLACEMENT_CHARACTER || *c == '\0';
    if text.chars().filter(unreadable).count() * 10 <= text.len() {
        text
    } else {
        Cow::Borrowed("")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_body_is_quoted_if_it_is_text() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(b"<Error>over the cap</Error>").unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(reply_text(&packed), "<Error>over the cap</Error>");
        assert_eq!(
            reply_text(&packed[..packed.len() - 9]),
            "<Error>over the cap</Error>"
        );
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        bomb.write_all(&vec![b'x'; 1 << 22]).unwrap();
        assert_eq!(reply_text(&bomb.finish().unwrap()).len(), 64 << 10);
        assert_eq!(reply_text("refus\u{e9}".as_bytes()), "refus\u{e9}");
        assert_eq!(
            reply_text(b"refus\xe9 par la politique"),
            "refus\u{fffd} par la politique"
        );
        let utf16: Vec<u8> = "denied".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [&[0x80, 0xff, 0x01, 0x9c][..], &utf16] {
            assert_eq!(reply_text(bytes), "");
        }
    }
}
