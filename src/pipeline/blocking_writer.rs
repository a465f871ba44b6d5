//! Writer on its own thread, with a bounded queue. Writes to a file or a pipe.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Capacity of the queue: 16 chunks, of at most 512 KiB each.
const QUEUED_CHUNKS_MAX: usize = 16;

/// Writer on its own thread: a slow pipe slows the download and blocks no other task.
#[derive(Debug)]
pub struct BlockingWriter {
    sender: Option<mpsc::Sender<Bytes>>,
    task: Option<JoinHandle<io::Result<()>>>,
}

impl BlockingWriter {
    /// Starts a writer to `sink`.
    pub fn new(mut sink: impl Write + Send + 'static) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(QUEUED_CHUNKS_MAX);
        let task = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = receiver.blocking_recv() {
                sink.write_all(&chunk)?;
            }
            sink.flush()
        });
        Self {
            sender: Some(sender),
            task: Some(task),
        }
    }

    /// Returns another sender; the writer ends when all senders are dropped.
    pub fn sender(&self) -> Option<mpsc::Sender<Bytes>> {
        self.sender.clone()
    }

    /// Queues the next chunk. Fails with the error of an earlier write.
    pub async fn push(&mut self, chunk: Bytes) -> io::Result<()> {
        let sent = match &self.sender {
            Some(sender) => sender.send(chunk).await.is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(self.failure().await) }
    }

    /// Returns the error that ended the writer. Waits for its end, so call it only after a send failed.
    pub async fn failure(&mut self) -> io::Error {
        self.finish()
            .await
            .err()
            .unwrap_or_else(|| io::Error::other("the writer has ended"))
    }

    /// Waits until all chunks are written and flushed.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.sender = None;
        match self.task.take() {
            Some(task) => task.await.unwrap_or_else(|error| Err(io::Error::other(error))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn chunks_are_written_in_order_and_a_failed_write_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut writer = BlockingWriter::new(fs::File::create(&path).unwrap());
        for n in 0..100_u8 {
            writer.push(Bytes::from(vec![n; 1000])).await.unwrap();
        }
        writer.finish().await.unwrap();
        let expected: Vec<u8> = (0..100_u8).flat_map(|n| vec![n; 1000]).collect();
        assert!(fs::read(&path).unwrap() == expected);

        let mut full = BlockingWriter::new(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        let error = loop {
            if let Err(error) = full.push(Bytes::from_static(b"x")).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
