//! `run --simulate`: the bundled simulator instead of the service, configured to have the days that the manifest
//! requests. Listens on 127.0.0.1.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::exit::CliError;
use super::manifest::ExportResource;
use super::summary_text::SessionCount;
use crate::api::{ReferencedKind, SecretRef, Source};
use crate::export::connect::Secrets;
use crate::simulator::{DEFAULT_API_KEY, Ledger, Settings, Simulator};

/// Source in the receipts of a simulation. The port changes with each run, but the source must not: a receipt
/// from another source is not coverage. `.invalid` never resolves (RFC 2606), so no real service is meant.
pub const SIMULATED_SOURCE: &str = "http://simulator.invalid";

/// Service of an export of the simulator without a manifest, which a spec may name. It gets no request.
pub const SIMULATED_ENDPOINT: &str = "https://simulator.invalid";

/// Space of an export of the simulator, if none is given.
pub const SIMULATED_SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";

/// Days of simulated time after the last requested day, so that it is over, settled, and the listing extends past it.
const DAYS_AFTER: i32 = 35;

/// Days that the simulator keeps before the first requested day, so that the listing starts before it.
const DAYS_BEFORE: u16 = 7;

/// Name of the Secret that replaces the source credentials of the manifest.
const SECRET: &str = "simulator";

/// Simulator for the exports of a manifest.
#[derive(Debug)]
pub struct Simulation {
    simulator: Simulator,
    today: Date,
}

impl Simulation {
    /// Starts a simulator at a time when every range is over and still retained, but no later than today.
    pub async fn start(ranges: &[(Date, Option<Date>)], real_today: Date) -> Result<Self, CliError> {
        let settings = simulator_settings(ranges, real_today);
        let today = settings.today.unwrap_or(real_today);
        let simulator = Simulator::start(settings)
            .await
            .map_err(|error| anyhow::anyhow!("the simulator cannot listen on 127.0.0.1: {error}"))?;
        Ok(Self { simulator, today })
    }

    /// Returns the line printed at the start of the run.
    pub fn announcement(&self) -> String {
        format!(
            "Simulation: a fake Activity Tracker on {} with current date {}; the manifest's source and credentials are not used.",
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
            ca_config_map_ref: None,
            retention_days: None,
        };
        // Locked fake events could not be deleted.
        resource.spec.destination.s3.object_lock = None;
    }

    /// Returns the Secrets of a redirected resource.
    pub fn secrets() -> Secrets {
        let data = BTreeMap::from([("apiKey".to_owned(), DEFAULT_API_KEY.as_bytes().to_vec())]);
        Secrets(BTreeMap::from([(ReferencedKind::Secret.named(SECRET), data)]))
    }

    /// Returns the counters of the simulator.
    pub fn ledger(&self) -> Ledger {
        self.simulator.ledger()
    }

    /// Returns how many sessions the run opened and deleted, and how many are open.
    pub fn sessions(&self) -> SessionCount {
        let ledger = self.simulator.ledger();
        SessionCount {
            opened: ledger.opened,
            deleted: ledger.deleted,
            open: ledger.open_now,
        }
    }

    /// Stops the simulator.
    pub async fn stop(self) {
        self.simulator.stop().await;
    }
}

/// Derives the current date and the retention of the simulator from the ranges.
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
        // A range that reaches into the present keeps the real clock, so that tomorrow's run continues.
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
