//! `eventexport ddl`: prints SQL that declares the events of an archive in a query engine. Reads nothing.

use std::path::Path;

use super::exit::{CliError, Exit};
use super::output::write_stdout;
use super::settings::location::ArchiveLocation;

/// Print the SQL that declares the events of an archive as a table, for `DuckDB`, Athena or Trino.
///
/// The table has the folders of the archive as columns: `space`, `scope` and `date`. Where ARCHIVE ends inside of these folders,
/// it has the remaining ones. Athena and Trino read each line as one column, `event`, so that no field needs a declaration:
/// `json_extract_scalar(event, '$.payload.outcome')`. A day that was exported both as a day and by the hour is there twice: `cat`
/// prints each event once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DdlArgs {
    /// Archive: a directory (`DuckDB` only), or `s3://bucket/prefix`
    #[arg(value_name = "ARCHIVE", value_parser = ArchiveLocation::parser())]
    pub archive: ArchiveLocation,
    /// Query engine
    #[arg(long = "for", value_enum, value_name = "ENGINE")]
    pub engine: QueryEngine,
    /// Name of the table or view
    #[arg(long, value_name = "NAME", default_value = "events")]
    pub table: String,
}

const EXAMPLES: &str = "\
Examples:
  Count the events of each day in DuckDB:
    eventexport ddl --for duckdb ./export > events.sql
    duckdb -init events.sql -c 'SELECT date, count(*) FROM events GROUP BY date ORDER BY date'
  Declare a bucket in Athena:
    eventexport ddl --for athena s3://audit/tracker";

/// Query engine of the SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum QueryEngine {
    /// `DuckDB`.
    Duckdb,
    /// Amazon Athena.
    Athena,
    /// Trino, with the Hive connector.
    Trino,
}

/// Prints the SQL.
pub fn run(args: &DdlArgs) -> Result<Exit, CliError> {
    write_stdout(&ddl(args)?).map(|()| Exit::Done)
}

fn ddl(args: &DdlArgs) -> Result<String, CliError> {
    let DdlArgs {
        archive,
        engine,
        table,
    } = args;
    let url = url(archive)?;
    if table.is_empty() || table.contains(char::is_control) {
        return Err(CliError::usage(
            "--table: the name is empty or has control characters",
        ));
    }
    let folders = folders(&url);
    match (engine, archive) {
        (QueryEngine::Duckdb, _) => Ok(duckdb(&url, table, &folders)),
        (_, ArchiveLocation::Directory(_)) => Err(CliError::usage(format!(
            "{url} is a directory, and this engine reads buckets: name s3://bucket/prefix, or use --for duckdb"
        ))),
        (QueryEngine::Athena, _) => Ok(athena(&url, table, &folders)),
        (QueryEngine::Trino, _) => Ok(trino(&url, table, &folders)),
    }
}

/// Returns the location without a slash at its end. SQL and globs have no way to write some characters.
fn url(archive: &ArchiveLocation) -> Result<String, CliError> {
    let url = match archive {
        ArchiveLocation::Directory(path) => path_text(path)?,
        ArchiveLocation::Bucket { .. } => archive.to_string(),
    };
    if url.contains(char::is_control) {
        return Err(CliError::usage(
            "ARCHIVE: the location has control characters, which SQL cannot name",
        ));
    }
    Ok(url)
}

fn path_text(path: &Path) -> Result<String, CliError> {
    let text = path.to_str();
    let text =
        text.ok_or_else(|| CliError::usage("ARCHIVE: the path is not UTF-8, so SQL cannot name it"))?;
    let text = text.trim_end_matches('/');
    Ok(if text.is_empty() { "/." } else { text }.to_owned())
}

/// Returns the folders below a location, which are the partitions.
fn folders(url: &str) -> Vec<&'static str> {
    let last = url.rsplit('/').next().unwrap_or_default();
    let all = ["space", "scope", "date"];
    let given = all.iter().position(|name| {
        let value = last.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        value.is_some()
    });
    all.into_iter().skip(given.map_or(0, |at| at + 1)).collect()
}

fn duckdb(url: &str, table: &str, folders: &[&str]) -> String {
    let mut files = escape_glob(url);
    for name in folders {
        files.extend(["/", name, "=*"]);
    }
    files.push_str("/events*.json.gz");
    let name = quoted(table, '"');
    format!(
        "CREATE OR REPLACE VIEW {name} AS\nSELECT * FROM read_json({}, compression = 'gzip', hive_partitioning = true, union_by_name = true);\n",
        literal(&files)
    )
}

fn athena(url: &str, table: &str, folders: &[&str]) -> String {
    let columns = columns(folders, '`', "string");
    // Hive reads a backslash in a literal as an escape, and two quotes as the end and the beginning of one.
    let location = format!("{url}/").replace('\\', "\\\\").replace('\'', "\\'");
    let name = quoted(table, '`');
    let (partitions, repair) = if columns.is_empty() {
        (String::new(), String::new())
    } else {
        (
            format!("PARTITIONED BY ({})\n", columns.join(", ")),
            format!("MSCK REPAIR TABLE {name};\n"),
        )
    };
    format!(
        "CREATE EXTERNAL TABLE {name} (event string)\n{partitions}STORED AS TEXTFILE\nLOCATION '{location}';\n{repair}"
    )
}

fn trino(url: &str, table: &str, folders: &[&str]) -> String {
    let mut columns = columns(folders, '"', "varchar");
    columns.insert(0, "event varchar".to_owned());
    let name = quoted(table, '"');
    let location = literal(&format!("{url}/"));
    let (partitions, sync) = if folders.is_empty() {
        (String::new(), String::new())
    } else {
        let names: Vec<String> = folders.iter().map(|name| literal(name)).collect();
        (
            format!(", partitioned_by = ARRAY[{}]", names.join(", ")),
            format!(
                "CALL system.sync_partition_metadata(current_schema, {}, 'FULL');\n",
                literal(table)
            ),
        )
    };
    format!(
        "CREATE TABLE {name} ({})\nWITH (external_location = {location}, format = 'TEXTFILE'{partitions});\n{sync}",
        columns.join(", ")
    )
}

fn columns(folders: &[&str], quote: char, kind: &str) -> Vec<String> {
    folders
        .iter()
        .map(|name| format!("{} {kind}", quoted(name, quote)))
        .collect()
}

/// Quotes an identifier.
fn quoted(name: &str, quote: char) -> String {
    let doubled = format!("{quote}{quote}");
    format!("{quote}{}{quote}", name.replace(quote, &doubled))
}

/// Quotes a string of standard SQL.
fn literal(text: &str) -> String {
    quoted(text, '\'')
}

/// Escapes the wildcards of a path as classes of one character.
fn escape_glob(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '*' | '?' | '[' => {
                escaped.push('[');
                escaped.push(c);
                escaped.push(']');
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(archive: &str, engine: QueryEngine, table: &str) -> Result<String, String> {
        let args = DdlArgs {
            archive: archive.parse().unwrap(),
            engine,
            table: table.to_owned(),
        };
        ddl(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_locations_are_quoted() {
        for (engine, expected) in [
            (
                QueryEngine::Duckdb,
                "CREATE OR REPLACE VIEW \"e\"\"`v\" AS\nSELECT * FROM \
                 read_json('s3://audit/it''s\\ [[]a[*][?]]/space=*/scope=*/date=*/events*.json.gz', compression = 'gzip', \
                 hive_partitioning = true, union_by_name = true);\n",
            ),
            (
                QueryEngine::Athena,
                "CREATE EXTERNAL TABLE `e\"``v` (event string)\nPARTITIONED BY (`space` string, `scope` string, `date` string)\n\
                 STORED AS TEXTFILE\nLOCATION 's3://audit/it\\'s\\\\ [a*?]/';\nMSCK REPAIR TABLE `e\"``v`;\n",
            ),
            (
                QueryEngine::Trino,
                "CREATE TABLE \"e\"\"`v\" (event varchar, \"space\" varchar, \"scope\" varchar, \"date\" varchar)\nWITH \
                 (external_location = 's3://audit/it''s\\ [a*?]/', format = 'TEXTFILE', partitioned_by = ARRAY['space', \
                 'scope', 'date']);\nCALL system.sync_partition_metadata(current_schema, 'e\"`v', 'FULL');\n",
            ),
        ] {
            assert_eq!(
                printed("s3://audit/it's\\ [a*?]", engine, "e\"`v").unwrap(),
                expected
            );
        }
    }

    #[test]
    fn the_partitions_are_the_folders_below_the_location() {
        for (archive, folders) in [
            ("s3://b", "/space=*/scope=*/date=*/events"),
            ("s3://b/x/space=c1/", "/space=c1/scope=*/date=*/events"),
            ("/a/space=c1/scope=space", "/scope=space/date=*/events"),
            ("/a/scope=space/date=2018-06-01/", "/date=2018-06-01/events"),
        ] {
            let sql = printed(archive, QueryEngine::Duckdb, "events").unwrap();
            assert!(sql.contains(folders), "{sql}");
        }
        let day = printed("s3://b/date=2018-06-01", QueryEngine::Athena, "events").unwrap();
        assert!(!day.contains("PARTITIONED") && !day.contains("MSCK"), "{day}");
    }

    #[test]
    fn locations_that_an_engine_cannot_read_are_rejected() {
        for (archive, engine, named) in [
            ("./export", QueryEngine::Athena, "--for duckdb"),
            ("./export", QueryEngine::Trino, "--for duckdb"),
            (
                "s3://b/a\n;DROP TABLE x",
                QueryEngine::Trino,
                "control characters",
            ),
        ] {
            let error = printed(archive, engine, "events").unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
