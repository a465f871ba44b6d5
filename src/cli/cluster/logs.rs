//! `kubectl eventexport logs`: the log lines of all operator Pods about one resource.

use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use super::ClusterArgs;
use crate::api::escape;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::write_stdout;

/// Label of the Pods of an operator.
const OPERATOR_LABEL: &str = "app.kubernetes.io/name=eventexport";

/// Maximum number of Pods whose logs are read: 32.
const PODS_MAX: u32 = 32;

/// Maximum length of a log line that is read: 64 KiB. The rest of a longer line is a line of its own.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Show the log lines of the operator about one `EventExport`.
///
/// Reads the logs of all Pods with the label app.kubernetes.io/name=eventexport, since another Pod may lead now, and prints
/// the lines about the resource with the name of the Pod.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct LogsArgs {
    /// Name of the `EventExport`
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Namespace of the operator (default: all namespaces are searched)
    #[arg(long, value_name = "NAMESPACE")]
    pub operator_namespace: Option<String>,
    /// Show only lines of the last SECONDS
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(1..))]
    pub seconds: Option<i64>,
    /// Go on with new lines until interrupted
    #[arg(short, long)]
    pub follow: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: ClusterArgs,
}

const EXAMPLES: &str = "\
Examples:
  The last hour:
    eventexport logs audit-2018 -n audit --seconds 3600";

pub(super) async fn run(args: LogsArgs) -> Result<Exit, CliError> {
    let cluster = args.cluster.connect().await?;
    // A wrong name shows nothing forever.
    cluster.export(&args.name).await?;
    let export = format!("{}/{}", cluster.namespace, args.name);
    let pods: Api<Pod> = match &args.operator_namespace {
        Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
        None => Api::all(cluster.client.clone()),
    };
    let params = ListParams::default().labels(OPERATOR_LABEL).limit(PODS_MAX);
    let found = pods.list(&params).await;
    let found =
        found.map_err(|error| cluster.error("list the Pods of the operator for", &args.name, &error))?;
    if found.items.is_empty() {
        return Err(CliError::Failed(anyhow::anyhow!(
            "no Pod has the label {OPERATOR_LABEL}: name the namespace of the operator with --operator-namespace"
        )));
    }
    let log = LogParams {
        follow: args.follow,
        since_seconds: args.seconds,
        ..LogParams::default()
    };
    let mut streams = Vec::new();
    for pod in &found.items {
        let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace);
        let lines = api.log_stream(&name, &log).await;
        let lines = lines.map_err(|error| {
            cluster.error(&format!("read the log of Pod {name} about"), &args.name, &error)
        })?;
        let named = lines.lines().map_ok(move |line| (name.clone(), line));
        streams.push(named.boxed());
    }
    let mut lines = stream::select_all(streams);
    while let Some((pod, line)) = lines.try_next().await.map_err(anyhow::Error::from)? {
        if is_about(&line, &export) {
            write_stdout(&format!("{pod}  {}\n", escape(&line)))?;
        }
    }
    Ok(Exit::Done)
}

/// Returns true if a log line, in JSON or text, is about the export: in its span or in a field of its own.
fn is_about(line: &str, export: &str) -> bool {
    if line.len() > LINE_BYTES_MAX {
        return false;
    }
    if let Ok(fields) = serde_json::from_str::<Value>(line) {
        return fields.get("export").and_then(Value::as_str) == Some(export);
    }
    let mut words = line.split(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | '"' | '=' | ',' | ':'));
    words.any(|word| word == export)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_export_are_told_from_those_of_others() {
        for (line, about) in [
            (
                r#"{"level":"INFO","export":"audit/a","window":"2018-06-01","message":"stored"}"#,
                true,
            ),
            (
                r#"{"level":"INFO","export":"audit/ab","message":"audit/a"}"#,
                false,
            ),
            (
                r#"2018-06-01T00:00:00Z  INFO run{export="audit/a" run=01}: stored"#,
                true,
            ),
            (
                r#"2018-06-01T00:00:00Z  INFO run{export="audit/ab" run=01}: stored"#,
                false,
            ),
            ("", false),
        ] {
            assert_eq!(is_about(line, "audit/a"), about, "{line}");
        }
    }
}
