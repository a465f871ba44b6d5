//! `eventexport simulate`: a simulator of its own, until it is told to stop. Listens on loopback only.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::civil::Date;
use tokio::net::TcpListener;

use super::{Fault, Framing, GzipSettings, JsonShape, Members, Settings, Simulator, Volume, presets};

/// Serve an Activity Tracker and its UAA that behave as documented, and misbehave on demand.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// Where to listen; a loopback address. Port 0: any free one, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8030")]
    pub listen: SocketAddr,
    /// What events, ids and tokens are derived from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A space that exists; may be repeated. Without it every space does
    #[arg(long = "space", value_name = "ID")]
    pub spaces: Vec<String>,
    /// The service's day, instead of the real one
    #[arg(long, value_name = "DATE")]
    pub today: Option<Date>,
    /// Days that are kept, today included
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..))]
    pub retention: u16,
    /// Events of each day
    #[arg(long, value_name = "EVENTS", default_value_t = 240)]
    pub events_per_day: u64,
    /// Another number of events on one day, as 2018-06-03=100000; may be repeated
    #[arg(long = "day", value_name = "DATE=EVENTS", value_parser = day)]
    pub days: Vec<(Date, u64)>,
    /// Events at week-ends too
    #[arg(long)]
    pub weekends: bool,
    /// Seconds that a token is good for
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub token_lifetime: u64,
    /// Milliseconds before every answer
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    pub latency: u64,
    /// Bytes per second of each download
    #[arg(long, value_name = "BYTES")]
    pub bandwidth: Option<u64>,
    /// Compression, 0 (stored) to 9
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub level: u8,
    /// A misbehaviour, as NAME[@2018-06-03][#NTH][xTIMES]; may be repeated
    #[arg(long = "fault", value_name = "NAME", value_parser = Fault::preset)]
    pub faults: Vec<Vec<Fault>>,
    /// Print the misbehaviours and end
    #[arg(long)]
    pub list_faults: bool,
}

const EXAMPLES: &str = "\
Examples:
  A service whose today is a day of 2018:
    eventexport simulate --today 2018-07-02
  One that cuts the first download of a day, and has much of another:
    eventexport simulate --today 2018-07-02 --fault cut@2018-06-28 --day 2018-06-29=1000000
  Speak to it:
    export EVENTEXPORT_ENDPOINT=http://127.0.0.1:8030 EVENTEXPORT_SPACE=test
    EVENTEXPORT_API_KEY=simulated-api-key eventexport session list";

fn day(text: &str) -> Result<(Date, u64), String> {
    let wrong = || format!("{text:?} is not like 2018-06-03=100000");
    let (date, events) = text.split_once('=').ok_or_else(wrong)?;
    Ok((
        date.parse().map_err(|_| wrong())?,
        events.parse().map_err(|_| wrong())?,
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

/// Serves until `shutdown`, then prints the ledger.
pub async fn simulate(args: SimulateArgs, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    if args.list_faults {
        let width = presets().iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, about) in presets() {
            println!("{name:width$}  {about}");
        }
        return Ok(());
    }
    // Its credentials are public.
    if !args.listen.ip().is_loopback() {
        bail!(
            "--listen {} is not a loopback address: use 127.0.0.1",
            args.listen
        );
    }
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on --listen {}", args.listen))?;
    let settings = args.settings();
    let simulator = Simulator::serve(settings, listener)?;
    simulator.set_faults(args.faults.into_iter().flatten().collect());
    println!("{}", simulator.url());
    shutdown.await;
    println!("{}", serde_json::to_string_pretty(&simulator.ledger())?);
    simulator.stop().await;
    Ok(())
}
