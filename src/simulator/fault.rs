//! Which requests a misbehaviour befalls, and how often. No I/O.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::effect::Effect;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestKind {
    /// `GET /v2/info`.
    Info,
    /// `POST /oauth/token` with a password or an API key.
    Login,
    /// `POST /oauth/token` with a refresh token.
    Refresh,
    /// `POST /v3/sessions`.
    Create,
    /// `GET /v3/sessions`.
    List,
    /// `GET /v3/sessions/{id}`.
    Show,
    /// `GET /v3/events/download`.
    Download,
    /// `DELETE /v3/sessions/{id}`.
    Delete,
    /// `GET /v3/events`.
    Events,
    /// `/simulator/…`.
    Admin,
    /// Anything else.
    Other,
}

impl RequestKind {
    /// A request of the Activity Tracker, with a token.
    pub const fn is_tracker(self) -> bool {
        matches!(
            self,
            Self::Create | Self::List | Self::Show | Self::Download | Self::Delete | Self::Events
        )
    }
}

/// One misbehaviour: an effect, and the requests that it befalls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    /// How the ledger calls it.
    #[serde(default = "unnamed")]
    pub name: String,
    /// What happens.
    pub effect: Effect,
    /// The kinds of requests; empty: all of the tracker.
    #[serde(default)]
    pub on: Vec<RequestKind>,
    /// Only sessions that touch this UTC day, or only this row of the listing.
    #[serde(default)]
    pub date: Option<Date>,
    /// Only sessions of this hour, 0–23.
    #[serde(default)]
    pub hour: Option<u8>,
    /// Only sessions of whole days, or only those of an hour.
    #[serde(default)]
    pub windows: WindowFilter,
    /// The first occurrence that is befallen, from 1.
    #[serde(default = "first")]
    pub nth: u64,
    /// How many are befallen; `None`: all from then on.
    #[serde(default)]
    pub times: Option<u64>,
    /// Of those, only the first of so many in a row, at least 1: 10 befalls one in ten.
    #[serde(default = "first")]
    pub every: u64,
}

fn unnamed() -> String {
    "unnamed".to_owned()
}

const fn first() -> u64 {
    1
}

impl Fault {
    /// An effect on these kinds of requests, always.
    pub fn new(name: &str, effect: Effect, on: &[RequestKind]) -> Self {
        Self {
            name: name.to_owned(),
            effect,
            on: on.to_vec(),
            date: None,
            hour: None,
            windows: WindowFilter::Any,
            nth: 1,
            times: None,
            every: 1,
        }
    }

    /// Only this many times.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    /// Only from this occurrence on, counted from 1.
    #[must_use]
    pub fn from_nth(self, nth: u64) -> Self {
        Self { nth, ..self }
    }

    /// Only one in so many.
    #[must_use]
    pub fn every(self, every: u64) -> Self {
        Self { every, ..self }
    }

    /// Only where this UTC day is concerned.
    #[must_use]
    pub fn on_date(self, date: Date) -> Self {
        Self {
            date: Some(date),
            ..self
        }
    }
}

/// Which sessions a fault befalls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WindowFilter {
    /// All.
    #[default]
    Any,
    /// Those of whole days.
    Days,
    /// Those of one hour.
    Hours,
}

/// The faults of a service, with how often each was met.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(Fault, u64)>);

/// What a request concerns, as far as faults ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct FaultContext {
    pub(super) kind: RequestKind,
    /// First and last day, and the hour, of its session.
    pub(super) window: Option<(Date, Date, Option<u8>)>,
}

impl Faults {
    pub(super) fn set(&mut self, faults: Vec<Fault>) {
        self.0 = faults.into_iter().map(|fault| (fault, 0)).collect();
    }

    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push((fault, 0));
    }

    /// The first fault of this kind of effect that befalls the request, counted as met. `pick` gives what is
    /// wanted of an effect, or `None` if it does not apply here.
    pub(super) fn next_effect<T>(
        &mut self,
        context: FaultContext,
        pick: impl Fn(&Effect) -> Option<T>,
    ) -> Option<(String, T)> {
        for (fault, met) in &mut self.0 {
            if !fault.applies_to(context) {
                continue;
            }
            let Some(wanted) = pick(&fault.effect) else {
                continue;
            };
            *met += 1;
            let last = fault.times.map_or(u64::MAX, |times| {
                fault.nth.saturating_sub(1).saturating_add(times)
            });
            let since = met.checked_sub(fault.nth);
            if *met <= last && since.is_some_and(|since| since.is_multiple_of(fault.every.max(1))) {
                return Some((fault.name.clone(), wanted));
            }
        }
        None
    }
}

impl Fault {
    fn applies_to(&self, context: FaultContext) -> bool {
        let kind = if self.on.is_empty() {
            context.kind.is_tracker()
        } else {
            self.on.contains(&context.kind)
        };
        let Some((start, end, hour)) = context.window else {
            return kind && self.date.is_none() && self.hour.is_none() && self.windows == WindowFilter::Any;
        };
        let windows = match self.windows {
            WindowFilter::Any => true,
            WindowFilter::Days => hour.is_none(),
            WindowFilter::Hours => hour.is_some(),
        };
        kind && windows
            && self.date.is_none_or(|date| start <= date && date <= end)
            && self.hour.is_none_or(|wanted| hour == Some(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn a_fault_affects_only_the_occurrences_it_names() {
        let mut faults = Faults::default();
        let day = date(2018, 6, 3);
        faults.add(
            Fault::new("x", Effect::SessionGone, &[RequestKind::Show])
                .on_date(day)
                .from_nth(2)
                .times(2),
        );
        let mut met = |kind, date| {
            let context = FaultContext {
                kind,
                window: Some((date, date, None)),
            };
            faults
                .next_effect(context, |effect| (*effect == Effect::SessionGone).then_some(()))
                .is_some()
        };
        assert!(!met(RequestKind::Show, day));
        assert!(!met(RequestKind::Delete, day) && !met(RequestKind::Show, date(2018, 6, 4)));
        assert!(met(RequestKind::Show, day) && met(RequestKind::Show, day));
        assert!(!met(RequestKind::Show, day));
    }

    #[test]
    fn every_nth_request_is_affected() {
        let mut faults = Faults::default();
        faults.add(
            Fault::new("x", Effect::SessionGone, &[RequestKind::Show])
                .from_nth(3)
                .every(10),
        );
        let context = FaultContext {
            kind: RequestKind::Show,
            window: None,
        };
        let mut met = || {
            let taken = faults.next_effect(context, |effect| (*effect == Effect::SessionGone).then_some(()));
            taken.is_some()
        };
        let befallen: Vec<usize> = (1..=30).filter(|_| met()).collect();
        assert_eq!(befallen, [3, 13, 23]);
    }
}
