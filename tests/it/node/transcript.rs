//! Transcript of a test: printed, and kept in `target/e2e/`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};

pub(super) struct Transcript {
    began: Instant,
    path: PathBuf,
    file: Mutex<File>,
}

impl Transcript {
    /// Creates a file of this name and title.
    pub(super) fn create(name: &str, title: &str) -> Result<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/e2e");
        fs::create_dir_all(&folder).context("target/e2e")?;
        let path = folder.join(name);
        let transcript = Self {
            began: Instant::now(),
            file: Mutex::new(File::create(&path)?),
            path,
        };
        transcript.write(&format!("# {title}\n"));
        Ok(transcript)
    }

    /// Path of the transcript.
    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Starts a section.
    pub(super) fn part(&self, title: &str) {
        self.write(&format!("\n## {title}\n"));
    }

    /// Adds a sentence with the time since the start.
    pub(super) fn say(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.write(&format!("\n[{seconds:5.1} s] {text}"));
    }

    /// Adds a command and its output.
    pub(super) fn show(&self, command: &str, printed: &str) {
        self.write(&format!("\n```\n$ {command}\n{}\n```", printed.trim_end()));
    }

    fn write(&self, text: &str) {
        println!("{text}");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A write failure must not hide the test's result.
        let _ = writeln!(file, "{text}").and_then(|()| file.flush());
    }
}
