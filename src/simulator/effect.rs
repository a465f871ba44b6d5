//! Each behaviour that the protocol's sources leave open, as a value. No I/O.

use serde::{Deserialize, Serialize};

use super::settings::{Framing, JsonShape, Members};

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Effect {
    /// The answer comes late.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
    /// No answer at all.
    NoReply {
        /// The request is carried out all the same.
        done: bool,
        /// What happens to the connection.
        how: NoReplyMode,
    },
    /// An error instead of the answer; the request is not carried out.
    Status {
        /// The HTTP status.
        status: u16,
        /// Seconds for `Retry-After`.
        #[serde(default)]
        retry_after: Option<u64>,
        /// The words.
        message: String,
    },
    /// A redirect; the ledger notes a violation if a token follows it to another host.
    Redirect {
        /// The HTTP status, 301–308.
        status: u16,
        /// To `localhost` instead of the address; otherwise to the same host, where it is answered.
        other_host: bool,
    },
    /// The token of the request is no longer known: 401.
    ExpireToken,
    /// The session of the request is gone: 404.
    SessionGone,
    /// How every error is worded.
    ErrorsAs {
        /// The form.
        form: ErrorForm,
    },
    /// How a full space is told.
    CapacityAs {
        /// The HTTP status.
        status: u16,
        /// Seconds for `Retry-After`.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Objects of a JSON answer have other fields.
    Fields {
        /// Adds fields that nobody documented.
        #[serde(default)]
        add: bool,
        /// Leaves these out.
        #[serde(default)]
        drop: Vec<String>,
        /// Sends these as null.
        #[serde(default)]
        null: Vec<String>,
        /// Field names in lower case.
        #[serde(default)]
        lowercase: bool,
        /// Numbers as strings.
        #[serde(default)]
        number_strings: bool,
    },
    /// How a list is sent.
    ListAs {
        /// The form.
        form: ListForm,
    },
    /// The created session's date range differs from what was asked.
    AnswerShifted {
        /// Days added to both ends.
        days: i8,
        /// The download follows the answer, not the request.
        data: bool,
    },
    /// The session list names the sessions of every user of the space.
    WholeSpace,
    /// A session's access-time does not move.
    AccessTimeFrozen,
    /// The listing's counts are wrong.
    CountAs {
        /// Percent of the right count: below 100 rounded down, above rounded up.
        percent: u64,
    },
    /// The listing leaves days out.
    LeaveOutDays,
    /// The listing has kept days without events, as zero.
    ZeroDays,
    /// The listing has every kept day, whatever was asked.
    IgnoreFields,
    /// How a `Range` is answered.
    ResumeAs {
        /// The way.
        how: RangeReply,
    },
    /// The connection ends before the body does.
    Cut {
        /// Where.
        at: BodyOffset,
        /// With a reset instead of a clean close.
        #[serde(default)]
        reset: bool,
        /// The session is gone after that.
        #[serde(default)]
        vanish: bool,
    },
    /// The body ends early, and HTTP says that it is complete.
    EndEarly {
        /// Where.
        at: BodyOffset,
    },
    /// The body stops coming, and the connection stays.
    Stall {
        /// Where.
        at: BodyOffset,
    },
    /// The body comes slowly.
    Trickle {
        /// Bytes per second.
        bytes_per_second: u64,
    },
    /// How the end of the body is told.
    FramingAs {
        /// The way.
        framing: Framing,
    },
    /// Where gzip members end.
    MembersAs {
        /// The way.
        members: Members,
    },
    /// How events are put together.
    JsonAs {
        /// The way.
        json: JsonShape,
    },
    /// `Content-Encoding: gzip` on the body.
    EncodingLabel,
    /// Bytes behind the last gzip member.
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The CRC of the first gzip member is wrong.
    WrongCrc,
    /// The same events in other bytes, at every download anew.
    OtherBytes,
    /// A login page in HTML, with status 200.
    LoginPage,
    /// How a range without events is answered.
    EmptyAs {
        /// The way.
        how: EmptyReply,
    },
    /// How a range past retention is answered.
    ExpiredAs {
        /// The way.
        how: EmptyReply,
    },
    /// How another whole download in one session is answered.
    SecondDownloadAs {
        /// The way; never seen: the same bytes again.
        how: RepeatDownload,
    },
    /// A refresh token is good for one use, and the answer has the next.
    RotateRefreshTokens,
}

/// What a connection does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoReplyMode {
    /// Closes.
    Close,
    /// Resets.
    Reset,
    /// Stays open and silent.
    Hang,
}

/// How an error is worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorForm {
    /// `{"message":…}`.
    Json,
    /// Plain text.
    Text,
    /// A page of a gateway.
    Html,
}

/// How a list is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListForm {
    /// An array.
    Array,
    /// An object that holds an array.
    Object,
    /// `null`.
    Null,
}

/// A place in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BodyOffset {
    /// This many bytes of the whole body.
    Byte(u64),
    /// This many thousandths of the whole body.
    Permille(u64),
    /// The end of this gzip member, from 1, if more follow.
    MemberEnd(u64),
    /// This many bytes of this answer.
    Answer(u64),
}

/// How a `Range: bytes=N-` is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RangeReply {
    /// `206` at N.
    Right,
    /// `206` at another offset, and it says so.
    WrongOffset,
    /// `206` that says N and sends from another offset.
    Lie,
    /// `200` with the whole body.
    Whole,
    /// `200` with the remainder only.
    Remainder,
    /// This status.
    Status(u16),
}

/// How nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmptyReply {
    /// `404`.
    NotFound,
    /// `204`.
    NoContent,
    /// `200` and zero bytes.
    ZeroLength,
    /// `200` and a gzip of nothing.
    GzipOfNothing,
}

/// How another whole download in one session is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepeatDownload {
    /// `409`.
    Refused,
    /// `200` and zero bytes.
    Empty,
}
