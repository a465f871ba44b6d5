//! The newest manifest in the status: what a run must remember, and what it found. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::status_values::truncate_to_second;
use crate::api::{EventExportStatus, ManifestStatus};
use crate::archive::manifest::{Head, HeadRecord};
use crate::export::manifest::head::next_head;

/// Returns the newest manifest that a status remembers. One that is not valid counts as absent.
pub(super) fn remembered(status: &EventExportStatus) -> Option<HeadRecord> {
    let ManifestStatus {
        sequence,
        sha256,
        key_id,
        written_at,
    } = status.manifest.as_ref()?;
    let head = Head::new(u64::from(*sequence), sha256).ok()?;
    Some(HeadRecord {
        head: Head {
            key_id: key_id.clone(),
            ..head
        },
        written_at: written_at.as_ref().map(|at| at.0),
    })
}

/// Moves the status to the newest manifest that a run found. It never moves backwards, unless the manifest was given up.
/// One that was given up is kept until there is another.
pub(super) fn advance(status: &mut EventExportStatus, found: Option<&HeadRecord>, abandoned: Option<&Head>) {
    let Some(next) = next_head(remembered(status), found.cloned(), abandoned) else {
        return;
    };
    let HeadRecord { head, written_at } = next;
    let Ok(sequence) = u32::try_from(head.sequence) else {
        return;
    };
    status.manifest = Some(ManifestStatus {
        sequence,
        sha256: head.sha256,
        key_id: head.key_id,
        written_at: written_at.map(|at| Time(truncate_to_second(at))),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_never_forgets_a_newer_manifest() {
        let record =
            |sequence, digit: &str| HeadRecord::from(Head::new(sequence, &digit.repeat(64)).unwrap());
        let mut status = EventExportStatus::default();
        advance(&mut status, None, None);
        assert_eq!(status.manifest, None);
        advance(&mut status, Some(&record(2, "a")), None);
        let two = status.manifest.clone();
        assert_eq!(remembered(&status), Some(record(2, "a")));
        advance(&mut status, Some(&record(1, "b")), None);
        advance(&mut status, None, None);
        assert_eq!(status.manifest, two);
        advance(&mut status, None, Some(&record(2, "a").head));
        assert_eq!(status.manifest, two, "kept until there is another");
        advance(&mut status, Some(&record(1, "b")), Some(&record(2, "a").head));
        assert_eq!(remembered(&status), Some(record(1, "b")));
    }
}
