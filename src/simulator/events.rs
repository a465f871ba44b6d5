//! Generation of events: their number in each hour, and the text of each. No I/O, no clock.
//!
//! Texts look like the CADF records that services sent to Activity Tracker. A block of events depends only on its
//! [`BlockKey`], so it can be generated again at any time and need not be kept.

use std::io::Write as _;
use std::sync::Arc;

use jiff::civil::Date;

use super::random::{Random, hash_of};
use super::settings::{JsonShape, Volume};

/// Events of a small template block. A small number limits the events that an hour needs of its own.
pub(super) const SMALL_BLOCK: u64 = 256;
/// Maximum number of events in an hour without template blocks.
const OWN_EVENTS: u64 = 2 * SMALL_BLOCK;
/// Maximum number of events of a day in each scope and revision, so that lengths stay far below 2⁶⁴.
pub(super) const MAX_EVENTS: u64 = 1_000_000_000_000;
/// Relative number of events in each hour of a day.
const HOUR_WEIGHTS: [u64; 24] = [
    4, 3, 3, 3, 3, 4, 6, 9, 14, 17, 18, 17, 14, 16, 18, 17, 16, 13, 10, 8, 7, 6, 5, 4,
];

/// Key of a block of own events: the complete input of its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BlockKey {
    /// The space; `None`: the account, which has the same events in every space.
    pub(super) space: Option<Arc<str>>,
    pub(super) date: Date,
    pub(super) hour: u8,
    /// Number of original own events, then of late ones, by revision.
    pub(super) counts: Vec<u64>,
    /// True for the first event of a body, which has no preceding comma in an array.
    pub(super) first: bool,
}

/// Composition of the events of an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EventMix {
    /// Own events of the hour.
    pub(super) own: u64,
    /// Small template blocks.
    pub(super) small: u64,
    /// Large template blocks.
    pub(super) large: u64,
}

impl EventMix {
    /// Composes `events` of own ones, small blocks, and large blocks of `large_events` each (a multiple of
    /// [`SMALL_BLOCK`]).
    pub(super) fn of(events: u64, large_events: u64) -> Self {
        if events <= OWN_EVENTS {
            return Self {
                own: events,
                ..Self::default()
            };
        }
        let own = SMALL_BLOCK + (events - SMALL_BLOCK) % SMALL_BLOCK;
        let rest = events - own;
        Self {
            own,
            small: rest % large_events / SMALL_BLOCK,
            large: rest / large_events,
        }
    }
}

/// Returns the number of events of a day in the space or account scope, without late ones.
pub(super) fn events_of_day(volume: &Volume, account: bool, date: Date) -> u64 {
    let factor = if account { Volume::ACCOUNT_FACTOR } else { 1 };
    let quiet = volume.quiet.contains(&date.weekday());
    let usual = if quiet { 0 } else { volume.events_per_day };
    let events = volume.days.get(&date).copied().unwrap_or(usual);
    events.saturating_mul(factor).min(MAX_EVENTS)
}

/// Returns the share of an hour in the `total` of its day. The shares of 24 hours add up to the total.
pub(super) fn share_of_hour(total: u64, hour: u8) -> u64 {
    let all: u64 = HOUR_WEIGHTS.iter().sum();
    let until = |hours: usize| {
        let weight: u64 = HOUR_WEIGHTS.iter().take(hours).sum();
        u64::try_from(u128::from(total) * u128::from(weight) / u128::from(all)).unwrap_or(u64::MAX)
    };
    until(usize::from(hour) + 1) - until(usize::from(hour))
}

/// Returns the text of an hour's own events in chronological order, with late events between the others.
pub(super) fn own_text(seed: u64, key: &BlockKey, bytes_per_event: usize, json: JsonShape) -> Vec<u8> {
    let scope = key.space.as_deref().map_or(0, hash_of);
    let day =
        u64::from(key.date.day_of_year().unsigned_abs()) + u64::from(key.date.year().unsigned_abs()) * 1000;
    let mut events: Vec<(u64, u64, u64)> = Vec::new();
    for (revision, &count) in key.counts.iter().enumerate() {
        let revision = revision as u64;
        for index in 0..count {
            let mut random = Random::new(seed, &[scope, day, u64::from(key.hour), revision, index]);
            let slot = 3_600_000_000 / count.max(1);
            events.push((index * slot + random.below(slot), revision, index));
        }
    }
    events.sort_unstable();
    let mut text = Vec::with_capacity(events.len() * (bytes_per_event + 64));
    let space = key.space.as_deref().unwrap_or("account");
    for (place, (micros, revision, index)) in events.into_iter().enumerate() {
        let mut random = Random::new(seed, &[scope, day, u64::from(key.hour), revision, index, micros]);
        let when = EventTime {
            date: key.date,
            hour: key.hour,
            micros,
        };
        let first = key.first && place == 0;
        write_event(&mut text, &mut random, &when, space, bytes_per_event, json, first);
    }
    text
}

/// Returns the text of a template block of `events` events, the same in every space and hour of this seed. Their
/// times are in 2000, to distinguish them from the hour's own events.
pub(super) fn template_text(seed: u64, events: u64, bytes_per_event: usize, json: JsonShape) -> Vec<u8> {
    let mut text = Vec::new();
    for index in 0..events {
        let mut random = Random::new(seed, &[0x7E39_1A7E, events, index]);
        let when = EventTime {
            date: Date::constant(2000, 1, 1),
            hour: 0,
            micros: index * (3_600_000_000 / events.max(1)),
        };
        write_event(
            &mut text,
            &mut random,
            &when,
            "template",
            bytes_per_event,
            json,
            false,
        );
    }
    text
}

/// Time of an event.
struct EventTime {
    date: Date,
    hour: u8,
    /// Microseconds within the hour.
    micros: u64,
}

const ACTIONS: [(&str, &str); 8] = [
    ("iam-am.policy.create", "iam/policy"),
    ("iam-identity.serviceid-apikey.login", "iam/apikey"),
    ("cloud-object-storage.object.read", "storage/object"),
    ("cloud-object-storage.bucket.create", "storage/bucket"),
    ("containers-kubernetes.cluster.update", "compute/cluster"),
    ("kms.secrets.unwrap", "kms/secret"),
    ("cloudfoundry.app.restage", "compute/app"),
    ("internet-svcs.zones.list", "network/zone"),
];
const NAMES: [&str; 6] = ["alice", "bo", "chandra", "dmitri", "eun-ji", "farah"];

fn write_event(
    text: &mut Vec<u8>,
    random: &mut Random,
    when: &EventTime,
    space: &str,
    bytes_per_event: usize,
    json: JsonShape,
    first: bool,
) {
    let from = text.len();
    let (separator, end) = json.around_event(first);
    let which = usize::try_from(random.below(ACTIONS.len() as u64)).unwrap_or(0);
    let (action, kind) = ACTIONS.get(which).copied().unwrap_or(("unknown", "unknown"));
    let name = random.of(&NAMES);
    let failed = random.below(20) == 0;
    let (outcome, code, level) = if failed {
        ("failure", 403, "warning")
    } else {
        ("success", 200, "normal")
    };
    let (seconds, micros) = (when.micros / 1_000_000, when.micros % 1_000_000);
    let (id, target, octet) = (random.uuid(), random.uuid(), random.below(256));
    let (request, device, trace) = (random.uuid(), random.next(), (random.next(), random.next()));
    // Writing to a vector cannot fail.
    let _ = write!(
        text,
        "{separator}{{\"payload\":{{\"id\":\"{id}\",\"typeURI\":\"http://schemas.dmtf.org/cloud/audit/1.0/event\",\
         \"eventTime\":\"{date}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z\",\"eventType\":\"activity\",\
         \"action\":\"{action}\",\"outcome\":\"{outcome}\",\"severity\":\"{level}\",\
         \"initiator\":{{\"id\":\"IBMid-{name}\",\"name\":\"{name}@example.com\",\
         \"typeURI\":\"service/security/account/user\",\"credential\":{{\"type\":\"token\",\"id\":\"{device:016x}{:016x}{:016x}\"}},\
         \"host\":{{\"agent\":\"example-client/2.1\",\"address\":\"192.0.2.{octet}\"}}}},\
         \"target\":{{\"id\":\"crn:v1:example:public:{kind}:us-south:s/{space}::{target}\",\
         \"name\":\"{kind}\",\"typeURI\":\"{kind}\"}},\"observer\":{{\"name\":\"ActivityTracker\"}},\
         \"reason\":{{\"reasonCode\":{code},\"reasonType\":\"{outcome}\"}},\
         \"requestId\":\"{request}\"}},\
         \"meta\":{{\"serviceProviderName\":\"{kind}\",\"userSpaceId\":\"{space}\",\"userAccountIds\":[\"a1\"]}}",
        trace.0,
        trace.1,
        date = when.date,
        hour = when.hour,
        minute = seconds / 60,
        second = seconds % 60,
    );
    // `,"requestData":""}` has 19 bytes, and the line ending one.
    let padding = (from + bytes_per_event).saturating_sub(text.len() + 20);
    if padding > 0 {
        text.extend_from_slice(b",\"requestData\":\"");
        let filler = b"the quick brown request asks for the lazy resource ";
        text.extend(filler.iter().cycle().take(padding));
        text.push(b'"');
    }
    text.push(b'}');
    text.extend_from_slice(end.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn the_hours_of_a_day_add_up_to_it() {
        for total in [0, 1, 23, 240, 10_007, 14_000_000_000] {
            let hours: u64 = (0..24).map(|hour| share_of_hour(total, hour)).sum();
            assert_eq!(hours, total);
        }
    }

    #[test]
    fn blocks_add_up_to_the_events_and_own_events_stay_few() {
        for events in [0, 1, 511, 512, 513, 1025, 4096, 123_457] {
            let mix = EventMix::of(events, 2048);
            assert_eq!(mix.own + mix.small * SMALL_BLOCK + mix.large * 2048, events);
            assert!(mix.own <= OWN_EVENTS && (events == 0 || mix.own > 0));
        }
    }

    #[test]
    fn late_events_stand_between_the_others_and_remove_none() {
        let key = |counts: &[u64]| BlockKey {
            space: Some("s".into()),
            date: date(2018, 6, 28),
            hour: 7,
            counts: counts.to_vec(),
            first: true,
        };
        let text = |counts: &[u64]| {
            let text = own_text(1, &key(counts), 700, JsonShape::Lines);
            String::from_utf8(text)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let (before, after) = (text(&[20]), text(&[20, 9]));
        assert_eq!(after.len(), 29);
        assert!(before.iter().all(|line| after.contains(line)));
        assert_ne!(before.get(..20), after.get(..20), "a superset, not an extension");
        for line in &after {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let time = event["payload"]["eventTime"].as_str().unwrap();
            assert!(time.starts_with("2018-06-28T07:"), "{time}");
        }
    }
}
