//! Evidence that an auditor gives for the check of an archive: public keys, noted manifests, and days. Shared by `verify`
//! and `report`. Reads the keys.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::civil::Date;

use super::day::{check_order, day};
use super::documents;
use super::exit::CliError;
use super::open_archive::OpenArchive;
use super::session::create::today;
use crate::archive::manifest::Head;
use crate::archive::manifest::signature::PublicKey;
use crate::archive::verify::archive::VerifyOptions;
use crate::archive::verify::attestation::Unsigned;

/// Evidence as typed.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EvidenceArgs {
    /// Ed25519 public key (PEM) of the exporter: every manifest must be signed with it, and every window be in a signed
    /// manifest or have a signed receipt; may be repeated for rotated keys
    #[arg(long = "public-key", value_name = "FILE")]
    pub public_keys: Vec<PathBuf>,
    /// Accept manifests and receipts without a signature; existing signatures are still checked
    #[arg(long, requires = "public_keys", conflicts_with = "unsigned_since")]
    pub allow_unsigned: bool,
    /// Accept receipts without a signature for windows from this UTC day on
    #[arg(long, value_name = "DATE", value_parser = day, requires = "public_keys")]
    pub unsigned_since: Option<Date>,
    /// Manifest that was noted earlier, as SEQ:SHA256 (`verify` and `run` print the newest one): it must be in the chain,
    /// which may be longer; may be repeated
    #[arg(long = "head", value_name = "SEQ:SHA256")]
    pub heads: Vec<Head>,
    /// First UTC day to prove: every hour from it to the last day must be stored or an accepted gap; windows of earlier days
    /// are not verified
    #[arg(short, long, value_name = "DATE", alias = "since", value_parser = day)]
    pub start: Option<Date>,
    /// Last UTC day to prove; windows of later days are not verified
    #[arg(short, long, value_name = "DATE", alias = "until", value_parser = day)]
    pub end: Option<Date>,
}

/// Evidence that was read and checked.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Public keys.
    pub keys: Vec<PublicKey>,
    /// Manifests that were noted.
    pub heads: Vec<Head>,
    unsigned: Unsigned,
    days: (Option<Date>, Option<Date>),
}

impl EvidenceArgs {
    /// Reads the keys, and checks the days.
    pub fn read(&self) -> Result<Evidence, CliError> {
        let keys = read_public_keys(&self.public_keys)?;
        check_days(self.start, self.end, today())?;
        Ok(Evidence {
            keys,
            heads: self.heads.clone(),
            unsigned: match (self.allow_unsigned, self.unsigned_since) {
                (true, _) => Unsigned::Allowed,
                (false, Some(day)) => Unsigned::Since(day),
                (false, None) => Unsigned::Refused,
            },
            days: (self.start, self.end),
        })
    }
}

impl Evidence {
    /// Refuses heads for several archives.
    pub fn check_locations(&self, locations: &[OpenArchive]) -> Result<(), CliError> {
        if !self.heads.is_empty() && locations.len() > 1 {
            return Err(CliError::usage(format!(
                "--head: a head belongs to one archive, and there are {}: name one of them",
                locations.len()
            )));
        }
        Ok(())
    }

    /// Returns the options of a complete verification of an archive.
    pub fn options(&self, location: &OpenArchive) -> VerifyOptions {
        let (since, until) = self.days;
        VerifyOptions {
            expectation: location.expectation(),
            hour: location.export.as_ref().and_then(|export| export.hour),
            keys: self.keys.clone(),
            unsigned: self.unsigned,
            heads: self.heads.clone(),
            since,
            until,
            ..VerifyOptions::new(Arc::clone(&location.store), &location.prefix)
        }
    }
}

/// Checks the asserted days. Nothing can be stored of a day in the future.
pub(super) fn check_days(start: Option<Date>, end: Option<Date>, today: Date) -> Result<(), CliError> {
    for (flag, day) in [("--start", start), ("--end", end)] {
        if let Some(day) = day.filter(|day| *day > today) {
            return Err(CliError::usage(format!("{flag}: {day} is in the future")));
        }
    }
    check_order(start, end)
}

fn read_public_keys(files: &[PathBuf]) -> Result<Vec<PublicKey>, CliError> {
    let read = |file: &PathBuf| {
        let pem = documents::read_small_file(file)
            .map_err(|error| CliError::usage(format!("--public-key: {error}")))?;
        PublicKey::from_pem(&pem)
            .map_err(|error| CliError::usage(format!("--public-key: {} {error}", file.display())))
    };
    files.iter().map(read).collect()
}
