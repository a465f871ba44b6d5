//! Misbehaviours by name, for `--fault NAME[@WINDOW][#NTH][xTIMES]` and tests. No I/O.

use std::fmt;

use jiff::civil::Date;

use super::effect::{
    BodyOffset, Effect, EmptyReply, ErrorForm, ListForm, NoReplyMode, RangeReply, RepeatDownload,
};
use super::fault::{Fault, RequestKind, WindowFilter};
use super::settings::{Framing, JsonShape, Members};

/// A text that names no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFault {
    /// No preset of that name.
    #[error("no fault is called {name:?}; {}", hint(name))]
    Unknown {
        /// The name as given.
        name: String,
    },
    /// A suffix that cannot be read.
    #[error("fault {text:?}: {wrong} (NAME[@2018-06-03 or @2018-06-03T07][#NTH][xTIMES])")]
    Suffix {
        /// The whole text.
        text: String,
        /// What is wrong with it.
        wrong: &'static str,
    },
}

/// The nearest names, so that a slip of the pen is easily seen.
fn hint(name: &str) -> String {
    let stem = name.split('-').next().unwrap_or(name);
    let near: Vec<&str> = PRESETS
        .iter()
        .map(|preset| preset.name)
        .filter(|known| !stem.is_empty() && known.contains(stem))
        .collect();
    if near.is_empty() {
        "`simulate --list-faults` names all".to_owned()
    } else {
        format!("there are: {}", near.join(", "))
    }
}

/// The name and the meaning of every preset.
pub fn presets() -> Vec<(&'static str, &'static str)> {
    PRESETS.iter().map(|preset| (preset.name, preset.about)).collect()
}

impl Fault {
    /// The faults that a text names: `NAME[@WINDOW][#NTH][xTIMES]`, for example `cut@2018-06-03x2`. `#` and `x`
    /// hold for the preset's first fault; others that it needs (such as many gzip members) are always on.
    pub fn preset(text: &str) -> Result<Vec<Self>, InvalidFault> {
        let wrong = |wrong| InvalidFault::Suffix {
            text: text.to_owned(),
            wrong,
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
                    .map_err(|_| wrong("the number behind x is too large"))?,
            );
            name = before;
        }
        let mut nth = 1;
        if let Some((before, digits)) = name.rsplit_once('#') {
            nth = digits
                .parse()
                .ok()
                .filter(|nth| *nth > 0)
                .ok_or_else(|| wrong("behind # comes a number from 1"))?;
            name = before;
        }
        let mut window = None;
        if let Some((before, text)) = name.split_once('@') {
            window = Some(parse_window(text).ok_or_else(|| wrong("behind @ comes a day or an hour of one"))?);
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

/// `name: meaning => on kinds, effect` for a preset of one fault, which may be followed by `; kinds, effect`
/// for others that it needs.
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
    // Resume on the wire. Each needs a cut, which happens once.
    "resume-wrong-offset": "a cut body; its Range is answered by 206 at another offset" => [Download], resume(RangeReply::WrongOffset); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-lie": "a cut body; its Range is answered by a 206 whose bytes are from another offset" => [Download], resume(RangeReply::Lie); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-whole": "a cut body; its Range is ignored: 200 with the whole body" => [Download], resume(RangeReply::Whole); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-remainder": "a cut body; its Range is answered by 200 with the remainder only" => [Download], resume(RangeReply::Remainder); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-416": "a cut body; its Range is answered by 416" => [Download], resume(RangeReply::Status(416)); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-error": "a cut body; its Range is answered by 500" => [Download], resume(RangeReply::Status(500)); [Download], cut(BodyOffset::Permille(500)), times(1),
    "resume-other-bytes": "a cut body; every download has the same events in other bytes" => [Download], Effect::OtherBytes; [Download], cut(BodyOffset::Permille(500)), times(1),
    // Ends of bodies.
    "cut": "the connection closes at half of the body, once unless xTIMES says more" => [Download], cut(BodyOffset::Permille(500)), times(1),
    "cut-always": "every answer with a body closes after 512 bytes" => [Download], cut(BodyOffset::Answer(512)),
    "cut-at-start": "the connection closes after the head of the answer" => [Download], cut(BodyOffset::Answer(0)),
    "cut-reset": "the connection is reset at half of the body" => [Download], Effect::Cut { at: BodyOffset::Permille(500), reset: true, vanish: false }, times(1),
    "cut-at-member-end": "many gzip members; the connection closes at the end of the first" => [Download], cut(BodyOffset::MemberEnd(1)); [Download], Effect::MembersAs { members: Members::Hours },
    "cut-close-delimited": "a body without length or chunks; the connection closes at half of it" => [Download], cut(BodyOffset::Permille(500)), times(1); [Download], Effect::FramingAs { framing: Framing::Close },
    "cut-close-delimited-at-member-end": "the same, at the end of a gzip member: nothing in the bytes tells" => [Download], cut(BodyOffset::MemberEnd(1)), times(1); [Download], Effect::FramingAs { framing: Framing::Close }; [Download], Effect::MembersAs { members: Members::Hours },
    "cut-chunked": "a chunked body; the connection closes at half of it" => [Download], cut(BodyOffset::Permille(500)), times(1); [Download], Effect::FramingAs { framing: Framing::Chunked },
    "end-early": "the body ends at half, and HTTP says that it is whole" => [Download], Effect::EndEarly { at: BodyOffset::Permille(500) },
    "end-early-at-member-end": "the same, at the end of a gzip member: only the count tells" => [Download], Effect::EndEarly { at: BodyOffset::MemberEnd(1) }; [Download], Effect::MembersAs { members: Members::Hours },
    "session-vanishes": "the session is gone at half of the body, and the connection closes" => [Download], Effect::Cut { at: BodyOffset::Permille(500), reset: false, vanish: true }, times(1),
    "stall": "the body stops coming at half" => [Download], Effect::Stall { at: BodyOffset::Permille(500) }, times(1),
    "stall-days": "the bodies of whole days always stop coming after 512 bytes, those of hours do not" => [Download], Effect::Stall { at: BodyOffset::Answer(512) }, in_windows(WindowFilter::Days),
    "hang-download": "a download is never answered" => [Download], Effect::NoReply { done: false, how: NoReplyMode::Hang }, times(1),
    "hang": "no request is answered" => [], Effect::NoReply { done: false, how: NoReplyMode::Hang },
    "trickle": "1 KiB a second" => [Download], Effect::Trickle { bytes_per_second: 1024 },
    "slow": "each answer comes two seconds late" => [], Effect::Delay { millis: 2000 },
    "chunked": "bodies are chunked" => [Download], Effect::FramingAs { framing: Framing::Chunked },
    "close-delimited": "bodies end with the connection" => [Download], Effect::FramingAs { framing: Framing::Close },
    // What is in bodies.
    "encoding-label": "Content-Encoding: gzip on the body" => [Download], Effect::EncodingLabel,
    "trailing-bytes": "100 bytes behind the last gzip member" => [Download], Effect::Trailing { bytes: 100 },
    "members": "a gzip member for each hour" => [Download], Effect::MembersAs { members: Members::Hours },
    "not-gzip": "a login page in HTML, with status 200" => [Download], Effect::LoginPage,
    "wrong-crc": "the CRC of the first gzip member is wrong" => [Download], Effect::WrongCrc,
    "other-bytes": "every download has the same events in other bytes" => [Download], Effect::OtherBytes,
    "json-array": "the events are one array" => [Download], Effect::JsonAs { json: JsonShape::Array },
    // Nothing there.
    "empty-404": "a range without events is 404" => [Download], empty(EmptyReply::NotFound),
    "empty-204": "a range without events is 204" => [Download], empty(EmptyReply::NoContent),
    "empty-zero-length": "a range without events has a body of zero bytes" => [Download], empty(EmptyReply::ZeroLength),
    "empty-gzip": "a range without events is a gzip of nothing (the default)" => [Download], empty(EmptyReply::GzipOfNothing),
    "expired-404": "a range past retention is 404" => [Download], expired(EmptyReply::NotFound),
    "expired-204": "a range past retention is 204" => [Download], expired(EmptyReply::NoContent),
    "expired-zero-length": "a range past retention has a body of zero bytes" => [Download], expired(EmptyReply::ZeroLength),
    "expired-gzip": "a range past retention is a gzip of nothing (the default)" => [Download], expired(EmptyReply::GzipOfNothing),
    "download-404": "a download is 404 although the session is there" => [Download], status(404, "no data found"),
    "second-refused": "another whole download in one session is 409" => [Download], Effect::SecondDownloadAs { how: RepeatDownload::Refused },
    "second-empty": "another whole download in one session has zero bytes" => [Download], Effect::SecondDownloadAs { how: RepeatDownload::Empty },
    // Capacity.
    "capacity-429": "a full space is 429 with Retry-After (the default)" => [Create], capacity(429, Some(1)),
    "capacity-403": "a full space is 403" => [Create], capacity(403, None),
    "capacity-409": "a full space is 409" => [Create], capacity(409, None),
    "capacity-500": "a full space is 500" => [Create], capacity(500, None),
    "full": "a create is refused as if the space were full" => [Create], Effect::Status { status: 429, retry_after: Some(1), message: FULL.to_owned() },
    "create-403": "a create is 403, whatever the reason, while the list answers" => [Create], status(403, "forbidden"),
    "create-500": "a create is 500" => [Create], status(500, "internal error"),
    "create-reply-lost": "a session is created, and the connection closes without an answer" => [Create], Effect::NoReply { done: true, how: NoReplyMode::Close }, times(1),
    "create-reply-hangs": "a session is created, and the answer never comes" => [Create], Effect::NoReply { done: true, how: NoReplyMode::Hang }, times(1),
    "delete-reply-lost": "a session is deleted, and the connection closes without an answer" => [Delete], Effect::NoReply { done: true, how: NoReplyMode::Close }, times(1),
    "delete-500": "a delete is 500" => [Delete], status(500, "internal error"), times(1),
    "list-500": "the session list is 500" => [List], status(500, "internal error"),
    // Errors.
    "errors-text": "errors are plain text" => [], Effect::ErrorsAs { form: ErrorForm::Text },
    "errors-html": "errors are pages of a gateway" => [], Effect::ErrorsAs { form: ErrorForm::Html },
    "http-500": "every request of the tracker is 500" => [], status(500, "internal error"),
    "http-502": "every request of the tracker is 502, as a page of a gateway" => [], status(502, "bad gateway"); [], Effect::ErrorsAs { form: ErrorForm::Html },
    "http-503": "every request of the tracker is 503 with Retry-After" => [], Effect::Status { status: 503, retry_after: Some(1), message: "unavailable".to_owned() },
    "connection-closed": "the connection closes instead of an answer" => [], Effect::NoReply { done: false, how: NoReplyMode::Close },
    "connection-reset": "the connection is reset instead of an answer" => [], Effect::NoReply { done: false, how: NoReplyMode::Reset },
    "forbidden": "the user lacks the developer role: 403" => [], status(403, "the user does not have the developer role in the space"),
    "token-expires": "the token is no longer known: 401 once" => [], Effect::ExpireToken, times(1),
    "token-expires-mid-download": "a cut body; the token is no longer known when it is resumed" => [Download], Effect::ExpireToken, from_nth(2), times(1); [Download], cut(BodyOffset::Permille(500)), times(1),
    "unauthorized": "401 always" => [], status(401, "unauthorized"),
    // Sessions.
    "session-gone": "the session is gone when it is downloaded" => [Download], Effect::SessionGone, times(1),
    "session-gone-on-show": "the session is gone when it is shown" => [Show], Effect::SessionGone, times(1),
    "session-gone-on-delete": "the session is gone when it is deleted" => [Delete], Effect::SessionGone, times(1),
    "session-fields-added": "sessions have fields that nobody documented" => [Create, List, Show], Effect::Fields { add: true, drop: Vec::new(), null: Vec::new(), lowercase: false, number_strings: false },
    "session-fields-missing": "sessions have nothing but id" => [Create, List, Show], fields(&["space", "username", "create-time", "access-time", "date-range", "types", "search-time"], &[]),
    "session-fields-null": "all of a session but id is null" => [Create, List, Show], fields(&[], &["space", "username", "create-time", "access-time", "date-range", "types", "search-time"]),
    "session-id-missing": "a created session has no id" => [Create], fields(&["id"], &[]),
    "range-differs": "a session answers, and delivers, the day before the asked one" => [Create], Effect::AnswerShifted { days: -1, data: true },
    "range-differs-in-name": "a session answers the day before, and delivers the asked one" => [Create], Effect::AnswerShifted { days: -1, data: false },
    "list-whole-space": "the session list names those of every user" => [List], Effect::WholeSpace,
    "list-object": "the session list is an object that holds the array" => [List], Effect::ListAs { form: ListForm::Object },
    "list-null": "the session list is null" => [List], Effect::ListAs { form: ListForm::Null },
    "access-time-frozen": "access-time does not move" => [], Effect::AccessTimeFrozen,
    // The daily listing.
    "events-403": "GET /v3/events is 403" => [Events], status(403, "forbidden"),
    "events-400": "GET /v3/events is 400, as a page of a gateway that takes no body" => [Events], status(400, "a GET must not have a body"); [Events], Effect::ErrorsAs { form: ErrorForm::Html },
    "events-500": "GET /v3/events is 500" => [Events], status(500, "internal error"),
    "events-ignores-fields": "the listing has every kept day, whatever was asked" => [Events], Effect::IgnoreFields,
    "events-lag": "the listing's counts are half of the right ones" => [Events], Effect::CountAs { percent: 50 },
    "events-over": "the listing's counts are too high" => [Events], Effect::CountAs { percent: 150 },
    "events-left-out": "the listing leaves days out" => [Events], Effect::LeaveOutDays,
    "events-zero": "the listing has days without events, as zero" => [Events], Effect::ZeroDays,
    "events-zero-wrong": "the listing says zero for days that have events" => [Events], Effect::CountAs { percent: 0 },
    "events-no-counts": "the listing has no counts" => [Events], fields(&[], &["COUNT", "SIZE"]),
    "events-strings": "the listing's numbers are strings" => [Events], Effect::Fields { add: false, drop: Vec::new(), null: Vec::new(), lowercase: false, number_strings: true },
    "events-lowercase": "the listing's names are in lower case, among unknown ones" => [Events], Effect::Fields { add: true, drop: Vec::new(), null: Vec::new(), lowercase: true, number_strings: false },
    "events-object": "the listing is an object that holds the array" => [Events], Effect::ListAs { form: ListForm::Object },
    "events-null": "the listing is null" => [Events], Effect::ListAs { form: ListForm::Null },
    // Redirects.
    "redirect": "a redirect of the tracker to another host" => [], Effect::Redirect { status: 307, other_host: true },
    "redirect-download": "a redirect of the download to another host" => [Download], Effect::Redirect { status: 302, other_host: true },
    "redirect-same-host": "a redirect of the download within the host" => [Download], Effect::Redirect { status: 307, other_host: false },
    "redirect-uaa": "a redirect of the UAA to another host" => [Info, Login, Refresh], Effect::Redirect { status: 307, other_host: true },
    // UAA.
    "uaa-401": "every login is refused" => [Login, Refresh], status(401, "Bad credentials"),
    "uaa-500": "the UAA is 500" => [Login, Refresh], status(500, "internal error"),
    "uaa-html": "the UAA is 502, as a page of a gateway" => [Login, Refresh], status(502, "bad gateway"); [Login, Refresh], Effect::ErrorsAs { form: ErrorForm::Html },
    "uaa-hang": "the UAA does not answer" => [Login, Refresh], Effect::NoReply { done: false, how: NoReplyMode::Hang },
    "uaa-rotates": "a refresh token is good for one use" => [Refresh], Effect::RotateRefreshTokens,
    "refresh-refused": "a refresh token is refused" => [Refresh], status(401, "invalid_token"),
    "info-500": "GET /v2/info is 500" => [Info], status(500, "internal error"),
};

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_read_back() {
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
    fn suffixes_say_where_and_how_often() {
        let main = Fault::preset("cut-at-member-end@2018-06-03T07#2x3")
            .unwrap()
            .swap_remove(0);
        assert_eq!((main.date, main.hour), (Some(date(2018, 6, 3)), Some(7)));
        assert_eq!((main.nth, main.times), (2, Some(3)));
        for wrong in [
            "",
            "cutt",
            "cut@",
            "cut@2018-13-01",
            "cut@2018-06-03T24",
            "cut#0",
            "cutx99999999999999999999",
        ] {
            let message = Fault::preset(wrong).unwrap_err().to_string();
            assert!(message.contains(wrong) || message.contains("cut"), "{message}");
        }
    }
}
