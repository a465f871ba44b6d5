//! Creates FILE from a complete partial file, decompressed if requested. Reads and writes files.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::part::{PartError, PartFile, io_error, with_suffix};
use super::sink::EMPTY_GZIP;
use crate::pipeline::gzip::GzipVerifier;

/// Size of a read: 256 KiB.
const READ_BYTES: usize = 256 * 1024;

/// Turns a complete and verified partial file into FILE, atomically.
pub async fn commit(part: PartFile, decompress: bool) -> Result<(), PartError> {
    if part.bytes()? == 0 && !decompress {
        let part_error = |error| io_error(&part.paths.part, "write", error);
        part.writer()?.write_all(&EMPTY_GZIP).map_err(part_error)?;
    }
    part.sync().await?;
    if !decompress {
        return part.commit();
    }
    let (source, target) = (
        part.paths.part.clone(),
        with_suffix(&part.paths.file, ".part.out"),
    );
    let created = target.clone();
    let inflated = tokio::task::spawn_blocking(move || inflate(&source, &created)).await;
    let inflated = inflated.unwrap_or_else(|error| Err(io::Error::other(error)));
    if let Err(error) = inflated {
        // Frees the disk space; the partial file is complete and stays.
        let _ = fs::remove_file(&target);
        return Err(io_error(&target, "write", error));
    }
    part.commit_as(&target)
}

/// Decompresses all gzip members of `source` to `target`, and syncs it.
fn inflate(source: &Path, target: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(source)?, File::create(target)?);
    let mut gzip = GzipVerifier::default();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        let mut written = Ok(());
        gzip.push(chunk.get(..read).unwrap_or_default(), &mut |data| {
            if written.is_ok() {
                written = to.write_all(data);
            }
        })
        .map_err(io::Error::other)?;
        written?;
    }
    to.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::part_state::DownloadIdentity;
    use super::super::request::DownloadRequest;
    use super::*;

    fn part(file: &Path) -> PartFile {
        let identity = DownloadIdentity {
            endpoint: "http://t.example".to_owned(),
            space: "s".to_owned(),
            asked: DownloadRequest::Session { id: "a".to_owned() },
        };
        PartFile::open(file, false, identity).unwrap()
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn members_are_decompressed_in_order_and_temporary_files_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.json");
        let part = part(&file);
        let bytes = [gzip("{\"a\":1}\n"), gzip("{\"a\":2}\n")].concat();
        part.writer().unwrap().write_all(&bytes).unwrap();
        commit(part, true).await.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn no_bytes_become_an_empty_gzip_or_an_empty_file() {
        let folder = tempfile::tempdir().unwrap();
        for (name, decompress, expected) in [("a.gz", false, &EMPTY_GZIP[..]), ("a.json", true, b"")] {
            let file = folder.path().join(name);
            commit(part(&file), decompress).await.unwrap();
            assert_eq!(fs::read(&file).unwrap(), expected);
        }
    }
}
