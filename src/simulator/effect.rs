//! Effects of faults: each behavior that the protocol's sources leave open, as a value. No I/O.

use serde::{Deserialize, Serialize};

use super::settings::{Framing, JsonShape, Members};

/// Effect of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Effect {
    /// The response is late.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
    /// There is no response.
    NoReply {
        /// True if the request is executed.
        done: bool,
        /// Treatment of the connection.
        how: NoReplyMode,
    },
    /// An error response; the request is not executed.
    Status {
        /// The HTTP status.
        status: u16,
        /// Seconds for `Retry-After`.
        #[serde(default)]
        retry_after: Option<u64>,
        /// Error message.
        message: String,
    },
    /// A redirect; the ledger records a violation if a token follows it to another host.
    Redirect {
        /// The HTTP status, 301–308.
        status: u16,
        /// True: to `localhost` instead of the address. False: to the same host, which serves the request.
        other_host: bool,
    },
    /// The token of the request expires: 401.
    ExpireToken,
    /// The session of the request no longer exists: 404.
    SessionGone,
    /// Format of all errors.
    ErrorsAs {
        /// The format.
        form: ErrorForm,
    },
    /// Response to a create in a full space.
    CapacityAs {
        /// The HTTP status.
        status: u16,
        /// Seconds for `Retry-After`.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// JSON objects have other fields.
    Fields {
        /// Adds undocumented fields.
        #[serde(default)]
        add: bool,
        /// Omits these fields.
        #[serde(default)]
        drop: Vec<String>,
        /// Sends these fields as null.
        #[serde(default)]
        null: Vec<String>,
        /// Sends field names in lower case.
        #[serde(default)]
        lowercase: bool,
        /// Sends numbers as strings.
        #[serde(default)]
        number_strings: bool,
    },
    /// Format of lists.
    ListAs {
        /// The format.
        form: ListForm,
    },
    /// The date range of a created session differs from the request.
    AnswerShifted {
        /// Days added to both ends.
        days: i8,
        /// True if the download has the shifted range too.
        data: bool,
    },
    /// The session list has the sessions of every user of the space.
    WholeSpace,
    /// The access-time of sessions never changes.
    AccessTimeFrozen,
    /// The listing's counts are wrong.
    CountAs {
        /// Percentage of the correct count: below 100 rounded down, above rounded up.
        percent: u64,
    },
    /// The listing rejects longer ranges, and days in the future, with 400.
    RefuseRanges {
        /// Maximum number of days.
        days: u16,
    },
    /// The listing omits days.
    LeaveOutDays,
    /// The listing has retained days without events, with count zero.
    ZeroDays,
    /// The listing has every retained day, whatever the request asks for.
    IgnoreFields,
    /// Response to a `Range`.
    ResumeAs {
        /// The response.
        how: RangeReply,
    },
    /// The connection closes before the end of the body.
    Cut {
        /// Position of the cut.
        at: BodyOffset,
        /// True: a reset instead of a clean close.
        #[serde(default)]
        reset: bool,
        /// True if the session disappears after that.
        #[serde(default)]
        vanish: bool,
    },
    /// The body ends early, and the HTTP framing says that it is complete.
    EndEarly {
        /// Position of the end.
        at: BodyOffset,
    },
    /// The body stops, and the connection stays open.
    Stall {
        /// Position of the stop.
        at: BodyOffset,
    },
    /// The body arrives slowly.
    Trickle {
        /// Bytes per second.
        bytes_per_second: u64,
    },
    /// HTTP framing of the body.
    FramingAs {
        /// The framing.
        framing: Framing,
    },
    /// Boundaries of gzip members.
    MembersAs {
        /// The boundaries.
        members: Members,
    },
    /// JSON format of the events.
    JsonAs {
        /// The format.
        json: JsonShape,
    },
    /// The header `Content-Encoding: gzip`.
    EncodingLabel,
    /// Bytes after the last gzip member.
    Trailing {
        /// Number of bytes.
        bytes: usize,
    },
    /// The CRC of the first gzip member is wrong.
    WrongCrc,
    /// Every download has the same events in different bytes.
    OtherBytes,
    /// An HTML login page with status 200.
    LoginPage,
    /// Response to a range without events.
    EmptyAs {
        /// The response.
        how: EmptyReply,
    },
    /// Response to a range past retention.
    ExpiredAs {
        /// The response.
        how: EmptyReply,
    },
    /// Response to a second complete download in one session.
    SecondDownloadAs {
        /// The response; without this effect, the same bytes again.
        how: RepeatDownload,
    },
    /// A refresh token is valid for one use, and the response has the next one.
    RotateRefreshTokens,
}

/// Treatment of a connection without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoReplyMode {
    /// Close it.
    Close,
    /// Reset it.
    Reset,
    /// Keep it open without sending anything.
    Hang,
}

/// Format of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorForm {
    /// `{"message":…}`.
    Json,
    /// Plain text.
    Text,
    /// An HTML page of a gateway.
    Html,
}

/// Format of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListForm {
    /// An array.
    Array,
    /// An object that contains an array.
    Object,
    /// `null`.
    Null,
}

/// A position in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BodyOffset {
    /// Offset in the complete body, in bytes.
    Byte(u64),
    /// Offset in the complete body, in thousandths of its size.
    Permille(u64),
    /// End of this gzip member, from 1, if more follow.
    MemberEnd(u64),
    /// Offset in this response, in bytes.
    Answer(u64),
}

/// Response to `Range: bytes=N-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RangeReply {
    /// `206` from N.
    Right,
    /// `206` from another offset, stated in its header.
    WrongOffset,
    /// `206` with N in its header and bytes from another offset.
    Lie,
    /// `200` with the complete body.
    Whole,
    /// `200` with only the remainder.
    Remainder,
    /// This status.
    Status(u16),
}

/// Response without events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmptyReply {
    /// `404`.
    NotFound,
    /// `204`.
    NoContent,
    /// `200` with an empty body.
    ZeroLength,
    /// `200` with a gzip without contents.
    GzipOfNothing,
}

/// Response to a second complete download in one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepeatDownload {
    /// `409`.
    Refused,
    /// `200` with an empty body.
    Empty,
}
