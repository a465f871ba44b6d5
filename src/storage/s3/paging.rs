//! Continuation of a listing over several pages. No I/O.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher as _};

/// Maximum number of pages without a key in a row. A store may skip deleted keys page by page.
const EMPTY_PAGES_MAX: u32 = 1_000;

/// Pages of a listing that were accepted, by the digests of their markers and of their first rows.
#[derive(Debug, Default)]
pub(super) struct AcceptedPages {
    markers: HashSet<u64>,
    first_rows: HashSet<u64>,
    empty_in_a_row: u32,
}

impl AcceptedPages {
    /// Returns the marker of the page after a reply, `None` after the last one. An error if the reply contradicts itself
    /// or an earlier one: keys that it leaves out would look missing, and a circle has no end.
    pub(super) fn next<T: Hash>(
        &self,
        truncated: Option<bool>,
        first_row: Option<&str>,
        next: Option<T>,
    ) -> Result<Option<T>, &'static str> {
        if first_row.is_some_and(|row| self.first_rows.contains(&digest(&row))) {
            return Err("a page repeats an earlier one");
        }
        if !truncated.unwrap_or(next.is_some()) {
            return Ok(None);
        }
        let next = next.ok_or("a page is truncated and does not say where the next one begins")?;
        if self.markers.contains(&digest(&next)) {
            return Err("a page says that the next one begins where an earlier one began");
        }
        if first_row.is_none() && self.empty_in_a_row >= EMPTY_PAGES_MAX {
            return Err("too many pages in a row are truncated and empty");
        }
        Ok(Some(next))
    }

    /// Records an accepted page.
    pub(super) fn accept<T: Hash>(&mut self, first_row: Option<&str>, next: Option<&T>) {
        self.markers.extend(next.map(digest));
        self.first_rows.extend(first_row.map(|row| digest(&row)));
        self.empty_in_a_row = first_row.map_or(self.empty_in_a_row + 1, |_| 0);
    }
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_page_needs_a_new_marker_and_a_new_first_row() {
        let mut pages = AcceptedPages::default();
        assert_eq!(pages.next(None, Some("a"), None::<&str>), Ok(None));
        assert_eq!(pages.next(Some(false), Some("a"), Some("m")), Ok(None));
        assert_eq!(pages.next(Some(true), Some("a"), Some("m")), Ok(Some("m")));
        assert_eq!(pages.next(None, Some("a"), Some("m")), Ok(Some("m")));
        assert!(pages.next(Some(true), Some("a"), None::<&str>).is_err());
        pages.accept(Some("a"), Some(&"m"));
        pages.accept(Some("b"), Some(&"n"));
        for (first_row, next) in [("c", "n"), ("c", "m"), ("a", "o")] {
            assert!(pages.next(Some(true), Some(first_row), Some(next)).is_err());
        }
        assert_eq!(pages.next(Some(true), Some("c"), Some("o")), Ok(Some("o")));
    }

    #[test]
    fn empty_pages_are_bounded() {
        let mut pages = AcceptedPages::default();
        for page in 0..EMPTY_PAGES_MAX {
            assert_eq!(pages.next(Some(true), None, Some(page)), Ok(Some(page)));
            pages.accept(None, Some(&page));
        }
        assert!(pages.next(Some(true), None, Some(EMPTY_PAGES_MAX)).is_err());
    }
}
