//! `eventexport status`: lists the days of the service beside those of the archive. Reads the service and the store;
//! changes nothing.

mod view;

use std::path::PathBuf;
use std::str::FromStr;

use jiff::Span;
use jiff::civil::Date;

use self::view::{Archive, rows, status_json, status_table};
use super::archived;
use super::day::{check_order, day};
use super::exit::{CliError, Exit};
use super::open_archive::{OpenArchive, open_archives};
use super::output::{OutputArgs, write_stderr};
use super::session::create::today;
use super::settings::destination::S3Args;
use super::settings::location::{ARCHIVE_VALUE, ArchiveLocation};
use super::settings::source::{SourceArgs, SourceConnection};
use crate::archive::layout::ArchiveRoot;
use crate::tracker::Day;

const SCHEMA: &str = "eventexport.io/status/v2";

/// Default number of days: two weeks, as `cf at status`.
const DEFAULT_DAYS: i32 = 14;

/// Maximum number of days: a leap year.
const DAYS_MAX: i32 = 366;

/// Show the days that the service has events for, and compare them with an archive.
///
/// Prints the table of `cf at status` for the last two weeks or the given days. With an archive (--archive, -f, or from the
/// context), the column ARCHIVED shows what is stored and proved of each day, or what is missing. COUNT, SIZE, TYPES and
/// SEARCHABLE are values of the service; the unit of SIZE is unknown.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// First UTC day (default: 13 days before the last)
    #[arg(short, long, value_name = "DATE", alias = "from", value_parser = day)]
    pub start: Option<Date>,
    /// Last UTC day (default: today)
    #[arg(short, long, value_name = "DATE", value_parser = day)]
    pub end: Option<Date>,
    /// Archive to compare with: a directory, or `s3://bucket/prefix` (default: the archive of the context)
    #[arg(long, value_name = ARCHIVE_VALUE, value_parser = ArchiveLocation::parser())]
    pub archive: Option<ArchiveLocation>,
    /// Earlier spelling of --end with a day, and of --archive with a location
    #[arg(long, hide = true, value_name = "DATE|DIR|S3-URL", value_parser = ToArg::from_str)]
    pub to: Vec<ToArg>,
    /// Manifest with `EventExport` resources and their Secrets; its destination is the archive; `-` reads standard
    /// input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub s3: S3Args,
}

/// Value of `--to`, the earlier spelling of two flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToArg {
    /// Value of `--end`.
    Day(Date),
    /// Value of `--archive`.
    Archive(ArchiveLocation),
}

impl FromStr for ToArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A date that does not exist is a mistake, not a folder.
        let like_a_day = text.len() == 10
            && text.bytes().enumerate().all(|(at, byte)| {
                if matches!(at, 4 | 7) {
                    byte == b'-'
                } else {
                    byte.is_ascii_digit()
                }
            });
        if like_a_day {
            return day(text).map(Self::Day);
        }
        let location = text.parse::<ArchiveLocation>();
        location.map(Self::Archive).map_err(|error| error.to_string())
    }
}

const EXAMPLES: &str = "\
Examples:
  The last two weeks, as `cf at status`:
    eventexport status
  Days of the account, compared with an archive:
    eventexport status --start 2018-06-01 --end 2018-06-30 --account --archive s3://audit/tracker
  Days that are missing in the archive, for scripts:
    eventexport status --archive ./export --output json |
      jq -r '.days[] | select(.archived.state == \"Missing\") | .date'";

/// Runs `eventexport status`.
pub async fn run(args: StatusArgs) -> Result<Exit, CliError> {
    args.output.finish(SCHEMA, Box::pin(status(&args)).await)
}

async fn status(args: &StatusArgs) -> Result<Exit, CliError> {
    args.output.start_log()?;
    let (end, location) = with_to_args(args.end, args.archive.clone(), &args.to)?;
    let (start, end) = day_range(args.start, end, today())?;
    let source = args.source.connect()?;
    let archive = match open_archive(args, location, &source).await? {
        Some(location) => {
            let root = archive_root(&location, &source);
            Some(Archive {
                name: location.name.clone(),
                journal: archived::read_days(&location, &root, start, end).await,
                root,
                export: location.export.clone(),
            })
        }
        None => None,
    };
    let listed = source
        .tracker
        .list_days(&source.space, start, end, source.account)
        .await;
    let listed = listed.map(|days| {
        let in_range = |day: &Day| (start..=end).contains(&day.date);
        days.into_iter().filter(in_range).collect::<Vec<_>>()
    });
    let (days, warning) = match listed {
        Ok(days) => (days, None),
        // The table is still useful without the listing of the service.
        Err(error) if archive.is_some() => (Vec::new(), Some(source.error_text(&error))),
        Err(error) => return Err(source.tracker_error(&error)),
    };
    let rows = rows(days, archive.as_ref(), (start, end), source.tracker.endpoint());
    let document = status_json(&source, (start, end), &rows, archive.as_ref(), warning.as_deref());
    args.output.print(SCHEMA, document, || {
        status_table(&rows, archive.as_ref(), warning.is_some(), (start, end))
    })?;
    if !rows.is_empty() && warning.is_none() {
        args.output
            .note("COUNT and SIZE are reported by the service; the unit of SIZE is unknown.");
    }
    let journal_error = archive
        .as_ref()
        .and_then(|archive| archive.journal.as_ref().err());
    if !args.output.is_json() {
        for error in warning.iter().chain(journal_error) {
            write_stderr(&format!("eventexport: {error}"));
        }
    }
    Ok(if warning.is_some() || journal_error.is_some() {
        Exit::Failed
    } else {
        Exit::Done
    })
}

/// Returns `--end` and `--archive` with the values of `--to`.
fn with_to_args(
    mut end: Option<Date>,
    mut archive: Option<ArchiveLocation>,
    to: &[ToArg],
) -> Result<(Option<Date>, Option<ArchiveLocation>), CliError> {
    for value in to {
        let (flag, repeated) = match value {
            ToArg::Day(day) => ("--end", end.replace(*day).is_some()),
            ToArg::Archive(location) => ("--archive", archive.replace(location.clone()).is_some()),
        };
        if repeated {
            return Err(CliError::usage(format!(
                "{flag}: is given twice (--to is an earlier spelling of it): remove one"
            )));
        }
    }
    Ok((end, archive))
}

fn day_range(start: Option<Date>, end: Option<Date>, today: Date) -> Result<(Date, Date), CliError> {
    let end = end.unwrap_or(today);
    let start = start.unwrap_or_else(|| end.saturating_sub(Span::new().days(DEFAULT_DAYS - 1)));
    check_order(Some(start), Some(end))?;
    let days = (end - start).get_days() + 1;
    if days > DAYS_MAX {
        return Err(CliError::usage(format!(
            "--start: {start} to {end} is {days} days; the maximum is {DAYS_MAX}"
        )));
    }
    Ok((start, end))
}

/// Opens the archive given by flags, else by the context.
async fn open_archive(
    args: &StatusArgs,
    location: Option<ArchiveLocation>,
    source: &SourceConnection,
) -> Result<Option<OpenArchive>, CliError> {
    let context = source.context.as_ref();
    let mut found = open_archives(location.as_ref(), &args.files, &args.s3, context).await?;
    if args.files.is_empty() {
        return Ok(found.pop());
    }
    let fits = |location: &OpenArchive| {
        location
            .export
            .as_ref()
            .is_some_and(|export| export.space == source.space && export.scope.as_key() == source.scope())
    };
    found.into_iter().find(fits).map(Some).ok_or_else(|| {
        CliError::usage(format!(
            "-f: the manifest has no EventExport for {} {}: give the space and scope of one, or another manifest",
            source.scope(),
            source.space
        ))
    })
}

/// Returns the root of the space and scope in the archive.
fn archive_root(location: &OpenArchive, source: &SourceConnection) -> ArchiveRoot {
    match &location.export {
        Some(export) => export.root.clone(),
        None => ArchiveRoot::new(&location.prefix, &source.space, source.scope()),
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn to_accepts_one_day_and_one_archive() {
        let read = |texts: &[&str]| {
            let given: Result<Vec<ToArg>, _> = texts.iter().map(|text| text.parse()).collect();
            given.and_then(|given| with_to_args(None, None, &given).map_err(|error| error.to_string()))
        };
        let (day, location) = read(&["2018-06-28", "./2018-06-28"]).unwrap();
        assert_eq!(day, Some(date(2018, 6, 28)));
        assert_eq!(location, Some(ArchiveLocation::Directory("./2018-06-28".into())));
        for wrong in [
            &["2018-06-31"][..],
            &["2018-06-01", "2018-06-02"],
            &["a", "b"],
            &["http://x"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_default_range_is_two_weeks() {
        let today = date(2018, 7, 1);
        assert_eq!(
            day_range(None, None, today).ok(),
            Some((date(2018, 6, 18), today))
        );
        let to = date(2018, 6, 14);
        assert_eq!(
            day_range(None, Some(to), today).ok(),
            Some((date(2018, 6, 1), to))
        );
        assert_eq!(day_range(Some(to), None, today).ok(), Some((to, today)));
        assert!(day_range(Some(today), Some(to), today).is_err());
        assert!(day_range(Some(date(2017, 1, 1)), None, today).is_err());
    }
}
