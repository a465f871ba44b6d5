//! Continuation of a listing over several pages. No I/O.

/// Returns the marker of the next page, `None` after the last one. An error if the reply contradicts itself: keys that
/// it leaves out would look missing.
pub(super) fn next_page<T: PartialEq>(
    truncated: Option<bool>,
    current: Option<&T>,
    next: Option<T>,
) -> Result<Option<T>, &'static str> {
    if !truncated.unwrap_or(false) {
        return Ok(None);
    }
    match next {
        None => Err("a page is truncated and does not say where the next one begins"),
        Some(next) if current == Some(&next) => {
            Err("a page says that the next one begins where it began itself")
        }
        Some(next) => Ok(Some(next)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_page_needs_a_new_marker() {
        assert_eq!(next_page(None, None, Some("b")), Ok(None));
        assert_eq!(next_page(Some(false), Some(&"a"), Some("a")), Ok(None));
        assert_eq!(next_page(Some(true), Some(&"a"), Some("b")), Ok(Some("b")));
        assert!(next_page(Some(true), None::<&str>.as_ref(), None).is_err());
        assert!(next_page(Some(true), Some(&"a"), Some("a")).is_err());
    }
}
