//! Time stamps of manifests and checkpoints by a real authority (`openssl ts`) on loopback.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::process::Command;

use crate::testkit::command::{program_in, run_blocking};
use crate::testkit::manifest::Manifest;
use crate::testkit::openssl::openssl;

const CONFIG: &str = "
[ req ]
distinguished_name = dn
prompt = no
[ dn ]
CN = Test time-stamp authority
[ tsa_ext ]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
[ tsa ]
default_tsa = tsa1
[ tsa1 ]
serial = ./serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
";

const FIRST: &str = "_manifests/00000001.json";
const SECOND: &str = "_manifests/00000002.json";

/// Time-stamp authority on loopback.
struct Authority {
    folder: TempDir,
    address: String,
    /// False: answers with status 503.
    up: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

impl Authority {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tsa.cnf"), CONFIG).unwrap();
        fs::write(folder.path().join("serial"), "01\n").unwrap();
        let request = "req -new -newkey rsa:2048 -nodes -keyout key.pem -x509 -days 30 -extensions tsa_ext -config tsa.cnf -out ca.pem";
        openssl(folder.path(), &words(request));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let authority = Self {
            address,
            up: Arc::new(AtomicBool::new(true)),
            requests: Arc::default(),
            folder,
        };
        let (up, requests) = (Arc::clone(&authority.up), Arc::clone(&authority.requests));
        let folder = authority.folder.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                requests.fetch_add(1, Ordering::Relaxed);
                answer(stream, &folder, up.load(Ordering::Relaxed));
            }
        });
        authority
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

fn answer(stream: TcpStream, folder: &Path, up: bool) {
    let mut reader = BufReader::new(stream);
    let (mut length, mut query) = (0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        query |= line.trim_end() == "content-type: application/timestamp-query";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (status, reply) = if up && query {
        fs::write(folder.join("query.tsq"), body).unwrap();
        let reply =
            "ts -reply -config tsa.cnf -queryfile query.tsq -signer ca.pem -inkey key.pem -out reply.tsr";
        openssl(folder, &words(reply));
        ("200 OK", fs::read(folder.join("reply.tsr")).unwrap())
    } else {
        ("503 Service Unavailable", Vec::new())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/timestamp-reply\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        reply.len()
    );
    let mut stream = reader.into_inner();
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&reply));
}

fn words(arguments: &str) -> Vec<&str> {
    arguments.split(' ').collect()
}

/// Runs the export of the days up to `last`. Returns the exit code and all output.
fn run(folder: &Path, authority: &Authority, last: u8) -> (Option<i32>, String) {
    Manifest::simulated("audit")
        .days("2018-06-01", &format!("2018-06-0{last}"))
        .set("destination.s3.prefix", "tracker")
        .set(
            "manifest.timestampAuthority",
            format!("http://{}/tsr", authority.address),
        )
        .write(folder.join("audit.yaml"));
    output(program_in(
        folder,
        &["run", "--simulate", "-f", "audit.yaml", "--archive", "export"],
    ))
}

fn output(command: Command) -> (Option<i32>, String) {
    let done = run_blocking(command);
    (done.code, done.text())
}

#[test]
fn an_authority_stamps_each_manifest_and_delays_nothing_while_it_is_down() {
    let authority = Authority::start();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("export/tracker/space=c1/scope=space");
    let stamp = |document: &str| root.join(format!("{document}.tsr"));
    let ca = authority.ca();
    let (code, text) = run(folder.path(), &authority, 2);
    assert_eq!(code, Some(0), "{text}");
    let check = format!(
        "ts -verify -data {FIRST} -in {FIRST}.tsr -CAfile {}",
        ca.display()
    );
    openssl(&root, &words(&check));
    // Again, nothing is asked.
    assert_eq!(run(folder.path(), &authority, 2).0, Some(0));
    assert_eq!(authority.requests.load(Ordering::Relaxed), 1);

    authority.up.store(false, Ordering::Relaxed);
    let (code, text) = run(folder.path(), &authority, 3);
    assert_eq!(code, Some(0), "{text}");
    for words in [
        "TimestampMissing",
        SECOND,
        &authority.address,
        "status 503",
        "spec.manifest.timestampAuthority",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(root.join(SECOND).exists() && !stamp(SECOND).exists());
    authority.up.store(true, Ordering::Relaxed);
    assert_eq!(run(folder.path(), &authority, 3).0, Some(0));
    let first = fs::read(stamp(FIRST)).unwrap();
    let second = fs::read(stamp(SECOND)).unwrap();

    let verify = || output(program_in(folder.path(), &["verify", "export"]));
    let audit = |arguments: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.sh");
        let mut command = Command::new("sh");
        command.arg(script).args(arguments).arg(&root);
        output(command)
    };
    let with_ca = ["--timestamp-ca", ca.to_str().unwrap()];
    let (code, text) = verify();
    assert!(code == Some(0) && text.contains("TimestampUnchecked"), "{text}");
    assert_eq!(audit(&[]).0, Some(0), "{}", audit(&[]).1);
    assert_eq!(audit(&with_ca).0, Some(0), "{}", audit(&with_ca).1);
    // Another authority signed none of them.
    let other = Authority::start();
    let foreign = audit(&["--timestamp-ca", other.ca().to_str().unwrap()]);
    assert!(
        foreign.0 == Some(1) && foreign.1.contains("FAIL  time stamps: 2"),
        "{}",
        foreign.1
    );
    for (damaged, found) in [
        (&first[..], "another document"),
        (b"<html>", "not a time-stamp reply"),
        (&second[..second.len() - 1], "not a time-stamp reply"),
    ] {
        fs::write(stamp(SECOND), damaged).unwrap();
        let (code, text) = verify();
        assert_eq!(code, Some(1), "{found}: {text}");
        assert!(
            text.contains("TimestampInvalid") && text.contains(found),
            "{found}: {text}"
        );
        for arguments in [&[][..], &with_ca] {
            let (code, text) = audit(arguments);
            assert_eq!(code, Some(1), "{found}: {text}");
            assert!(text.contains(&format!("{SECOND}.tsr")), "{text}");
        }
    }
}
