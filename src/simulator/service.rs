//! State of a simulated service: sessions, tokens, days, faults, ledger. No I/O but the clock.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::block::Blocks;
use super::connection::ServerRequest;
use super::effect::Effect;
use super::events::{MAX_EVENTS, events_of_day, share_of_hour};
use super::fault::{FaultContext, Faults};
use super::layout::{BodyShape, HourEvents, Layout};
use super::ledger::Ledger;
use super::random::Random;
use super::settings::{READY_REFRESH_TOKEN, READY_TOKEN, Settings, User};

/// Current hour of a service with a fixed day.
const NOON: u8 = 12;

/// Maximum number of times that events are added to one day; further additions are ignored.
const MAX_REVISIONS: usize = 100;

/// Returns `HOST:PORT` for a client that sent this Host header. A listener on all addresses of the machine, as in a Pod, does
/// not know the one that reaches it.
fn reached_at(listener: SocketAddr, host: Option<&str>) -> String {
    match host {
        Some(host) if listener.ip().is_unspecified() => host.to_owned(),
        _ => listener.to_string(),
    }
}

/// Events of a session: space, scope, days and hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) space: Arc<str>,
    pub(super) account: bool,
    pub(super) start: Date,
    pub(super) end: Date,
    pub(super) hour: Option<u8>,
}

impl Selection {
    /// Returns the name in the ledger.
    pub(super) fn label(&self) -> String {
        let scope = if self.account { "account" } else { "space" };
        let mut label = format!("{}/{scope}/{}", self.space, self.start);
        if self.end != self.start {
            let _ = write!(label, "/{}", self.end);
        }
        if let Some(hour) = self.hour {
            let _ = write!(label, "T{hour:02}");
        }
        label
    }
}

/// An open session.
#[derive(Clone, Debug)]
pub(super) struct SimulatedSession {
    pub(super) username: String,
    /// Requested events.
    pub(super) requested: Selection,
    /// Events of a download.
    pub(super) served: Selection,
    /// Range that the session states.
    pub(super) reported_range: (Date, Date),
    pub(super) created: Timestamp,
    pub(super) accessed: Timestamp,
    /// True if the test opened it, for a human user.
    pub(super) other_user: bool,
    /// Complete downloads so far.
    pub(super) completed: u64,
}

/// An open session, in the admin API and in tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    /// The session id.
    pub id: String,
    /// The space.
    pub space: String,
    /// Owner of the session.
    pub username: String,
    /// First requested day.
    pub start: Date,
    /// Last requested day.
    pub end: Date,
    /// Requested hour.
    pub hour: Option<u8>,
    /// True for the account scope.
    pub account: bool,
    /// True if the test opened it, for a human user.
    pub other_user: bool,
}

#[derive(Debug)]
pub(super) struct ServiceState {
    pub(super) sessions: BTreeMap<String, SimulatedSession>,
    pub(super) faults: Faults,
    pub(super) ledger: Ledger,
    /// Access tokens, with user and expiry.
    pub(super) tokens: HashMap<String, (String, Option<Instant>)>,
    pub(super) refresh_tokens: HashMap<String, String>,
    /// Late events, by day and revision.
    growth: BTreeMap<Date, Vec<u64>>,
    pub(super) ids: Random,
}

/// A simulated service.
#[derive(Debug)]
pub(super) struct SimulatedService {
    pub(super) settings: Settings,
    pub(super) blocks: Arc<Blocks>,
    /// Address of the listener.
    pub(super) address: SocketAddr,
    state: Mutex<ServiceState>,
}

impl SimulatedService {
    pub(super) fn new(settings: Settings, address: SocketAddr) -> Self {
        let owner = settings.users.first().map(|user| user.name.clone());
        let state = ServiceState {
            sessions: BTreeMap::new(),
            faults: Faults::default(),
            ledger: Ledger::default(),
            tokens: owner
                .iter()
                .map(|user| (READY_TOKEN.to_owned(), (user.clone(), None)))
                .collect(),
            refresh_tokens: owner
                .iter()
                .map(|user| (READY_REFRESH_TOKEN.to_owned(), user.clone()))
                .collect(),
            growth: BTreeMap::new(),
            ids: Random::new(settings.seed, &[0x5E55]),
        };
        Self {
            blocks: Blocks::shared(settings.seed, settings.volume.bytes_per_event),
            settings,
            address,
            state: Mutex::new(state),
        }
    }

    /// Returns `HOST:PORT` at which the client of a request reaches this service.
    pub(super) fn authority(&self, request: &ServerRequest) -> String {
        reached_at(self.address, request.header("host").ok().flatten())
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ServiceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the parameters of a fault that affects this request, and records it in the ledger.
    pub(super) fn fault<T>(&self, context: FaultContext, pick: impl Fn(&Effect) -> Option<T>) -> Option<T> {
        let mut state = self.state();
        let (name, parameters) = state.faults.next_effect(context, pick)?;
        *state.ledger.faults.entry(name).or_default() += 1;
        Some(parameters)
    }

    pub(super) fn user(&self, name: &str) -> Option<&User> {
        self.settings.users.iter().find(|user| user.name == name)
    }

    /// Returns the current day and hour of the service.
    pub(super) fn now(&self) -> (Date, u8) {
        if let Some(today) = self.settings.today {
            return (today, NOON);
        }
        let now = Timestamp::now().to_zoned(TimeZone::UTC);
        (now.date(), now.hour().unsigned_abs())
    }

    /// Returns the oldest retained day.
    pub(super) fn oldest(&self) -> Date {
        let before = i32::from(self.settings.retention_days.max(1)) - 1;
        self.now().0.checked_sub(before.days()).unwrap_or(Date::MIN)
    }

    /// Adds late events to a day, in every space.
    pub(super) fn grow(&self, date: Date, extra: u64) {
        let mut state = self.state();
        let revisions = state.growth.entry(date).or_default();
        if revisions.len() < MAX_REVISIONS {
            revisions.push(extra.min(MAX_EVENTS));
        }
    }

    /// Returns the retained and finished hours of a selection, with their events.
    pub(super) fn hours(&self, selection: &Selection) -> Vec<HourEvents> {
        let (today, now) = self.now();
        let growth = self.state().growth.clone();
        let mut hours = Vec::new();
        let mut date = selection.start.max(self.oldest());
        while date <= selection.end.min(today) {
            let total = events_of_day(&self.settings.volume, selection.account, date);
            let late = growth.get(&date).map_or(&[][..], Vec::as_slice);
            for hour in (0..24).filter(|hour| selection.hour.is_none_or(|wanted| wanted == *hour)) {
                if date == today && hour >= now {
                    break;
                }
                let totals = std::iter::once(&total).chain(late);
                hours.push(HourEvents {
                    date,
                    hour,
                    counts: totals.map(|total| share_of_hour(*total, hour)).collect(),
                });
            }
            let Ok(next) = date.tomorrow() else { break };
            date = next;
        }
        hours
    }

    /// Returns the body of a selection. Compresses days on their first use: thousands of days take minutes of CPU.
    pub(super) fn layout(&self, selection: &Selection, shape: BodyShape) -> Layout {
        let space = (!selection.account).then_some(&selection.space);
        Layout::new(&self.blocks, space, &self.hours(selection), shape)
    }

    /// Returns the shape of a body without faults.
    pub(super) fn shape(&self) -> BodyShape {
        BodyShape {
            json: self.settings.json,
            level: self.settings.gzip.level,
            members: self.settings.gzip.members,
            mtime: 0,
            wrong_crc: false,
            trailing: 0,
        }
    }

    /// Returns the current ledger.
    pub(super) fn ledger(&self) -> Ledger {
        let state = self.state();
        let people = state.sessions.values().filter(|open| open.other_user).count() as u64;
        Ledger {
            open_now: state.sessions.len() as u64 - people,
            other_users_open: people,
            ..state.ledger.clone()
        }
    }

    /// Returns the open sessions, by id.
    pub(super) fn open_sessions(&self) -> Vec<SessionView> {
        let state = self.state();
        let view = |(id, open): (&String, &SimulatedSession)| SessionView {
            id: id.clone(),
            space: open.requested.space.to_string(),
            username: open.username.clone(),
            start: open.requested.start,
            end: open.requested.end,
            hour: open.requested.hour,
            account: open.requested.account,
            other_user: open.other_user,
        };
        state.sessions.iter().map(view).collect()
    }

    /// Moves the times of every session back.
    pub(super) fn age(&self, seconds: i64) {
        for open in self.state().sessions.values_mut() {
            for time in [&mut open.created, &mut open.accessed] {
                *time = time.checked_sub(seconds.seconds()).unwrap_or(Timestamp::MIN);
            }
        }
    }

    /// Opens sessions of today in the space scope, as a human user does. Ignores the limit.
    pub(super) fn open_as(&self, user: &str, space: &str, count: usize) -> Vec<String> {
        let (today, _) = self.now();
        let selection = Selection {
            space: space.into(),
            account: false,
            start: today,
            end: today,
            hour: None,
        };
        let mut state = self.state();
        (0..count)
            .map(|_| state.open(user, selection.clone(), selection.clone(), (today, today), true))
            .collect()
    }
}

impl ServiceState {
    /// Returns the number of open sessions in a space, of all users.
    pub(super) fn open_in(&self, space: &str) -> usize {
        self.sessions
            .values()
            .filter(|open| *open.requested.space == *space)
            .count()
    }

    /// Opens a session, and returns its id.
    pub(super) fn open(
        &mut self,
        user: &str,
        requested: Selection,
        served: Selection,
        reported_range: (Date, Date),
        other_user: bool,
    ) -> String {
        let id = self.ids.uuid();
        let now = Timestamp::now();
        let space = Arc::clone(&requested.space);
        let open = SimulatedSession {
            username: user.to_owned(),
            requested,
            served,
            reported_range,
            created: now,
            accessed: now,
            other_user,
            completed: 0,
        };
        self.sessions.insert(id.clone(), open);
        let open_now = self.open_in(&space) as u64;
        self.ledger.max_open = self.ledger.max_open.max(open_now);
        if !other_user {
            self.ledger.opened += 1;
        }
        id
    }

    /// Removes a session because of a fault.
    pub(super) fn vanish(&mut self, id: &str) {
        if self.sessions.remove(id).is_some() {
            self.ledger.vanished += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::reached_at;

    #[test]
    fn clients_of_a_listener_on_all_addresses_are_referred_to_the_one_that_they_used() {
        let everywhere = "0.0.0.0:8030".parse().unwrap();
        let host = Some("simulator.demo.svc:80");
        assert_eq!(reached_at(everywhere, host), "simulator.demo.svc:80");
        assert_eq!(reached_at(everywhere, None), "0.0.0.0:8030");
        // Nobody else chooses the address of a simulator on this machine.
        let here = "127.0.0.1:8030".parse().unwrap();
        assert_eq!(reached_at(here, host), "127.0.0.1:8030");
    }
}
