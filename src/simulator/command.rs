//! `eventexport simulate`: runs a simulator until shutdown. Listens beyond loopback addresses only with `--allow-remote`.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::civil::Date;
use tokio::net::TcpListener;

use crate::archive::window::parse_date;

use super::{Fault, Framing, GzipSettings, JsonShape, Members, Settings, Simulator, Volume, presets};

/// Run a fake Activity Tracker on this machine, for tests and demos.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// Address to listen on, a loopback one unless --allow-remote is given. Port 0: a free port, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8030")]
    pub listen: SocketAddr,
    /// Accept any --listen, and so requests of other machines. The credentials are public, and the admin API needs none
    #[arg(long)]
    pub allow_remote: bool,
    /// Seed of events, ids and tokens
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Id of an existing space; can be repeated. Default: every space exists
    #[arg(long = "space", value_name = "ID")]
    pub spaces: Vec<String>,
    /// Current day of the service, instead of the real one
    #[arg(long, value_name = "DATE", value_parser = today)]
    pub today: Option<Date>,
    /// Retention in days, including today
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..))]
    pub retention: u16,
    /// Events per day
    #[arg(long, value_name = "EVENTS", default_value_t = 240)]
    pub events_per_day: u64,
    /// Number of events on one day, as 2018-06-03=100000; can be repeated
    #[arg(long = "day", value_name = "DATE=EVENTS", value_parser = day)]
    pub days: Vec<(Date, u64)>,
    /// Events on weekends too
    #[arg(long)]
    pub weekends: bool,
    /// Lifetime of a token in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub token_lifetime: u64,
    /// Delay of every response in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    pub latency: u64,
    /// Speed of each download in bytes per second
    #[arg(long, value_name = "BYTES")]
    pub bandwidth: Option<u64>,
    /// Compression level, 0 (stored) to 9
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub level: u8,
    /// Faults to inject.
    // rustdoc takes brackets for links.
    #[arg(
        long = "fault",
        value_name = "NAME",
        value_parser = Fault::preset,
        help = "Fault to inject, as NAME[@2018-06-03][#NTH][xTIMES]; can be repeated"
    )]
    pub faults: Vec<Vec<Fault>>,
    /// Print all faults and exit
    #[arg(long)]
    pub list_faults: bool,
}

const EXAMPLES: &str = "\
Examples:
  Set the current day of the service:
    eventexport simulate --today 2018-07-02
  Interrupt the first download of a day, and generate a million events on another:
    eventexport simulate --today 2018-07-02 --fault cut@2018-06-28 --day 2018-06-29=1000000
  Serve the Pods of a test cluster:
    eventexport simulate --listen 0.0.0.0:8030 --allow-remote
  List its sessions:
    export EVENTEXPORT_ENDPOINT=http://127.0.0.1:8030 EVENTEXPORT_SPACE=test
    EVENTEXPORT_API_KEY=simulated-api-key eventexport session list";

fn today(text: &str) -> Result<Date, String> {
    parse_date(text).ok_or_else(|| "expected a UTC day such as 2018-06-28".to_owned())
}

fn day(text: &str) -> Result<(Date, u64), String> {
    let invalid = || format!("{text:?} is not DATE=EVENTS, for example 2018-06-03=100000");
    let (date, events) = text.split_once('=').ok_or_else(invalid)?;
    Ok((
        parse_date(date).ok_or_else(invalid)?,
        events.parse().map_err(|_| invalid())?,
    ))
}

impl SimulateArgs {
    fn settings(&self) -> Settings {
        let defaults = Settings::default();
        Settings {
            seed: self.seed,
            spaces: self.spaces.clone(),
            today: self.today,
            retention_days: self.retention,
            volume: Volume {
                events_per_day: self.events_per_day,
                days: self.days.iter().copied().collect(),
                quiet: if self.weekends {
                    Vec::new()
                } else {
                    defaults.volume.quiet.clone()
                },
                ..defaults.volume
            },
            token_lifetime: Duration::from_secs(self.token_lifetime),
            latency: Duration::from_millis(self.latency),
            bandwidth: self.bandwidth.filter(|speed| *speed > 0),
            gzip: GzipSettings {
                members: Members::One,
                level: self.level,
            },
            framing: Framing::Length,
            json: JsonShape::Lines,
            ..defaults
        }
    }
}

/// Checks the address to listen on, and returns the warning to print, if any.
fn check_listen(listen: SocketAddr, allow_remote: bool) -> anyhow::Result<Option<String>> {
    if listen.ip().is_loopback() {
        return Ok(None);
    }
    if !allow_remote {
        bail!(
            "--listen {listen} is not a loopback address: use 127.0.0.1, or --allow-remote to serve other machines (the \
             credentials are public, and the admin API needs none)"
        );
    }
    Ok(Some(format!(
        "warning: anyone who reaches {listen} can use this simulator and its admin API: the credentials are public. Use it in \
         test networks only"
    )))
}

/// Serves until `shutdown`, then prints the ledger. `print` writes a result to standard output, `warn` a line to standard
/// error.
pub async fn simulate(
    args: SimulateArgs,
    print: impl Fn(&str) -> anyhow::Result<()>,
    warn: impl Fn(&str),
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    if args.list_faults {
        let width = presets().iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let faults = presets();
        let rows = faults
            .iter()
            .map(|(name, about)| format!("{name:width$}  {about}\n"));
        return print(&rows.collect::<String>());
    }
    if let Some(warning) = check_listen(args.listen, args.allow_remote)? {
        warn(&warning);
    }
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on --listen {}", args.listen))?;
    let settings = args.settings();
    let simulator = Simulator::serve(settings, listener)?;
    simulator.set_faults(args.faults.into_iter().flatten().collect());
    print(&format!("{}\n", simulator.url()))?;
    shutdown.await;
    let ledger = serde_json::to_string_pretty(&simulator.ledger())?;
    simulator.stop().await;
    print(&format!("{ledger}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_served_only_on_request_and_with_a_warning() {
        for loopback in ["127.0.0.1:8030", "127.0.0.9:0", "[::1]:8030"] {
            for allowed in [false, true] {
                let warning = check_listen(loopback.parse().unwrap(), allowed).unwrap();
                assert_eq!(warning, None, "{loopback}");
            }
        }
        for remote in [
            "0.0.0.0:8030",
            "192.0.2.1:8030",
            "[::]:8030",
            "[::ffff:192.0.2.1]:1",
        ] {
            let listen = remote.parse().unwrap();
            let error = check_listen(listen, false).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("--listen {remote} is not a loopback address")),
                "{error}"
            );
            assert!(error.contains("--allow-remote"), "{error}");
            let warning = check_listen(listen, true).unwrap().unwrap();
            assert!(
                warning.starts_with("warning: ") && warning.contains(remote),
                "{warning}"
            );
        }
    }
}
