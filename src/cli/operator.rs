//! `eventexport operator`: turns the arguments into the operator's configuration, and runs it until a signal.

#![allow(clippy::doc_markdown)] // doc comments are help texts, which show no backticks

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use url::Url;

use super::kube_config::kube_config;
use crate::api::parse_duration;
use crate::api::rules::limit::SOURCE_RETENTION_DAYS;
use crate::controller::access_files::{AccessFiles, AccessSettings};
use crate::controller::election::LeaseTiming;
use crate::controller::grants::Grant;
use crate::controller::watch_scope::{LabelQuery, WatchScope};
use crate::controller::{
    AccessConfig, DEFAULT_CONCURRENCY, DEFAULT_DEBOUNCE, EngineExporter, Exporter, LeaseSettings,
    OperatorConfig, WatchConfig, run_operator,
};
use crate::egress::{Fence, Traffic};
use crate::export::engine::{Engine, Limits};
use crate::storage::AwsIdentities;
use crate::telemetry::metrics::DEFAULT_DETAILED_RESOURCES;
use crate::telemetry::{Health, LogFormat, Metrics, Telemetry, logs};
use crate::tracker::TokenCache;

const EXAMPLES: &str = "\
Examples:
  All namespaces, the public regions and AWS S3:
    eventexport operator
  One namespace, and your own store:
    eventexport operator --namespace audit --allow-host public-regions,minio.example.com";

/// Run the operator: watch EventExport resources and export their events.
///
/// Connects to the API server with the pod's service account or a kubeconfig. Several replicas may run: the one that
/// holds the Lease is active, and the others stand by. If the active replica loses the Lease, it stops all exports and
/// exits with code 1; after a restart it is a candidate again.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct OperatorArgs {
    /// Serve only the exports of this namespace; may be repeated, at most 64 (default: all namespaces)
    #[arg(
        long,
        env = "EVENTEXPORT_NAMESPACE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub namespace: Vec<String>,

    /// Do not serve the exports of this namespace; may be repeated, at most 64; not together with --namespace
    #[arg(
        long,
        env = "EVENTEXPORT_EXCLUDE_NAMESPACE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub exclude_namespace: Vec<String>,

    /// Serve only the exports with these labels: a label selector as of kubectl, such as tier=gold or team in (a,b)
    #[arg(long, short = 'l', env = "EVENTEXPORT_SELECTOR", value_name = "SELECTOR")]
    pub selector: Option<LabelQuery>,

    /// Host that exports may connect to: tracker, UAA (also one that the tracker names) or store; may be repeated.
    /// HOST, HOST:PORT, *.SUFFIX, an IP address, or public-regions for the service's public regions and AWS S3
    /// (default: public-regions)
    #[arg(
        long,
        env = "EVENTEXPORT_ALLOW_HOST",
        value_name = "HOST",
        value_delimiter = ','
    )]
    pub allow_host: Vec<String>,

    /// File with further allowed hosts, one per line; without --allow-host, only these are allowed. A change takes effect
    /// within seconds, without a restart
    #[arg(long, env = "EVENTEXPORT_ALLOW_HOST_FILE", value_name = "FILE")]
    pub allow_host_file: Option<PathBuf>,

    /// Let a namespace use the operator's own bucket identity; may be repeated: NAMESPACE=BUCKET,
    /// NAMESPACE=BUCKET/PREFIX, or NAMESPACE=BUCKET/PREFIX@https://HOST for a store other than AWS. Behind spaces, the
    /// attributes of objects that it allows: objectLock=MODE:DAYS, kmsKeyId=ID, storageClass=NAME (default: none)
    #[arg(
        long,
        env = "EVENTEXPORT_GRANT_IDENTITY",
        value_name = "GRANT",
        value_delimiter = ','
    )]
    pub grant_identity: Vec<Grant>,

    /// File with further grants, one per line. A change takes effect within seconds, without a restart
    #[arg(long, env = "EVENTEXPORT_GRANT_IDENTITY_FILE", value_name = "FILE")]
    pub grant_identity_file: Option<PathBuf>,

    /// Interval at which the files of allowed hosts and grants are read, for tests
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, hide = true)]
    pub access_interval: Duration,

    /// Number of days that the service keeps events, by the plan of the space; for the metric of the time left before a
    /// day is deleted (default: derived from the days that the service lists). `spec.source.retentionDays` overrides it
    #[arg(
        long,
        env = "EVENTEXPORT_SOURCE_RETENTION_DAYS",
        value_name = "N",
        value_parser = clap::value_parser!(u16)
            .range(i64::from(SOURCE_RETENTION_DAYS.0)..=i64::from(SOURCE_RETENTION_DAYS.1))
    )]
    pub source_retention_days: Option<u16>,

    /// Listen address of /livez, /readyz and /metrics
    #[arg(
        long,
        env = "EVENTEXPORT_METRICS_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:8080"
    )]
    pub metrics_listen: SocketAddr,

    /// Maximum number of EventExports with all their metrics; those that need attention come first. The others have only
    /// ready, complete and reason
    #[arg(long, env = "EVENTEXPORT_METRICS_RESOURCES", value_name = "N", default_value_t = DEFAULT_DETAILED_RESOURCES)]
    pub metrics_resources: usize,

    /// Log format. EVENTEXPORT_LOG sets the filter, in the syntax of RUST_LOG
    #[arg(long, env = "EVENTEXPORT_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// OTLP/HTTP endpoint for traces; /v1/traces is appended (default: no traces)
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Url>,

    /// Path of the kubeconfig (default: KUBECONFIG, ~/.kube/config, or the pod's service account)
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig (default: its current context)
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// Watch the metadata of Secrets and ConfigMaps, to notice a change at once; false: at the next failure or run, and
    /// without the right to list them
    #[arg(
        long,
        env = "EVENTEXPORT_WATCH_SECRETS",
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub watch_secrets: bool,

    /// Name of this cluster in the journals of buckets; it must never change (default: the UID of kube-system)
    #[arg(long, env = "EVENTEXPORT_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<String>,

    /// Name of the Lease for leader election (default: eventexport-operator, with -NAMESPACE appended if --namespace is
    /// given)
    #[arg(
        long,
        env = "EVENTEXPORT_LEASE_NAME",
        value_name = "NAME",
        help_heading = "Fine tuning"
    )]
    pub lease_name: Option<String>,

    /// Namespace of the Lease (default: the pod's own)
    #[arg(
        long,
        env = "EVENTEXPORT_LEASE_NAMESPACE",
        value_name = "NAME",
        help_heading = "Fine tuning"
    )]
    pub lease_namespace: Option<String>,

    /// Time without a renewal after which a candidate takes over the Lease, in whole seconds
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration, help_heading = "Fine tuning")]
    pub lease_duration: Duration,

    /// Time that the active process tries to renew the Lease before it stops
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = "Fine tuning")]
    pub lease_deadline: Duration,

    /// Interval between renewals of the Lease
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, help_heading = "Fine tuning")]
    pub lease_renew: Duration,

    /// Time between the two looks at a day that the service seems to have deleted; both must agree before it is expired
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, help_heading = "Fine tuning")]
    pub expiry_recheck: Duration,

    /// Time for exports to stop and delete their sessions after SIGTERM; keep it below the pod's
    /// terminationGracePeriodSeconds
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = duration, help_heading = "Fine tuning")]
    pub shutdown_timeout: Duration,

    /// Maximum number of concurrent reconciles
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONCURRENCY, value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = "Fine tuning")]
    pub concurrency: u16,

    /// Memory for data in flight, in MiB, over all exports
    #[arg(long, env = "EVENTEXPORT_POOL_MIB", value_name = "MIB", default_value_t = Limits::default().pool_mib, value_parser = clap::value_parser!(u32).range(8..=1_048_576), help_heading = "Fine tuning")]
    pub pool_mib: u32,

    /// Maximum number of windows (days or hours) transferred concurrently, over all exports that have one already; at most
    /// two for each MiB of --pool-mib. As many more are kept for exports, for spaces and for namespaces that have none
    #[arg(long, env = "EVENTEXPORT_WINDOWS", value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=10_000), help_heading = "Fine tuning")]
    pub windows: u16,

    /// Maximum number of sessions that the operator holds in one space, of the 30 that the service allows for all users
    /// together
    #[arg(long, value_name = "N", default_value_t = 28, value_parser = clap::value_parser!(u8).range(1..=29), help_heading = "Fine tuning")]
    pub sessions_per_space: u8,

    /// Minimum idle time before a session may count as a leftover of a crash
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration, help_heading = "Fine tuning")]
    pub session_quiet: Duration,

    /// Maximum time for one attempt at a window
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = duration, help_heading = "Fine tuning")]
    pub attempt: Duration,
}

/// Parses a duration as resources write it: `10m`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| "use hours, minutes and seconds, for example 10m or 1h30m".to_owned())
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
            _ = terminate.recv() => info!(signal = "SIGTERM", "shutting down"),
            _ = interrupt.recv() => info!(signal = "SIGINT", "shutting down"),
        }
        token.cancel();
    });

    let listener = TcpListener::bind(args.metrics_listen).await.with_context(|| {
        format!(
            "--metrics-listen {}: cannot listen on this address",
            args.metrics_listen
        )
    })?;
    info!(address = %listener.local_addr()?, "serving health checks and metrics");
    let tolerance = Duration::from_mins(1).max(config.lease.timing.duration * 4);
    let telemetry = Telemetry {
        health: Health::new(tolerance),
        metrics,
    };
    // Serves until the process ends, so that the shutdown can be observed.
    let serving = tokio::spawn(telemetry.clone().serve(listener, CancellationToken::new()));
    let result = run_operator(config, telemetry, shutdown).await;
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "operator failed");
    }
    traces.shutdown().await;
    serving.abort();
    result.map(|()| ExitCode::SUCCESS)
}

/// Converts the arguments to the configuration of the operator.
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
        "--shutdown-timeout must be greater than 0: the operator deletes its sessions in that time"
    );
    let scope = WatchScope::new(
        args.namespace.iter().cloned(),
        args.exclude_namespace.iter().cloned(),
        args.selector.clone().unwrap_or_default(),
    )?;
    let lease_name = match &args.lease_name {
        Some(name) => name.clone(),
        None => default_lease_name(&scope)?,
    };
    let (policy, files) = AccessFiles::load(AccessSettings {
        allow_host: args.allow_host.clone(),
        allow_host_file: args.allow_host_file.clone(),
        grant_identity: args.grant_identity.clone(),
        grant_identity_file: args.grant_identity_file.clone(),
    })?;
    let limits = Limits {
        pool_mib: args.pool_mib,
        windows: usize::from(args.windows),
        sessions_per_space: usize::from(args.sessions_per_space),
        session_quiet: args.session_quiet,
        session_wait: None,
        attempt: args.attempt,
        second_look: args.expiry_recheck,
        ..Limits::default()
    };
    let (engine, tokens) = (
        Engine::with_observer(limits, Arc::new(Timestamp::now), metrics.engine.clone()),
        TokenCache::default(),
    );
    let traffic = Traffic::new(metrics.engine.clone(), Fence::default());
    let load_engine = engine.clone();
    metrics.load.set_source(move || load_engine.load());
    let exporter_traffic = traffic.clone();
    let identities = AwsIdentities::new(traffic.clone());
    let access = policy.clone();
    let exporter = move |kubernetes: kube::Client, cluster: String, process: String| -> Arc<dyn Exporter> {
        let (engine, tokens, access) = (engine.clone(), tokens.clone(), access.clone());
        let (traffic, identities) = (exporter_traffic.clone(), identities.clone());
        Arc::new(EngineExporter {
            engine,
            access,
            traffic,
            tokens,
            identities,
            kubernetes,
            cluster,
            process,
        })
    };
    Ok(OperatorConfig {
        kubernetes,
        scope,
        lease: LeaseSettings {
            name: lease_name,
            namespace: args.lease_namespace.clone(),
            timing,
        },
        concurrency: args.concurrency,
        debounce: DEFAULT_DEBOUNCE,
        watch: WatchConfig::default(),
        watch_secrets: args.watch_secrets,
        shutdown_timeout: args.shutdown_timeout,
        exporter: Arc::new(exporter),
        access: AccessConfig {
            policy,
            files,
            interval: args.access_interval,
        },
        traffic,
        retention_days: args.source_retention_days,
        cluster: args.cluster_id.clone(),
    })
}

/// Returns the name of the Lease. Operators with one Lease take turns, so they must serve the same exports.
fn default_lease_name(scope: &WatchScope) -> Result<String> {
    let named = scope.namespaces().len() > 1 || !scope.selector().to_string().is_empty();
    ensure!(
        !named,
        "--lease-name: required with --selector or several --namespace: operators with one Lease take turns, and \
         those with different scopes need different Leases"
    );
    Ok(match scope.single_namespace() {
        Some(namespace) => format!("eventexport-operator-{namespace}"),
        None => "eventexport-operator".to_owned(),
    })
}
