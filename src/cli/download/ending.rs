//! The end of a download: FILE appears, or what is there is kept, put aside or thrown away, and what it means is told.
//! Writes through its place.

use jiff::Timestamp;

use super::flow::Flow;
use super::judge::judge;
use super::place::{EMPTY_GZIP, Place};
use super::told::Told;
use super::trouble::Trouble;
use super::whole;
use crate::cli::size;

impl Flow<'_> {
    /// Deletes the session of a part that `--force` threw away, where it was opened for that part.
    pub(super) async fn throw_away(&mut self) {
        let Place::File(part) = &mut self.place else {
            return;
        };
        let thrown = part
            .thrown_away
            .take()
            .and_then(|note| Some((note.current?, note.identity)));
        let Some((current, identity)) = thrown.filter(|(current, _)| current.ours) else {
            return;
        };
        let source = self.source;
        if (identity.endpoint.as_str(), &identity.space) == (source.tracker.endpoint(), &source.space) {
            self.opened(Some(current.session));
            self.let_go().await;
        } else {
            let place = format!("space {} at {}", identity.space, identity.endpoint);
            let why = format!("it was opened for the part that --force threw away, in {place}");
            self.left.push((current.session, why));
        }
    }

    /// What came of it; judged by what the service reports where it came whole.
    pub(super) async fn told(&mut self, whole: bool) -> Told {
        let ranges = || self.sections.iter().filter_map(|section| section.range);
        let (start, end) = (
            ranges().map(|range| range.0).min(),
            ranges().map(|range| range.1).max(),
        );
        let after = match start.zip(end).filter(|_| whole) {
            Some((start, end)) => self.listing(start, end).await,
            None => None,
        };
        let now = Timestamp::now();
        let sessions: Vec<_> = std::mem::take(&mut self.sections)
            .into_iter()
            .map(|section| {
                let judged = judge(&section, &self.before, after.as_ref(), now);
                (section, judged)
            })
            .collect();
        let doubts = sessions.iter().flat_map(|(_, judged)| judged.doubts.clone());
        Told {
            file: None,
            decompressed: false,
            doubts: if whole { doubts.collect() } else { Vec::new() },
            sessions,
            sha256: self.sha256.take(),
            found: self.found,
            left: std::mem::take(&mut self.left),
            kept: self.keep,
            failed: None,
        }
    }
}

/// All came: FILE appears, or the last byte goes out.
pub async fn finish(place: Place, told: &Told, decompress: bool) -> Result<(), Trouble> {
    let nothing = told.sha256.is_none();
    if nothing && !told.doubts.is_empty() {
        if let Place::File(part) = place {
            part.discard();
        }
        return Err(Trouble::Nothing);
    }
    match place {
        Place::File(part) => Ok(whole::commit(*part, decompress).await?),
        Place::Pipe(mut pipe) => {
            let mut written = Ok(());
            if nothing && !decompress {
                written = pipe.pour.push(EMPTY_GZIP.as_slice().into()).await;
            }
            if written.is_ok() {
                written = pipe.pour.finish().await;
            }
            written.map_err(|error| Trouble::of_write(error, &Place::Pipe(pipe)))
        }
    }
}

/// It ended early: what is there is kept where it is of use, and a person is told what to do. `there` are the bytes that
/// are in the part, or that standard output has seen.
pub fn leave(place: Place, trouble: &Trouble, there: u64) -> String {
    let Place::File(part) = place else {
        return if there > 0 {
            format!("{trouble}; what standard output has seen is not the whole: do not use it")
        } else {
            trouble.to_string()
        };
    };
    let bytes = size::bytes(there);
    match trouble {
        Trouble::Proof { .. } => match part.set_aside() {
            Ok(broken) => format!(
                "{trouble}; the bytes are kept as {}, for `gzip -dc` to show what can be read of them",
                broken.display()
            ),
            Err(error) => format!("{trouble}; {error}"),
        },
        Trouble::Differs(_) => {
            part.discard();
            trouble.to_string()
        }
        _ if there == 0 => {
            part.discard();
            trouble.to_string()
        }
        Trouble::Gone { .. } | Trouble::NoSession { .. } => format!(
            "{trouble}; {} has {bytes} of it: remove it, or begin another download with --force",
            part.names.part.display()
        ),
        _ => format!(
            "{trouble}; {bytes} are kept in {}: the same command goes on behind them",
            part.names.part.display()
        ),
    }
}
