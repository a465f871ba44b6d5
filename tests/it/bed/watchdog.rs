//! Runs the programs of a test bed in one temporary folder and ensures that neither they nor the folder outlive the
//! test process.
//!
//! Statics are never dropped and a test may be killed, so Rust cannot do the cleanup: a small shell script
//! (`watchdog.sh`) holds the read end of a pipe, of which only this process has the write end, and cleans up when the
//! pipe closes.
//!
//! The pipes are blocking on purpose: tokio pipes would belong to the runtime of the first test. An exchange takes
//! milliseconds.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Maximum lines of a program's log in an error.
const LOG_TAIL: usize = 25;

/// Program that the watchdog runs.
pub(super) struct Program {
    /// Name of the program and its log, unique within the watchdog.
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
    /// Values that must not show in a process list.
    pub(super) env: Vec<(&'static str, String)>,
}

pub(super) struct Watchdog {
    folder: PathBuf,
    shell: Mutex<Shell>,
}

struct Shell {
    process: Child,
    /// `None` once closed, which requests the cleanup.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Watchdog {
    /// Creates a folder of that name and starts the shell that guards it.
    pub(super) fn new(name: &str) -> Result<Self> {
        let keep = std::env::var_os("BED_KEEP").is_some_and(|value| value != "0");
        let folder = tempfile::Builder::new()
            .prefix(&format!("eventexport-{name}-"))
            .tempdir()
            .context("cannot make a temporary folder for the test bed")?
            .keep();
        if keep {
            println!("bed: {name} is in {}", folder.display());
        }
        let script = folder.join("watchdog.sh");
        fs::write(&script, include_str!("watchdog.sh"))?;
        let log = fs::File::create(folder.join("watchdog.log"))?;
        let mut process = Command::new("sh")
            .arg(&script)
            .arg(&folder)
            .args(keep.then_some("keep"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Own process group: Ctrl-C ends the tests, and the closed pipe ends the watchdog.
            .process_group(0)
            .spawn()
            .context("cannot start sh, which guards the test bed's programs")?;
        let commands = process.stdin.take();
        let answers = process
            .stdout
            .take()
            .context("the watchdog has no standard output")?;
        Ok(Self {
            folder,
            shell: Mutex::new(Shell {
                process,
                commands,
                answers: BufReader::new(answers),
            }),
        })
    }

    /// Folder for the data of the programs; removed with the watchdog.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a program, or restarts it after [`stop`](Self::stop), and returns its process id.
    pub(super) fn start(&self, program: &Program) -> Result<u32> {
        let name = program.name;
        fs::write(self.folder.join(format!("{name}.sh")), shell_script(program))?;
        let answer = self.ask(&format!("start {name}"))?;
        answer
            .rsplit(' ')
            .next()
            .and_then(|id| id.parse().ok())
            .with_context(|| format!("the watchdog answered {answer:?} to the start of {name}"))
    }

    /// Kills a program and waits for its end. Its data stay.
    pub(super) fn stop(&self, name: &str) -> Result<()> {
        self.ask(&format!("stop {name}")).map(drop)
    }

    /// Waits until the probe succeeds, at most `limit`. Fails at once if the program ends; the error shows the end of
    /// its log.
    pub(super) async fn ready(
        &self,
        name: &str,
        limit: Duration,
        probe: impl AsyncFn() -> bool,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Ok(status) = fs::read_to_string(self.folder.join(format!("{name}.exit"))) {
                let tail = self.log_tail(name);
                bail!(
                    "{name} ended with status {} while it started:\n{tail}",
                    status.trim()
                );
            }
            if probe().await {
                return Ok(());
            }
            if begun.elapsed() > limit {
                let tail = self.log_tail(name);
                bail!("{name} was not ready after {} s:\n{tail}", limit.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn log_tail(&self, name: &str) -> String {
        let path = self.folder.join(format!("{name}.log"));
        let bytes = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let mut tail = format!("--- end of {}\n", path.display());
        for line in lines.iter().skip(lines.len().saturating_sub(LOG_TAIL)) {
            let _ = writeln!(tail, "{line}");
        }
        tail
    }

    /// Sends one command and reads one line.
    fn ask(&self, command: &str) -> Result<String> {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        let commands = shell.commands.as_mut().context("the watchdog has been closed")?;
        writeln!(commands, "{command}").context("the watchdog is gone")?;
        let mut answer = String::new();
        let read = shell.answers.read_line(&mut answer)?;
        if read == 0 {
            bail!("the watchdog ended at the command {command:?}");
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Watchdog {
    /// Returns when programs and folder are gone.
    fn drop(&mut self) {
        let shell = self.shell.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(shell.commands.take());
        let _ = shell.process.wait();
    }
}

/// Uses `exec`, so that the program keeps the process id that the shell knows.
fn shell_script(program: &Program) -> String {
    let mut script = String::new();
    for (name, value) in &program.env {
        let _ = writeln!(script, "export {name}={}", quoted(value));
    }
    let _ = write!(script, "exec {}", quoted(&program.path.display().to_string()));
    for argument in &program.args {
        let _ = write!(script, " {}", quoted(argument));
    }
    script.push('\n');
    script
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
