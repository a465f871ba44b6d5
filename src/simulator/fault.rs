//! Faults: effects, and the requests that they affect. No I/O.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::effect::Effect;

/// Kind of a request.
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
    /// Returns true for a request to the Activity Tracker, which needs a token.
    pub const fn is_tracker(self) -> bool {
        matches!(
            self,
            Self::Create | Self::List | Self::Show | Self::Download | Self::Delete | Self::Events
        )
    }
}

/// An effect, and the requests that it affects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    /// Name in the ledger.
    #[serde(default = "unnamed")]
    pub name: String,
    /// The effect.
    pub effect: Effect,
    /// Kinds of requests; empty: all kinds of the tracker.
    #[serde(default)]
    pub on: Vec<RequestKind>,
    /// Only sessions that include this UTC day, or only this row of the listing.
    #[serde(default)]
    pub date: Option<Date>,
    /// Only sessions of this hour, 0–23.
    #[serde(default)]
    pub hour: Option<u8>,
    /// Only sessions of full days, or only those of an hour.
    #[serde(default)]
    pub windows: WindowFilter,
    /// First affected occurrence, from 1.
    #[serde(default = "first")]
    pub nth: u64,
    /// Number of affected occurrences; `None`: all from the first.
    #[serde(default)]
    pub times: Option<u64>,
    /// Affects one of so many occurrences, at least 1: 10 affects every tenth.
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
    /// Creates a fault that always affects these kinds of requests.
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

    /// Limits the number of affected occurrences.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    /// Sets the first affected occurrence, counted from 1.
    #[must_use]
    pub fn from_nth(self, nth: u64) -> Self {
        Self { nth, ..self }
    }

    /// Affects one of so many occurrences.
    #[must_use]
    pub fn every(self, every: u64) -> Self {
        Self { every, ..self }
    }

    /// Affects only this UTC day.
    #[must_use]
    pub fn on_date(self, date: Date) -> Self {
        Self {
            date: Some(date),
            ..self
        }
    }
}

/// Sessions that a fault affects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WindowFilter {
    /// All sessions.
    #[default]
    Any,
    /// Sessions of full days.
    Days,
    /// Sessions of one hour.
    Hours,
}

/// The faults of a service, with the number of occurrences of each.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(Fault, u64)>);

/// Properties of a request that determine its faults.
#[derive(Clone, Copy, Debug)]
pub(super) struct FaultContext {
    pub(super) kind: RequestKind,
    /// First day, last day and hour of its session.
    pub(super) window: Option<(Date, Date, Option<u8>)>,
}

impl Faults {
    pub(super) fn set(&mut self, faults: Vec<Fault>) {
        self.0 = faults.into_iter().map(|fault| (fault, 0)).collect();
    }

    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push((fault, 0));
    }

    /// Returns the first fault that affects the request, and counts the occurrence. `pick` returns the parameters of an
    /// effect, or `None` for an effect that does not apply here.
    pub(super) fn next_effect<T>(
        &mut self,
        context: FaultContext,
        pick: impl Fn(&Effect) -> Option<T>,
    ) -> Option<(String, T)> {
        for (fault, occurrences) in &mut self.0 {
            if !fault.applies_to(context) {
                continue;
            }
            let Some(parameters) = pick(&fault.effect) else {
                continue;
            };
            *occurrences += 1;
            let last = fault.times.map_or(u64::MAX, |times| {
                fault.nth.saturating_sub(1).saturating_add(times)
            });
            let since = occurrences.checked_sub(fault.nth);
            if *occurrences <= last && since.is_some_and(|since| since.is_multiple_of(fault.every.max(1))) {
                return Some((fault.name.clone(), parameters));
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
        let mut affected = |kind, date| {
            let context = FaultContext {
                kind,
                window: Some((date, date, None)),
            };
            faults
                .next_effect(context, |effect| (*effect == Effect::SessionGone).then_some(()))
                .is_some()
        };
        assert!(!affected(RequestKind::Show, day));
        assert!(!affected(RequestKind::Delete, day) && !affected(RequestKind::Show, date(2018, 6, 4)));
        assert!(affected(RequestKind::Show, day) && affected(RequestKind::Show, day));
        assert!(!affected(RequestKind::Show, day));
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
        let mut is_affected = || {
            let effect = faults.next_effect(context, |effect| (*effect == Effect::SessionGone).then_some(()));
            effect.is_some()
        };
        let affected: Vec<usize> = (1..=30).filter(|_| is_affected()).collect();
        assert_eq!(affected, [3, 13, 23]);
    }
}
