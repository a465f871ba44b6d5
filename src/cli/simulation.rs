//! `run --simulate`: the bundled simulator in the place of the service, set up so that it has the days that the
//! manifest asks for. Listens on 127.0.0.1.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::exit::CliError;
use super::manifest::ExportResource;
use super::summary_text::SessionCount;
use crate::api::{SecretRef, Source};
use crate::export::connect::Secrets;
use crate::simulator::{DEFAULT_API_KEY, Ledger, Settings, Simulator};

/// What receipts name as their source. The port changes from run to run, the identity must not: a receipt
/// from another source is no coverage. `.invalid` never resolves (RFC 2606), so no real service is meant.
pub const SIMULATED_SOURCE: &str = "http://simulator.invalid";

/// Days of service time after the last day that is asked for: it is over, settled, and the listing goes past it.
const DAYS_AFTER: i32 = 35;

/// Days that the simulator keeps before the first day that is asked for, so that the listing begins before it.
const DAYS_BEFORE: u16 = 7;

/// The Secret that stands in for the manifest's.
const SECRET: &str = "simulator";

/// A simulator for the exports of a manifest.
#[derive(Debug)]
pub struct Simulation {
    simulator: Simulator,
    today: Date,
}

impl Simulation {
    /// Starts one whose service time has every range over and retained, as far as the real time allows.
    pub async fn start(ranges: &[(Date, Option<Date>)], real_today: Date) -> Result<Self, CliError> {
        let settings = simulator_settings(ranges, real_today);
        let today = settings.today.unwrap_or(real_today);
        let started = Simulator::start(settings).await;
        let simulator =
            started.map_err(|error| anyhow::anyhow!("the simulator cannot listen on 127.0.0.1: {error}"))?;
        Ok(Self { simulator, today })
    }

    /// What a person is told at the start.
    pub fn announcement(&self) -> String {
        format!(
            "Simulated: a made-up Activity Tracker on {} whose today is {}; the manifest's source and credentials are not used.",
            self.simulator.url(),
            self.today
        )
    }

    /// Points a resource at the simulator.
    pub fn redirect(&self, resource: &mut ExportResource) {
        resource.spec.source = Source {
            region: None,
            endpoint: Some(self.simulator.url().as_str().trim_end_matches('/').to_owned()),
            uaa_endpoint: None,
            credentials_secret_ref: SecretRef {
                name: SECRET.to_owned(),
            },
            ca_secret_ref: None,
        };
    }

    /// The Secrets of a redirected resource.
    pub fn secrets() -> Secrets {
        let data = BTreeMap::from([("apiKey".to_owned(), DEFAULT_API_KEY.as_bytes().to_vec())]);
        Secrets(BTreeMap::from([(SECRET.to_owned(), data)]))
    }

    /// What happened to it.
    pub fn ledger(&self) -> Ledger {
        self.simulator.ledger()
    }

    /// What happened to its sessions.
    pub fn sessions(&self) -> SessionCount {
        let ledger = self.simulator.ledger();
        SessionCount {
            opened: ledger.opened,
            deleted: ledger.deleted,
            open: ledger.open_now,
        }
    }

    /// Ends it.
    pub async fn stop(self) {
        self.simulator.stop().await;
    }
}

/// First and last days of the ranges decide the service's today and what it keeps.
fn simulator_settings(ranges: &[(Date, Option<Date>)], real_today: Date) -> Settings {
    let later = |day: Date| day.saturating_add(jiff::Span::new().days(DAYS_AFTER));
    let last = ranges
        .iter()
        .map(|(_, end)| end.map_or(real_today, later))
        .max()
        .unwrap_or(real_today);
    let today = last.min(real_today);
    let first = ranges.iter().map(|(start, _)| *start).min().unwrap_or(today);
    let span = first.until(today).map_or(0, |span| span.get_days().max(0));
    let kept = u16::try_from(span)
        .unwrap_or(u16::MAX)
        .saturating_add(1 + DAYS_BEFORE);
    let defaults = Settings::default();
    Settings {
        // A range that reaches into the present keeps the real clock, so that tomorrow's run goes on.
        today: (today < real_today).then_some(today),
        retention_days: kept.max(defaults.retention_days),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn simulated_time_is_past_every_range_and_retains_it() {
        let now = date(2026, 1, 15);
        let old = simulator_settings(&[(date(2018, 6, 1), Some(date(2018, 6, 7)))], now);
        assert_eq!(old.today, Some(date(2018, 7, 12)));
        assert!(old.retention_days > 41);
        let continuous = simulator_settings(
            &[
                (date(2018, 6, 1), None),
                (date(2019, 1, 1), Some(date(2019, 1, 2))),
            ],
            now,
        );
        assert_eq!(continuous.today, None);
        assert!(i32::from(continuous.retention_days) > date(2018, 6, 1).until(now).unwrap().get_days());
        assert_eq!(
            simulator_settings(&[(date(2026, 1, 1), Some(date(2026, 2, 1)))], now).today,
            None
        );
    }
}
