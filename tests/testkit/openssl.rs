//! Keys and signatures by `openssl`, which shares no code with the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs `openssl` in a folder.
pub(crate) fn try_openssl(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(folder).output().unwrap()
}

/// Runs `openssl` in a folder, which must succeed; returns its standard output.
#[track_caller]
pub(crate) fn openssl(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let done = try_openssl(folder, arguments);
    assert!(done.status.success(), "openssl {arguments:?}: {done:?}");
    done.stdout
}

/// Creates an Ed25519 key in `NAME.pem` and its public half in `NAME.pub.pem`; returns their paths.
pub(crate) fn key_pair(folder: &Path, name: &str) -> [PathBuf; 2] {
    let [private, public] = [format!("{name}.pem"), format!("{name}.pub.pem")];
    openssl(folder, &["genpkey", "-algorithm", "ed25519", "-out", &private]);
    openssl(folder, &["pkey", "-in", &private, "-pubout", "-out", &public]);
    [private, public].map(|file| folder.join(file))
}

/// True if `DOCUMENT.sig` is the signature of a document by the owner of the public key.
pub(crate) fn is_signed(folder: &Path, document: &str, public: &Path) -> bool {
    let (public, signature) = (public.to_str().unwrap(), format!("{document}.sig"));
    let verify = ["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey", public];
    let files = ["-sigfile", &signature, "-in", document];
    try_openssl(folder, &[&verify[..], &files].concat())
        .status
        .success()
}
