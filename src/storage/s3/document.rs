//! Completeness of the XML document in a successful reply. The parser of the SDK takes a document that ends early for a
//! shorter one: a listing would lack keys. No I/O.

/// The body of a successful reply is no complete document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadDocument {
    /// A page for a browser.
    #[error("the reply is a web page")]
    WebPage,
    /// The end of the document is missing.
    #[error("the reply ends before its XML document does")]
    Cut,
}

/// Checks the body of a successful reply. Accepts an empty one and one that is no XML, which the SDK reads or refuses.
pub(super) fn check_document(body: &[u8]) -> Result<(), BadDocument> {
    let body = body.trim_ascii();
    if !body.starts_with(b"<") {
        return Ok(());
    }
    let document = without_prolog(body).ok_or(BadDocument::Cut)?;
    let tag = match document {
        [] => return Err(BadDocument::Cut),
        [b'<', tag @ ..] => tag,
        _ => return Ok(()),
    };
    let name_length = tag
        .iter()
        .position(|byte| byte.is_ascii_whitespace() || b"/>".contains(byte));
    let (name, rest) = tag.split_at(name_length.ok_or(BadDocument::Cut)?);
    if name.eq_ignore_ascii_case(b"html") || name.eq_ignore_ascii_case(b"!doctype") {
        return Err(BadDocument::WebPage);
    }
    let closed = without_comments_at_end(rest)
        .strip_suffix(b">")
        .map(<[u8]>::trim_ascii_end)
        .is_some_and(|rest| {
            let end_tag = rest.strip_suffix(name).is_some_and(|rest| rest.ends_with(b"</"));
            // The only tag.
            end_tag || (rest.ends_with(b"/") && !rest.contains(&b'<'))
        });
    closed.then_some(()).ok_or(BadDocument::Cut)
}

/// Removes XML declaration, processing instructions and comments before the root element. `None`: one has no end.
fn without_prolog(mut text: &[u8]) -> Option<&[u8]> {
    for _ in 0..MAX_PROLOG_PARTS {
        let end: &[u8] = match text {
            [b'<', b'?', ..] => b"?>",
            [b'<', b'!', b'-', b'-', ..] => b"-->",
            _ => break,
        };
        let at = memchr::memmem::find(text, end)?;
        text = text.get(at + end.len()..)?.trim_ascii_start();
    }
    Some(text)
}

/// Maximum number of declarations and comments around a document.
const MAX_PROLOG_PARTS: usize = 16;

fn without_comments_at_end(mut text: &[u8]) -> &[u8] {
    for _ in 0..MAX_PROLOG_PARTS {
        let Some(begin) = text
            .ends_with(b"-->")
            .then(|| memchr::memmem::rfind(text, b"<!--"))
            .flatten()
        else {
            break;
        };
        text = text.get(..begin).unwrap_or_default().trim_ascii_end();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_ends_with_its_root_element() {
        for complete in [
            "",
            "OK",
            "{}",
            "<a></a>",
            "<a/>",
            "<a b='1' />\n",
            "<?xml version=\"1.0\"?>\n<!-- c -->\n<s:List xmlns:s=\"u\"><s:Key>k</s:Key></s:List >",
            "<a><a>x</a></a> <!-- served by 7 -->\n",
        ] {
            assert_eq!(check_document(complete.as_bytes()), Ok(()), "{complete}");
        }
        for page in [
            "<!DOCTYPE html><html></html>",
            "\n<!-- c --><HTML lang=en><body>",
            "<html>",
        ] {
            assert_eq!(
                check_document(page.as_bytes()),
                Err(BadDocument::WebPage),
                "{page}"
            );
        }
    }

    #[test]
    fn a_document_that_is_cut_anywhere_is_noticed() {
        let whole = "<?xml version=\"1.0\"?><!-- c --><List><Truncated>false</Truncated><Row><Key>k</Key><Owner/></Row></List>";
        assert_eq!(check_document(whole.as_bytes()), Ok(()));
        for end in 1..whole.len() {
            assert!(check_document(&whole.as_bytes()[..end]).is_err(), "{end}");
        }
    }
}
