//! The rules of the spec that a schema cannot say, as CEL for the API server, each with the words that a person
//! sees; [`super::checked`] says the same in Rust, with the same words. No I/O.
//!
//! Expressions hold no backslash, so that none is lost between Rust, YAML, CEL and RE2.

use kube::core::Rule as KubeRule;

/// A CEL rule with what a person reads when it is broken.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The expression; true means kept.
    pub expression: &'static str,
    /// The field at fault, relative to where the rule stands; empty: right there.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub message: &'static str,
}

impl From<Rule> for KubeRule {
    fn from(rule: Rule) -> Self {
        let made = KubeRule::new(rule.expression).message(rule.message);
        if rule.field.is_empty() {
            made
        } else {
            made.field_path(rule.field)
        }
    }
}

/// Bounds that the schema sets. Characters are Unicode scalar values, as the API server counts them.
pub mod limit {
    /// Longest space id: `space=<id>` must fit a file name of 255 bytes.
    pub const SPACE_CHARS: usize = 200;
    /// `YYYY-MM-DD`.
    pub const DATE_CHARS: usize = 10;
    /// Hours of a day, both included.
    pub const HOUR: (u8, u8) = (0, 23);
    /// Windows at once, both included. The service allows 30 open sessions per space.
    pub const PARALLELISM: (u8, u8) = (1, 30);
    /// Longest text of a duration (GEP-2257: four numbers of five digits, with units).
    pub const DURATION_CHARS: usize = 32;
    /// Ranges of accepted gaps.
    pub const ACCEPTED_GAPS: usize = 1000;
    /// Longest reason of an accepted gap.
    pub const REASON_CHARS: usize = 512;
    /// Longest address.
    pub const URL_CHARS: usize = 512;
    /// Longest name of a Secret (Kubernetes).
    pub const SECRET_NAME_CHARS: usize = 253;
    /// Longest key in a Secret (Kubernetes).
    pub const SECRET_KEY_CHARS: usize = 253;
    /// Longest name of a bucket (S3).
    pub const BUCKET_CHARS: usize = 63;
    /// Longest prefix: with the longest keys of our own it must fit the 1024 bytes of an S3 key.
    pub const PREFIX_CHARS: usize = 512;
    /// Longest name of a region of a store.
    pub const S3_REGION_CHARS: usize = 64;
    /// Longest name of a storage class.
    pub const STORAGE_CLASS_CHARS: usize = 64;
    /// Longest id of a key (KMS).
    pub const KMS_KEY_CHARS: usize = 2048;
    /// Days of an object lock, both included (S3 allows a hundred years).
    pub const RETAIN_DAYS: (u32, u32) = (1, 36_500);
    /// First and last year of a date, both included.
    pub const YEARS: (i16, i16) = (1970, 2099);
}

/// A day that the calendar has, 1970 to 2099, as RE2 can say it: months by length, leap years by name.
macro_rules! date {
    () => {
        "^((19[7-9][0-9]|20[0-9][0-9])-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])\
         |(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))\
         |(19(72|76|80|84|88|92|96)|20([02468][048]|[13579][26]))-02-29)$"
    };
}

/// One number of an IPv4 address.
macro_rules! octet {
    () => {
        "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
    };
}

/// Sixteen bits of an IPv6 address, with a colon before or behind, so often.
macro_rules! before_colon {
    ($times:literal) => {
        concat!("([0-9a-fA-F]{1,4}:){", $times, "}")
    };
}
macro_rules! behind_colon {
    ($times:literal) => {
        concat!("(:[0-9a-fA-F]{1,4}){", $times, "}")
    };
}

/// An IPv6 address by the place of `::`, without zone or IPv4 notation. Not `isIP(url(self).getHostname())`: the
/// API server cannot bound what that costs, and refuses the definition.
macro_rules! ipv6 {
    () => {
        concat!(
            before_colon!("7"),
            "[0-9a-fA-F]{1,4}|",
            before_colon!("1,7"),
            ":|",
            before_colon!("1,6"),
            behind_colon!("1"),
            "|",
            before_colon!("1,5"),
            behind_colon!("1,2"),
            "|",
            before_colon!("1,4"),
            behind_colon!("1,3"),
            "|",
            before_colon!("1,3"),
            behind_colon!("1,4"),
            "|",
            before_colon!("1,2"),
            behind_colon!("1,5"),
            "|",
            before_colon!("1"),
            behind_colon!("1,6"),
            "|:",
            behind_colon!("1,7"),
            "|::"
        )
    };
}

/// `:port` and `/path`, both optional.
macro_rules! port_and_path {
    () => {
        "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?\
         (/[a-zA-Z0-9._~!$&'()*+,;=:@/-]*)?$"
    };
}

/// A host name whose last label begins with a letter, so that nothing takes it for a number.
macro_rules! host_name {
    () => {
        "([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?[.])*[a-zA-Z]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
    };
}

macro_rules! rule {
    ($(#[$doc:meta])* $name:ident $(at $field:literal)?: $expression:expr, $message:expr) => {
        $(#[$doc])*
        pub const $name: Rule = Rule {
            expression: $expression,
            field: concat!($($field)?),
            message: $message,
        };
    };
}

rule!(
    /// The signs that a URL path segment may hold unescaped (RFC 3986, `pchar` without `%`).
    SPACE: "self.matches(\"^[a-zA-Z0-9._~!$&'()*+,;=:@-]+$\") && self != '.' && self != '..'",
    "must be the id of the space, as `cf space --guid` prints it: letters, digits and -._~!$&'()*+,;=:@ only, without \
     slash, space or control character"
);
rule!(
    /// A journal belongs to its space.
    SPACE_UNCHANGED: "self == oldSelf",
    "cannot be changed: make another EventExport for another space"
);
rule!(
    /// A journal belongs to its scope.
    SCOPE_UNCHANGED: "self == oldSelf",
    "cannot be changed: make another EventExport for the other scope"
);
rule!(
    /// A calendar day.
    START: concat!("self.matches('", date!(), "')"),
    "must be a day that the calendar has, as YYYY-MM-DD, from 1970-01-01 to 2099-12-31"
);
rule!(
    /// A calendar day.
    END: concat!("self.matches('", date!(), "')"),
    "must be a day that the calendar has, as YYYY-MM-DD, from 1970-01-01 to 2099-12-31; leave it out for a continuous \
     export"
);
rule!(
    /// Dates of one length compare as texts.
    RANGE_ORDER at ".end": "!has(self.end) || self.start <= self.end",
    "is before dateRange.start: swap the two, or leave end out for a continuous export"
);
rule!(
    /// Exactly one.
    REGION_OR_ENDPOINT: "has(self.region) != has(self.endpoint)",
    "needs exactly one of region and endpoint: a public region such as us-south, or the address of a service elsewhere"
);
rule!(
    /// Also against removing and adding again.
    REGION_UNCHANGED at ".region":
    "has(self.region) == has(oldSelf.region) && (!has(self.region) || self.region == oldSelf.region)",
    "cannot be changed, added or removed: make another EventExport for another source"
);
rule!(
    /// Also against removing and adding again.
    ENDPOINT_UNCHANGED at ".endpoint":
    "has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)",
    "cannot be changed, added or removed: make another EventExport for another source"
);
rule!(
    /// Tokens travel encrypted, except to this machine. Nothing in the address that a server would not see.
    URL: concat!(
        "self.matches(\"^https://(", host_name!(), "|(", octet!(), "[.]){3}", octet!(), "|[[](", ipv6!(), ")[]])",
        port_and_path!(), "\") || self.matches(\"^http://(localhost|127[.]0[.]0[.]1|[[]::1[]])", port_and_path!(),
        "\")"
    ),
    "must be https://HOST, optionally with :PORT and /PATH, without user, query or fragment; http:// is only for \
     127.0.0.1, [::1] and localhost"
);
rule!(
    /// A DNS-1123 subdomain, as Kubernetes names Secrets.
    SECRET_NAME: "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$')",
    "must be the name of a Secret in the same namespace: lower-case letters, digits, hyphens and dots, beginning and \
     ending with a letter or digit"
);
rule!(
    /// As Kubernetes names the keys of Secrets.
    SECRET_KEY: "self.matches('^[a-zA-Z0-9._-]+$')",
    "must be a key of the Secret: letters, digits, dots, hyphens and underscores only"
);
rule!(
    /// The naming rules of S3 for general purpose buckets.
    BUCKET: "self.matches('^[a-z0-9][a-z0-9.-]*[a-z0-9]$') && !self.contains('..') && !self.contains('.-') \
     && !self.contains('-.') && !self.matches('^[0-9]+([.][0-9]+){3}$')",
    "must be a bucket's name: 3 to 63 lower-case letters, digits, hyphens and single dots, beginning and ending with a \
     letter or digit, and no IP address"
);
rule!(
    /// A journal belongs to its bucket.
    BUCKET_UNCHANGED: "self == oldSelf",
    "cannot be changed: make another EventExport for another bucket"
);
rule!(
    /// One folder has one key.
    PREFIX_SLASHES: "!self.startsWith('/') && !self.endsWith('/') && !self.contains('//')",
    "must not begin or end with a slash, nor hold two in a row: write tracker/production; leave it out for the \
     bucket's top"
);
rule!(
    /// `..` walks out of a directory; query engines skip names that begin with `_` or `.`.
    PREFIX_COMPONENTS: "self.matches(\"^[a-zA-Z0-9._~!$&'()*+,;=:@/-]*$\") && !self.matches('(^|/)[._]')",
    "must be folders of letters, digits and -._~!$&'()*+,;=:@, none of them `.` or `..` or beginning with a dot or \
     underscore (Athena, Spark and Hive skip those)"
);
rule!(
    /// An export inside another's folder would be taken for its objects.
    PREFIX_RESERVED: "!self.matches('(^|/)(space|scope|date)=')",
    "must not have a folder that begins with space=, scope= or date=: these are the export's own, below the prefix"
);
rule!(
    /// Also against removing and adding again.
    PREFIX_UNCHANGED at ".prefix":
    "has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)",
    "cannot be changed, added or removed: make another EventExport for another prefix"
);
rule!(
    /// Also against removing and adding again.
    S3_ENDPOINT_UNCHANGED at ".endpoint":
    "has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)",
    "cannot be changed, added or removed: make another EventExport for another store"
);
rule!(
    /// It becomes part of a host name and of every signature.
    S3_REGION: "self.matches('^[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?$')",
    "must be the name of the bucket's region, such as us-east-1: letters, digits, hyphens and underscores"
);
rule!(
    /// It becomes a header.
    STORAGE_CLASS: "self.matches('^[a-zA-Z0-9_-]+$')",
    "must be a storage class of the store, such as STANDARD_IA: letters, digits, hyphens and underscores"
);
rule!(
    /// S3 answers the combination with an error at every object.
    KMS_KEY_ONLY_WITH_KMS at ".kmsKeyId": "!has(self.kmsKeyId) || self.type == 'aws:kms'",
    "is only for type aws:kms: remove kmsKeyId, or change the type"
);
rule!(
    /// It becomes a header.
    KMS_KEY: "self.matches('^[a-zA-Z0-9:/_.-]+$')",
    "must be the id, alias or ARN of a key: letters, digits and :/_.- only"
);
rule!(
    /// The syntax of GEP-2257, the duration of newer Kubernetes interfaces; `&&` keeps CEL from parsing what is none.
    SETTLE_AFTER: "self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) <= duration('720h')",
    "must be a duration from 0s to 720h (30 days) in hours, minutes and seconds, such as 6h or 1h30m; write a day as 24h"
);
rule!(
    /// A calendar day.
    GAP_DATE: concat!("self.matches('", date!(), "')"),
    "must be a day that the calendar has, as YYYY-MM-DD, from 1970-01-01 to 2099-12-31"
);
rule!(
    /// Dates of one length compare as texts.
    GAP_ORDER at ".end": "self.start <= self.end",
    "is before the gap's start: swap the two"
);
rule!(
    /// A reason that says nothing helps nobody; one line, so that it can be shown in a table.
    GAP_REASON: "self.matches('[^[:space:]]') && !self.matches('[[:cntrl:]]')",
    "must say in one line why the gap is accepted"
);
