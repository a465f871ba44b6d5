//! Named faults, for `--fault NAME[@WINDOW][#NTH][xTIMES]` and tests. No I/O.

use std::fmt;

use jiff::civil::Date;

use super::effect::{
    BodyOffset, Effect, EmptyReply, ErrorForm, ListForm, NoReplyMode, RangeReply, RepeatDownload,
};
use super::fault::{Fault, RequestKind, WindowFilter};
use super::settings::{Framing, JsonShape, Members};

/// A text that is not a valid fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFault {
    /// There is no preset with this name.
    #[error("unknown fault {name:?}: {}", hint(name))]
    Unknown {
        /// The name as given.
        name: String,
    },
    /// A suffix cannot be parsed.
    #[error("invalid fault {text:?}: {problem} (NAME[@2018-06-03 or @2018-06-03T07][#NTH][xTIMES])")]
    Suffix {
        /// The complete text.
        text: String,
        /// The problem.
        problem: &'static str,
    },
}

/// Suggests similar names.
fn hint(name: &str) -> String {
    let stem = name.split('-').next().unwrap_or(name);
    let near: Vec<&str> = PRESETS
        .iter()
        .map(|preset| preset.name)
        .filter(|known| !stem.is_empty() && known.contains(stem))
        .collect();
    if near.is_empty() {
        "`simulate --list-faults` lists all names".to_owned()
    } else {
        format!("did you mean {}?", near.join(", "))
    }
}

/// Returns the name and the description of every preset.
pub fn presets() -> Vec<(&'static str, &'static str)> {
    PRESETS.iter().map(|preset| (preset.name, preset.about)).collect()
}

impl Fault {
    /// Parses `NAME[@WINDOW][#NTH][xTIMES]`, for example `cut@2018-06-03x2`. `#` and `x` apply to the first fault of the
    /// preset; others that it needs (such as several gzip members) are always active.
    pub fn preset(text: &str) -> Result<Vec<Self>, InvalidFault> {
        let invalid = |problem| InvalidFault::Suffix {
            text: text.to_owned(),
            problem,
        };
        let mut name = text;
        let mut times = None;
        if let Some((before, digits)) = name.rsplit_once('x')
            && !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            times = Some(
                digits
                    .parse()
                    .map_err(|_| invalid("the number after x is too large"))?,
            );
            name = before;
        }
        let mut nth = 1;
        if let Some((before, digits)) = name.rsplit_once('#') {
            nth = digits
                .parse()
                .ok()
                .filter(|nth| *nth > 0)
                .ok_or_else(|| invalid("# must be followed by a number of at least 1"))?;
            name = before;
        }
        let mut window = None;
        if let Some((before, text)) = name.split_once('@') {
            window =
                Some(parse_window(text).ok_or_else(|| invalid("@ must be followed by a day or an hour"))?);
            name = before;
        }
        let preset =
            PRESETS
                .iter()
                .find(|preset| preset.name == name)
                .ok_or_else(|| InvalidFault::Unknown {
                    name: name.to_owned(),
                })?;
        let mut faults = (preset.faults)();
        for fault in &mut faults {
            preset.name.clone_into(&mut fault.name);
        }
        if let Some(main) = faults.first_mut() {
            main.nth = nth;
            main.times = times.or(main.times);
        }
        if let Some((date, hour)) = window {
            for fault in &mut faults {
                (fault.date, fault.hour) = (Some(date), hour);
            }
        }
        Ok(faults)
    }
}

fn parse_window(text: &str) -> Option<(Date, Option<u8>)> {
    let (date, hour) = text
        .split_once('T')
        .map_or((text, None), |(date, hour)| (date, Some(hour)));
    let hour = match hour {
        None => None,
        Some(hour) => Some(hour.parse().ok().filter(|hour: &u8| *hour < 24)?),
    };
    (date.len() == 10).then_some((date.parse().ok()?, hour))
}

struct Preset {
    name: &'static str,
    about: &'static str,
    faults: fn() -> Vec<Fault>,
}

impl fmt::Debug for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Builds the table of presets from rows `name: description => kinds, effect`. Further faults of a preset follow as
/// `; kinds, effect`.
macro_rules! presets {
    ($($name:literal: $about:literal => $([$($kind:ident),*], $effect:expr $(, $adjust:ident($($argument:expr),*))*);+,)*) => {
        &[$(Preset {
            name: $name,
            about: $about,
            faults: || vec![$(Fault::new($name, $effect, &[$(RequestKind::$kind),*])$(.$adjust($($argument),*))*),+],
        }),*]
    };
}

fn status(status: u16, message: &str) -> Effect {
    Effect::Status {
        status,
        retry_after: None,
        message: message.to_owned(),
    }
}

fn fields(drop: &[&str], null: &[&str]) -> Effect {
    Effect::Fields {
        add: false,
        drop: drop.iter().map(|&name| name.to_owned()).collect(),
        null: null.iter().map(|&name| name.to_owned()).collect(),
        lowercase: false,
        number_strings: false,
    }
}

fn cut(at: BodyOffset) -> Effect {
    Effect::Cut {
        at,
        reset: false,
        vanish: false,
    }
}

fn resume(how: RangeReply) -> Effect {
    Effect::ResumeAs { how }
}

fn empty(how: EmptyReply) -> Effect {
    Effect::EmptyAs { how }
}

fn expired(how: EmptyReply) -> Effect {
    Effect::ExpiredAs { how }
}

fn capacity(status: u16, retry_after: Option<u64>) -> Effect {
    Effect::CapacityAs { status, retry_after }
}

impl Fault {
    fn in_windows(self, windows: WindowFilter) -> Self {
        Self { windows, ..self }
    }
}

const FULL: &str = "too many sessions are open in this space";

static PRESETS: &[Preset] = presets! {
    // Resumed downloads. Each needs one cut.
    "resume-wrong-offset": "the body is cut once; the Range request gets 206 from another offset" => [Download], resume(RangeReply::WrongOffset); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-lie": "the body is cut once; the Range request gets 206 with bytes from another offset than it states" => [Download], resume(RangeReply::Lie); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-whole": "the body is cut once; the Range request gets 200 with the complete body" => [Download], resume(RangeReply::Whole); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-remainder": "the body is cut once; the Range request gets 200 with only the remainder" => [Download], resume(RangeReply::Remainder); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-416": "the body is cut once; the Range request gets 416" => [Download], resume(RangeReply::Status(416)); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-error": "the body is cut once; the Range request gets 500" => [Download], resume(RangeReply::Status(500)); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-other-bytes": "the body is cut once; every download has the same events in different bytes" => [Download], Effect::OtherBytes; [Download], cut(BodyOffset::Permille(500)), times(1),
    // Interrupted bodies.
    "cut": "the connection closes halfway through the body, once unless xTIMES is given" => [Download], cut(BodyOffset::Permille(500)), times(1),
    "cut-always": "the connection closes after 512 bytes of every download response" => [Download], cut(BodyOffset::Answer(512)),
    "cut-at-start": "the connection closes after the response headers" => [Download], cut(BodyOffset::Answer(0)),
    "cut-reset": "the connection is reset halfway through the body" => [Download], Effect::Cut { at: BodyOffset::Permille(500), reset: true, vanish: false }, times(1),
    "cut-at-member-end": "the body has several gzip members, and the connection closes after the first" => [Download], cut(BodyOffset::MemberEnd(1)); [Download], Effect::MembersAs { members: Members::Hours },
    "cut-close-delimited": "the body has neither length nor chunks, and the connection closes halfway through it" => [Download], cut(BodyOffset::Permille(500)), times(1); [Download], Effect::FramingAs { framing: Framing::Close },
    "cut-close-delimited-at-member-end": "the body has neither length nor chunks, and the connection closes after a gzip member: the bytes look complete" => [Download], cut(BodyOffset::MemberEnd(1)), times(1); [Download], Effect::FramingAs { framing: Framing::Close }; [Download], Effect::MembersAs { members: Members::Hours },
    "cut-chunked": "the body is chunked, and the connection closes halfway through it" => [Download], cut(BodyOffset::Permille(500)), times(1); [Download], Effect::FramingAs { framing: Framing::Chunked },
    "end-early": "the body ends halfway, and the HTTP framing says that it is complete" => [Download], Effect::EndEarly { at: BodyOffset::Permille(500) },
    "end-early-at-member-end": "the body ends after a gzip member, and the HTTP framing says that it is complete: only the count shows the loss" => [Download], Effect::EndEarly { at: BodyOffset::MemberEnd(1) }; [Download], Effect::MembersAs { members: Members::Hours },
    "session-vanishes": "the session disappears halfway through the body, and the connection closes" => [Download], Effect::Cut { at: BodyOffset::Permille(500), reset: false, vanish: true }, times(1),
    "stall": "the body stops halfway, and the connection stays open" => [Download], Effect::Stall { at: BodyOffset::Permille(500) }, times(1),
    "stall-days": "bodies of days always stop after 512 bytes, bodies of hours do not" => [Download], Effect::Stall { at: BodyOffset::Answer(512) }, in_windows(WindowFilter::Days),
    "hang-download": "a download gets no response" => [Download], Effect::NoReply { done: false, how: NoReplyMode::Hang }, times(1),
    "hang": "no request gets a response" => [], Effect::NoReply { done: false, how: NoReplyMode::Hang },
    "trickle": "bodies arrive at 1 KiB per second" => [Download], Effect::Trickle { bytes_per_second: 1024 },
    "slow": "every response is two seconds late" => [], Effect::Delay { millis: 2000 },
    "chunked": "bodies are chunked" => [Download], Effect::FramingAs { framing: Framing::Chunked },
    "close-delimited": "bodies end when the connection closes" => [Download], Effect::FramingAs { framing: Framing::Close },
    // Contents of bodies.
    "encoding-label": "downloads have the header Content-Encoding: gzip" => [Download], Effect::EncodingLabel,
    "trailing-bytes": "100 bytes follow the last gzip member" => [Download], Effect::Trailing { bytes: 100 },
    "members": "bodies have one gzip member per hour" => [Download], Effect::MembersAs { members: Members::Hours },
    "not-gzip": "a download gets an HTML login page with status 200" => [Download], Effect::LoginPage,
    "wrong-crc": "the CRC of the first gzip member is wrong" => [Download], Effect::WrongCrc,
    "other-bytes": "every download has the same events in different bytes" => [Download], Effect::OtherBytes,
    "json-array": "the events are one JSON array" => [Download], Effect::JsonAs { json: JsonShape::Array },
    "json-array-per-member": "the events are one JSON array in each gzip member" => [Download], Effect::JsonAs { json: JsonShape::ArrayPerHour }; [Download], Effect::MembersAs { members: Members::Hours },
    "json-bom": "a byte order mark precedes the first event" => [Download], Effect::JsonAs { json: JsonShape::ByteOrderMark },
    "json-joined": "the events follow each other without a separator" => [Download], Effect::JsonAs { json: JsonShape::Joined },
    "json-null-lines": "lines with null are between the events" => [Download], Effect::JsonAs { json: JsonShape::NullLines },
    "json-record-separators": "each event follows a record separator (RFC 7464)" => [Download], Effect::JsonAs { json: JsonShape::RecordSeparators },
    "json-nul-padding": "NUL bytes follow the last event" => [Download], Effect::JsonAs { json: JsonShape::NulPadding },
    "json-broken-line": "a line after each hour is not JSON" => [Download], Effect::JsonAs { json: JsonShape::BrokenLine },
    "json-envelope": "the events are a list in one object" => [Download], Effect::JsonAs { json: JsonShape::Envelope },
    // Ranges without events.
    "empty-404": "a range without events gets 404" => [Download], empty(EmptyReply::NotFound),
    "empty-204": "a range without events gets 204" => [Download], empty(EmptyReply::NoContent),
    "empty-zero-length": "a range without events gets an empty body" => [Download], empty(EmptyReply::ZeroLength),
    "empty-gzip": "a range without events gets a gzip without contents (the default)" => [Download], empty(EmptyReply::GzipOfNothing),
    "expired-404": "a range past retention gets 404" => [Download], expired(EmptyReply::NotFound),
    "expired-204": "a range past retention gets 204" => [Download], expired(EmptyReply::NoContent),
    "expired-zero-length": "a range past retention gets an empty body" => [Download], expired(EmptyReply::ZeroLength),
    "expired-gzip": "a range past retention gets a gzip without contents (the default)" => [Download], expired(EmptyReply::GzipOfNothing),
    "download-404": "a download gets 404 although the session exists" => [Download], status(404, "no data found"),
    "second-refused": "a second complete download in one session gets 409" => [Download], Effect::SecondDownloadAs { how: RepeatDownload::Refused },
    "second-empty": "a second complete download in one session gets an empty body" => [Download], Effect::SecondDownloadAs { how: RepeatDownload::Empty },
    // Capacity.
    "capacity-429": "a create in a full space gets 429 with Retry-After (the default)" => [Create], capacity(429, Some(1)),
    "capacity-403": "a create in a full space gets 403" => [Create], capacity(403, None),
    "capacity-409": "a create in a full space gets 409" => [Create], capacity(409, None),
    "capacity-500": "a create in a full space gets 500" => [Create], capacity(500, None),
    "full": "a create is rejected as if the space were full" => [Create], Effect::Status { status: 429, retry_after: Some(1), message: FULL.to_owned() },
    "create-403": "a create gets 403, while the session list works" => [Create], status(403, "forbidden"),
    "create-500": "a create gets 500" => [Create], status(500, "internal error"),
    "create-reply-lost": "a session is created, and the connection closes without a response" => [Create], Effect::NoReply { done: true, how: NoReplyMode::Close }, times(1),
    "create-reply-hangs": "a session is created, and the response never arrives" => [Create], Effect::NoReply { done: true, how: NoReplyMode::Hang }, times(1),
    "delete-reply-lost": "a session is deleted, and the connection closes without a response" => [Delete], Effect::NoReply { done: true, how: NoReplyMode::Close }, times(1),
    "delete-500": "a delete gets 500" => [Delete], status(500, "internal error"), times(1),
    "list-500": "the session list gets 500" => [List], status(500, "internal error"),
    // Errors.
    "errors-text": "error responses are plain text" => [], Effect::ErrorsAs { form: ErrorForm::Text },
    "errors-html": "error responses are HTML pages of a gateway" => [], Effect::ErrorsAs { form: ErrorForm::Html },
    "http-500": "every tracker request gets 500" => [], status(500, "internal error"),
    "http-502": "every tracker request gets 502 with an HTML page of a gateway" => [], status(502, "bad gateway"); [], Effect::ErrorsAs { form: ErrorForm::Html },
    "http-503": "every tracker request gets 503 with Retry-After" => [], Effect::Status { status: 503, retry_after: Some(1), message: "unavailable".to_owned() },
    "connection-closed": "the connection closes without a response" => [], Effect::NoReply { done: false, how: NoReplyMode::Close },
    "connection-reset": "the connection is reset without a response" => [], Effect::NoReply { done: false, how: NoReplyMode::Reset },
    "forbidden": "every tracker request gets 403, since the user lacks the developer role" => [], status(403, "the user does not have the developer role in the space"),
    "token-expires": "the token expires: one request gets 401" => [], Effect::ExpireToken, times(1),
    "token-expires-mid-download": "the body is cut once; the token has expired when the download resumes" => [Download], Effect::ExpireToken, from_nth(2), times(1); [Download], cut(BodyOffset::Permille(500)), times(1),
    "unauthorized": "every tracker request gets 401" => [], status(401, "unauthorized"),
    // Sessions.
    "session-gone": "the session no longer exists when it is downloaded" => [Download], Effect::SessionGone, times(1),
    "session-gone-on-show": "the session no longer exists when it is read" => [Show], Effect::SessionGone, times(1),
    "session-gone-on-delete": "the session no longer exists when it is deleted" => [Delete], Effect::SessionGone, times(1),
    "session-fields-added": "sessions have undocumented fields" => [Create, List, Show], Effect::Fields { add: true, drop: Vec::new(), null: Vec::new(), lowercase: false, number_strings: false },
    "session-fields-missing": "sessions have only an id" => [Create, List, Show], fields(&["space", "username", "create-time", "access-time", "date-range", "types", "search-time"], &[]),
    "session-fields-null": "all fields of a session except id are null" => [Create, List, Show], fields(&[], &["space", "username", "create-time", "access-time", "date-range", "types", "search-time"]),
    "session-id-missing": "a created session has no id" => [Create], fields(&["id"], &[]),
    "range-differs": "a session states the day before the requested one, and its download has that day" => [Create], Effect::AnswerShifted { days: -1, data: true },
    "range-differs-in-name": "a session states the day before the requested one, but its download has the requested day" => [Create], Effect::AnswerShifted { days: -1, data: false },
    "list-whole-space": "the session list has the sessions of every user" => [List], Effect::WholeSpace,
    "list-object": "the session list is an object that contains the array" => [List], Effect::ListAs { form: ListForm::Object },
    "list-null": "the session list is null" => [List], Effect::ListAs { form: ListForm::Null },
    "access-time-frozen": "access-time never changes" => [], Effect::AccessTimeFrozen,
    // Daily listing.
    "events-403": "GET /v3/events gets 403" => [Events], status(403, "forbidden"),
    "events-400": "GET /v3/events gets 400 with an HTML page of a gateway that rejects GET requests with a body" => [Events], status(400, "a GET must not have a body"); [Events], Effect::ErrorsAs { form: ErrorForm::Html },
    "events-refuse-long": "GET /v3/events gets 400 for more than 15 days, and for days in the future" => [Events], Effect::RefuseRanges { days: 15 },
    "events-500": "GET /v3/events gets 500" => [Events], status(500, "internal error"),
    "events-ignores-fields": "the daily listing has every retained day, whatever the request asks for" => [Events], Effect::IgnoreFields,
    "events-lag": "the counts in the daily listing are half of the correct ones" => [Events], Effect::CountAs { percent: 50 },
    "day-grows": "a day grows during its download: the first listing has a count of 80 %, and the first body ends after 20 gzip members" => [Download], Effect::EndEarly { at: BodyOffset::MemberEnd(20) }, times(1); [Download], Effect::MembersAs { members: Members::Hours }; [Events], Effect::CountAs { percent: 80 }, times(1),
    "events-over": "the counts in the daily listing are too high" => [Events], Effect::CountAs { percent: 150 },
    "events-left-out": "the daily listing omits days" => [Events], Effect::LeaveOutDays,
    "events-zero": "the daily listing has days without events, with count zero" => [Events], Effect::ZeroDays,
    "events-zero-wrong": "the daily listing has count zero for days with events" => [Events], Effect::CountAs { percent: 0 },
    "events-no-counts": "the daily listing has no counts" => [Events], fields(&[], &["COUNT", "SIZE"]),
    "events-strings": "the numbers in the daily listing are strings" => [Events], Effect::Fields { add: false, drop: Vec::new(), null: Vec::new(), lowercase: false, number_strings: true },
    "events-lowercase": "the field names in the daily listing are in lower case, and undocumented fields are added" => [Events], Effect::Fields { add: true, drop: Vec::new(), null: Vec::new(), lowercase: true, number_strings: false },
    "events-object": "the daily listing is an object that contains the array" => [Events], Effect::ListAs { form: ListForm::Object },
    "events-null": "the daily listing is null" => [Events], Effect::ListAs { form: ListForm::Null },
    // Redirects.
    "redirect": "tracker requests are redirected to another host" => [], Effect::Redirect { status: 307, other_host: true },
    "redirect-download": "downloads are redirected to another host" => [Download], Effect::Redirect { status: 302, other_host: true },
    "redirect-same-host": "downloads are redirected within the host" => [Download], Effect::Redirect { status: 307, other_host: false },
    "redirect-uaa": "UAA requests are redirected to another host" => [Info, Login, Refresh], Effect::Redirect { status: 307, other_host: true },
    // UAA.
    "uaa-401": "every login gets 401" => [Login, Refresh], status(401, "Bad credentials"),
    "uaa-500": "every login gets 500" => [Login, Refresh], status(500, "internal error"),
    "uaa-html": "every login gets 502 with an HTML page of a gateway" => [Login, Refresh], status(502, "bad gateway"); [Login, Refresh], Effect::ErrorsAs { form: ErrorForm::Html },
    "uaa-hang": "logins get no response" => [Login, Refresh], Effect::NoReply { done: false, how: NoReplyMode::Hang },
    "uaa-rotates": "a refresh token is valid for one use" => [Refresh], Effect::RotateRefreshTokens,
    "refresh-refused": "refresh tokens are rejected" => [Refresh], status(401, "invalid_token"),
    "info-500": "GET /v2/info gets 500" => [Info], status(500, "internal error"),
};

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use std::collections::BTreeSet;

    #[test]
    fn preset_names_are_unique_and_their_faults_survive_json() {
        let names: BTreeSet<&str> = presets().iter().map(|preset| preset.0).collect();
        assert_eq!(names.len(), presets().len());
        for name in names {
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            );
            let faults = Fault::preset(name).unwrap();
            let json = serde_json::to_string(&faults).unwrap();
            assert_eq!(serde_json::from_str::<Vec<Fault>>(&json).unwrap(), faults);
        }
    }

    #[test]
    fn suffixes_set_the_window_and_the_count() {
        let main = Fault::preset("cut-at-member-end@2018-06-03T07#2x3")
            .unwrap()
            .swap_remove(0);
        assert_eq!((main.date, main.hour), (Some(date(2018, 6, 3)), Some(7)));
        assert_eq!((main.nth, main.times), (2, Some(3)));
        for invalid in [
            "",
            "cutt",
            "cut@",
            "cut@2018-13-01",
            "cut@2018-06-03T24",
            "cut#0",
            "cutx99999999999999999999",
        ] {
            let message = Fault::preset(invalid).unwrap_err().to_string();
            assert!(message.contains(invalid) || message.contains("cut"), "{message}");
        }
    }
}
