//! `eventexport operator`: arguments as typed become the operator's settings, and the operator runs until a signal.

#![allow(clippy::doc_markdown)] // the doc comments are help texts, where backticks would be noise

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use url::Url;

use super::kube_config::kube_config;
use crate::api::parse_duration;
use crate::controller::election::LeaseTiming;
use crate::controller::grants::{Grant, parse_grants};
use crate::controller::{
    DEFAULT_CONCURRENCY, DEFAULT_DEBOUNCE, EngineExporter, Exporter, LeaseSettings, OperatorConfig,
    WatchConfig, run_operator,
};
use crate::egress::{Fence, HostPolicy, PUBLIC_REGIONS, Traffic};
use crate::export::engine::{Engine, Limits};
use crate::telemetry::metrics::DEFAULT_DETAILED_RESOURCES;
use crate::telemetry::{Health, LogFormat, Metrics, Telemetry, logs};
use crate::tracker::TokenCache;

const EXAMPLES: &str = "\
Examples:
  All namespaces, the public regions and AWS S3:
    eventexport operator
  One namespace, and a store of your own:
    eventexport operator --namespace audit --allow-host public-regions,minio.example.com";

/// Watches EventExport resources and exports what they ask for, until it is told to stop.
///
/// Reaches the API server as its pod's service account, or by a kubeconfig. Several may run at once: one of them
/// is active, by a Lease, and the others stand by. When the active one loses its Lease it stops all exports and
/// exits with 1, to be started again as a candidate.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct OperatorArgs {
    /// Only EventExports of this namespace; without it, those of all namespaces
    #[arg(long, env = "EVENTEXPORT_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,

    /// Host that exports may speak to, once per host: the tracker, its UAA (also one that it names) and the store.
    /// HOST, HOST:PORT, *.SUFFIX, an IP address, or public-regions for the service's public regions and AWS S3,
    /// which is also what is allowed without it
    #[arg(
        long,
        env = "EVENTEXPORT_ALLOW_HOST",
        value_name = "HOST",
        value_delimiter = ','
    )]
    pub allow_host: Vec<String>,

    /// Lends the operator's own bucket identity, once per grant: NAMESPACE=BUCKET, NAMESPACE=BUCKET/PREFIX, or
    /// NAMESPACE=BUCKET/PREFIX@https://HOST for a store other than AWS. Without it, to nobody
    #[arg(
        long,
        env = "EVENTEXPORT_GRANT_IDENTITY",
        value_name = "GRANT",
        value_delimiter = ','
    )]
    pub grant_identity: Vec<Grant>,

    /// File with further grants, one per line
    #[arg(long, env = "EVENTEXPORT_GRANT_IDENTITY_FILE", value_name = "FILE")]
    pub grant_identity_file: Option<PathBuf>,

    /// How many days the service keeps events, by the plan of the space: for the metric of the time that is left
    /// before a day is deleted. Without it, that is told from the days that the service lists
    #[arg(long, env = "EVENTEXPORT_SOURCE_RETENTION_DAYS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub source_retention_days: Option<u16>,

    /// Address for /livez, /readyz and /metrics
    #[arg(
        long,
        env = "EVENTEXPORT_METRICS_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:8080"
    )]
    pub metrics_listen: SocketAddr,

    /// How many EventExports have all their metrics, those that need somebody first; others have ready, complete and
    /// reason only
    #[arg(long, env = "EVENTEXPORT_METRICS_RESOURCES", value_name = "N", default_value_t = DEFAULT_DETAILED_RESOURCES)]
    pub metrics_resources: usize,

    /// How log lines look; what is logged is set by EVENTEXPORT_LOG, in the syntax of RUST_LOG
    #[arg(long, env = "EVENTEXPORT_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// OTLP collector that traces are sent to, by HTTP; /v1/traces is put behind it. Without it, traces are not made
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Url>,

    /// Kubeconfig to use. Without it: KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig. Without it, its current one
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// Name of this cluster in the journals of buckets; the same for ever. Without it, the UID of kube-system
    #[arg(long, env = "EVENTEXPORT_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<String>,

    /// Name of the Lease that makes one process the active one. Without it: eventexport-operator, with the
    /// namespace added if there is --namespace
    #[arg(
        long,
        env = "EVENTEXPORT_LEASE_NAME",
        value_name = "NAME",
        help_heading = "Fine tuning"
    )]
    pub lease_name: Option<String>,

    /// Namespace of the Lease. Without it, the pod's own
    #[arg(
        long,
        env = "EVENTEXPORT_LEASE_NAMESPACE",
        value_name = "NAME",
        help_heading = "Fine tuning"
    )]
    pub lease_namespace: Option<String>,

    /// How long others wait for an active process that says nothing, in whole seconds
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration, help_heading = "Fine tuning")]
    pub lease_duration: Duration,

    /// How long the active process tries to renew its Lease before it stops
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = "Fine tuning")]
    pub lease_deadline: Duration,

    /// How often the Lease is renewed
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, help_heading = "Fine tuning")]
    pub lease_renew: Duration,

    /// How long exports may take to stop and delete their sessions after SIGTERM; keep it below the pod's
    /// terminationGracePeriodSeconds
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = duration, help_heading = "Fine tuning")]
    pub shutdown_timeout: Duration,

    /// Resources looked at at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONCURRENCY, value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = "Fine tuning")]
    pub concurrency: u16,

    /// Memory for data on its way, in MiB, over all exports
    #[arg(long, env = "EVENTEXPORT_POOL_MIB", value_name = "MIB", default_value_t = Limits::default().pool_mib, value_parser = clap::value_parser!(u32).range(8..=1_048_576), help_heading = "Fine tuning")]
    pub pool_mib: u32,

    /// Windows (days or hours) transferred at once, over all exports
    #[arg(long, env = "EVENTEXPORT_WINDOWS", value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=10_000), help_heading = "Fine tuning")]
    pub windows: u16,

    /// Sessions that this operator holds at most in one space, of the 30 that the service allows everyone together
    #[arg(long, value_name = "N", default_value_t = 28, value_parser = clap::value_parser!(u8).range(1..=29), help_heading = "Fine tuning")]
    pub sessions_per_space: u8,

    /// How long a session must have been untouched before it may be taken for a leftover of a crash
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, help_heading = "Fine tuning")]
    pub session_quiet: Duration,

    /// The longest that one window may take
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = duration, help_heading = "Fine tuning")]
    pub attempt: Duration,
}

/// A duration as resources write it: `10m`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| "write hours, minutes and seconds, such as 10m or 1h30m".to_owned())
}

/// Runs the operator until SIGTERM or SIGINT (exit code 0), or until it loses its Lease (1).
pub async fn run(args: OperatorArgs) -> Result<ExitCode> {
    let traces = logs::start(args.log_format, args.otlp_endpoint.as_ref())?;
    let kubernetes = kube_config(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
    let metrics = Metrics::default();
    metrics.resources.set_detailed(args.metrics_resources);
    let config = config(&args, kubernetes, &metrics)?;
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("SIGINT"),
        }
        token.cancel();
    });

    let listener = TcpListener::bind(args.metrics_listen).await.with_context(|| {
        format!(
            "--metrics-listen {}: the address cannot be listened on",
            args.metrics_listen
        )
    })?;
    info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
    let patience = Duration::from_mins(1).max(config.lease.timing.duration * 4);
    let telemetry = Telemetry {
        health: Health::new(patience),
        metrics,
    };
    // Until the very end, so that the shutdown can be watched.
    let serving = tokio::spawn(telemetry.clone().serve(listener, CancellationToken::new()));
    let result = run_operator(config, telemetry, shutdown).await;
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "the operator ends");
    }
    traces.shutdown().await;
    serving.abort();
    result.map(|()| ExitCode::SUCCESS)
}

/// The settings that the arguments mean.
fn config(args: &OperatorArgs, kubernetes: kube::Config, metrics: &Metrics) -> Result<OperatorConfig> {
    let timing = LeaseTiming {
        duration: args.lease_duration,
        deadline: args.lease_deadline,
        renew: args.lease_renew,
    };
    let timing = timing
        .checked()
        .context("--lease-duration, --lease-deadline, --lease-renew")?;
    ensure!(
        !args.shutdown_timeout.is_zero(),
        "--shutdown-timeout must be longer than nothing: sessions are deleted in that time"
    );
    let default_name = match &args.namespace {
        Some(namespace) => format!("eventexport-operator-{namespace}"),
        None => "eventexport-operator".to_owned(),
    };
    let (hosts, store_hosts) = host_policies(&args.allow_host)?;
    let grants = read_grants(args)?;
    let limits = Limits {
        pool_mib: args.pool_mib,
        windows: usize::from(args.windows),
        sessions_per_space: usize::from(args.sessions_per_space),
        session_quiet: args.session_quiet,
        attempt: args.attempt,
    };
    let (engine, tokens) = (
        Engine::with_observer(limits, Arc::new(Timestamp::now), metrics.engine.clone()),
        TokenCache::default(),
    );
    let traffic = Traffic::new(metrics.engine.clone(), Fence::default());
    let loaded = engine.clone();
    metrics.load.set_source(move || loaded.load());
    let outgoing = traffic.clone();
    let exporter = move |cluster: String, process: String| -> Arc<dyn Exporter> {
        let (engine, tokens, grants) = (engine.clone(), tokens.clone(), grants.clone());
        let (hosts, store_hosts) = (hosts.clone(), store_hosts.clone());
        let traffic = outgoing.clone();
        Arc::new(EngineExporter {
            engine,
            hosts,
            store_hosts,
            traffic,
            tokens,
            grants,
            cluster,
            process,
        })
    };
    Ok(OperatorConfig {
        kubernetes,
        namespace: args.namespace.clone(),
        lease: LeaseSettings {
            name: args.lease_name.clone().unwrap_or(default_name),
            namespace: args.lease_namespace.clone(),
            timing,
        },
        concurrency: args.concurrency,
        debounce: DEFAULT_DEBOUNCE,
        watch: WatchConfig::default(),
        shutdown_timeout: args.shutdown_timeout,
        exporter: Arc::new(exporter),
        traffic,
        retention: args
            .source_retention_days
            .map(|days| SignedDuration::from_hours(24 * i64::from(days))),
        cluster: args.cluster_id.clone(),
    })
}

/// Stands for the public regions of the service, and AWS S3, in `--allow-host`.
const PUBLIC_KEYWORD: &str = "public-regions";

/// Where S3 is when a spec names no endpoint.
const AWS_HOSTS: &str = "*.amazonaws.com";

/// Where trackers and UAAs may be, and where stores. What is named holds for both; of what stands for the public service,
/// the regions are for the one and AWS for the other: anybody can have a host below amazonaws.com, and a service that
/// names one as its UAA must not be sent an API key there.
fn host_policies(allowed: &[String]) -> Result<(HostPolicy, HostPolicy)> {
    let named: Vec<String> = allowed
        .iter()
        .filter(|host| *host != PUBLIC_KEYWORD)
        .cloned()
        .collect();
    let public = allowed.is_empty() || named.len() < allowed.len();
    let policy = |public_hosts: &[&str]| {
        let public_hosts = public_hosts.iter().filter(|_| public).map(ToString::to_string);
        let hosts: Vec<String> = named.iter().cloned().chain(public_hosts).collect();
        HostPolicy::allow(&hosts).context("--allow-host")
    };
    Ok((policy(&PUBLIC_REGIONS)?, policy(&[AWS_HOSTS])?))
}

fn read_grants(args: &OperatorArgs) -> Result<Vec<Grant>> {
    let mut grants = args.grant_identity.clone();
    if let Some(file) = &args.grant_identity_file {
        let named = || format!("--grant-identity-file {}", file.display());
        let text = std::fs::read_to_string(file).with_context(named)?;
        grants.extend(parse_grants(&text).with_context(named)?);
    }
    Ok(grants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_uaa_hosts_exclude_amazonaws_com() {
        for allowed in [
            &[][..],
            &[PUBLIC_KEYWORD.to_owned(), "uaa.example.com".to_owned()],
        ] {
            let (service, stores) = host_policies(allowed).unwrap();
            let check = |policy: &HostPolicy, url: &str| policy.check_url(&url.parse().unwrap()).is_ok();
            let third_party = "https://x.execute-api.us-east-1.amazonaws.com/oauth/token";
            assert!(!check(&service, third_party));
            assert!(check(&service, "https://login.ng.bluemix.net"));
            assert!(check(&stores, "https://audit.s3.eu-central-1.amazonaws.com"));
            assert!(!check(&stores, "https://login.ng.bluemix.net"));
            let named = "https://uaa.example.com";
            assert_eq!(
                (check(&service, named), check(&stores, named)),
                (!allowed.is_empty(), !allowed.is_empty())
            );
        }
    }
}
