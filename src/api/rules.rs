//! Validation rules of the spec that a schema cannot express, as CEL for the API server, each with its message.
//! `super::checked` applies the same rules in Rust, with the same messages. No I/O.
//!
//! Expressions contain no backslash, so that none is lost between Rust, YAML, CEL and RE2.

use kube::core::Rule as KubeRule;

/// CEL rule with the message for a violation.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// CEL expression; true if the rule is satisfied.
    pub expression: &'static str,
    /// Path of the invalid field, relative to the location of the rule; empty if it is the same.
    pub field: &'static str,
    /// Description of the violation, and remedy.
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

/// Bounds in the schema. Characters are Unicode scalar values, as the API server counts them.
pub mod limit {
    /// Maximum length of a space id: `space=<id>` must fit a file name of 255 bytes.
    pub const SPACE_CHARS: usize = 200;
    /// Length of `YYYY-MM-DD`.
    pub const DATE_CHARS: usize = 10;
    /// Range of the hour of a day, inclusive.
    pub const HOUR: (u8, u8) = (0, 23);
    /// Range of the number of windows in parallel, inclusive. The service allows 30 open sessions per space.
    pub const PARALLELISM: (u8, u8) = (1, 30);
    /// Maximum length of a duration (GEP-2257: four numbers of five digits, with units).
    pub const DURATION_CHARS: usize = 32;
    /// Range of the days for which stored days are compared again, inclusive.
    pub const RECHECK_DAYS: (u16, u16) = (1, 3650);
    /// Range of the days for which the service keeps events, inclusive.
    pub const SOURCE_RETENTION_DAYS: (u16, u16) = (1, 3650);
    /// Maximum number of accepted gaps.
    pub const ACCEPTED_GAPS: usize = 1000;
    /// Maximum length of the reason of an accepted gap.
    pub const REASON_CHARS: usize = 512;
    /// Maximum length of NUMBER:SHA256: eight digits, a colon and 64 digits.
    pub const HEAD_CHARS: usize = 73;
    /// Maximum length of a URL.
    pub const URL_CHARS: usize = 512;
    /// Maximum length of the name of a Secret or ConfigMap (Kubernetes).
    pub const SECRET_NAME_CHARS: usize = 253;
    /// Maximum length of the name of a ServiceAccount (Kubernetes).
    pub const SERVICE_ACCOUNT_CHARS: usize = 253;
    /// Maximum length of a key in a Secret or ConfigMap (Kubernetes).
    pub const SECRET_KEY_CHARS: usize = 253;
    /// Maximum length of the name of a bucket (S3).
    pub const BUCKET_CHARS: usize = 63;
    /// Maximum length of the prefix: together with the longest keys below it, it must fit the 1024 bytes of an S3 key.
    pub const PREFIX_CHARS: usize = 512;
    /// Maximum length of the region of a store.
    pub const S3_REGION_CHARS: usize = 64;
    /// Maximum length of a storage class.
    pub const STORAGE_CLASS_CHARS: usize = 64;
    /// Maximum length of the id of a KMS key.
    pub const KMS_KEY_CHARS: usize = 2048;
    /// Range of the days of an object lock, inclusive (S3 allows a hundred years).
    pub const RETAIN_DAYS: (u32, u32) = (1, 36_500);
    /// Range of the year of a date, inclusive.
    pub const YEARS: (i16, i16) = (1970, 2099);
}

/// Calendar date, 1970 to 2099, as RE2 can express it: months by length, leap years by enumeration.
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

/// Sixteen bits of an IPv6 address followed by a colon, repeated.
macro_rules! before_colon {
    ($times:literal) => {
        concat!("([0-9a-fA-F]{1,4}:){", $times, "}")
    };
}
/// Sixteen bits of an IPv6 address preceded by a colon, repeated.
macro_rules! after_colon {
    ($times:literal) => {
        concat!("(:[0-9a-fA-F]{1,4}){", $times, "}")
    };
}

/// IPv6 address by the position of `::`, without zone or IPv4 notation. Not `isIP(url(self).getHostname())`: the API
/// server cannot bound its cost, and rejects the definition.
macro_rules! ipv6 {
    () => {
        concat!(
            before_colon!("7"),
            "[0-9a-fA-F]{1,4}|",
            before_colon!("1,7"),
            ":|",
            before_colon!("1,6"),
            after_colon!("1"),
            "|",
            before_colon!("1,5"),
            after_colon!("1,2"),
            "|",
            before_colon!("1,4"),
            after_colon!("1,3"),
            "|",
            before_colon!("1,3"),
            after_colon!("1,4"),
            "|",
            before_colon!("1,2"),
            after_colon!("1,5"),
            "|",
            before_colon!("1"),
            after_colon!("1,6"),
            "|:",
            after_colon!("1,7"),
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

/// Host name. The last label begins with a letter, so that no parser reads it as a number.
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
    /// Characters that a segment of a URL path allows unescaped (RFC 3986, `pchar` without `%`).
    SPACE: "self.matches(\"^[a-zA-Z0-9._~!$&'()*+,;=:@-]+$\") && self != '.' && self != '..'",
    "must be the id of the space, as `cf space NAME --guid` prints it: letters, digits and -._~!$&'()*+,;=:@ only, \
     without slash, space or control character"
);
rule!(
    /// The journal depends on the space.
    SPACE_UNCHANGED: "self == oldSelf",
    "cannot be changed: create another EventExport for another space"
);
rule!(
    /// The journal depends on the scope.
    SCOPE_UNCHANGED: "self == oldSelf",
    "cannot be changed: create another EventExport for the other scope"
);
rule!(
    /// Calendar date.
    START: concat!("self.matches('", date!(), "')"),
    "must be a calendar date from 1970-01-01 to 2099-12-31, as YYYY-MM-DD"
);
rule!(
    /// Calendar date.
    END: concat!("self.matches('", date!(), "')"),
    "must be a calendar date from 1970-01-01 to 2099-12-31, as YYYY-MM-DD; omit it for a continuous export"
);
rule!(
    /// Dates of equal length compare as texts.
    RANGE_ORDER at ".end": "!has(self.end) || self.start <= self.end",
    "is before the first day: swap the two, or omit it for a continuous export"
);
rule!(
    /// Exactly one is required.
    REGION_OR_ENDPOINT: "has(self.region) != has(self.endpoint)",
    "needs exactly one of region and endpoint: a public region such as us-south, or the URL of the service"
);
rule!(
    /// Also prevents removal and addition.
    REGION_UNCHANGED at ".region":
    "has(self.region) == has(oldSelf.region) && (!has(self.region) || self.region == oldSelf.region)",
    "cannot be changed, added or removed: create another EventExport for another source"
);
rule!(
    /// Also prevents removal and addition.
    ENDPOINT_UNCHANGED at ".endpoint":
    "has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)",
    "cannot be changed, added or removed: create another EventExport for another source"
);
rule!(
    /// Tokens are sent encrypted, except to this machine. Allows no part that a server does not get to see.
    URL: concat!(
        "self.matches(\"^https://(", host_name!(), "|(", octet!(), "[.]){3}", octet!(), "|[[](", ipv6!(), ")[]])",
        port_and_path!(), "\") || self.matches(\"^http://(localhost|127[.]0[.]0[.]1|[[]::1[]])", port_and_path!(),
        "\")"
    ),
    "must be https://HOST, optionally with :PORT and /PATH, without user, query or fragment; http:// is \
     allowed only for 127.0.0.1, [::1] and localhost"
);
rule!(
    /// DNS-1123 subdomain, the syntax of the names of Secrets.
    SECRET_NAME: "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$')",
    "must be the name of a Secret in the same namespace: lowercase letters, digits, hyphens and dots, starting and \
     ending with a letter or digit"
);
rule!(
    /// DNS-1123 subdomain, the syntax of the names of ServiceAccounts.
    SERVICE_ACCOUNT_NAME: "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$')",
    "must be the name of a ServiceAccount in the same namespace: lowercase letters, digits, hyphens and dots, starting \
     and ending with a letter or digit"
);
rule!(
    /// The operator would have to choose one.
    ONE_BUCKET_IDENTITY at ".serviceAccountName":
    "!has(self.serviceAccountName) || !has(self.credentialsSecretRef)",
    "excludes credentialsSecretRef: remove one of the two"
);
rule!(
    /// Syntax of the keys of Secrets.
    SECRET_KEY: "self.matches('^[a-zA-Z0-9._-]+$')",
    "must be a key of the Secret: letters, digits, dots, hyphens and underscores only"
);
rule!(
    /// DNS-1123 subdomain, the syntax of the names of ConfigMaps.
    CONFIG_MAP_NAME: "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$')",
    "must be the name of a ConfigMap in the same namespace: lowercase letters, digits, hyphens and dots, starting and \
     ending with a letter or digit"
);
rule!(
    /// Syntax of the keys of ConfigMaps.
    CONFIG_MAP_KEY: "self.matches('^[a-zA-Z0-9._-]+$')",
    "must be a key of the ConfigMap: letters, digits, dots, hyphens and underscores only"
);
rule!(
    /// Two bundles would have to be joined.
    ONE_CA at ".caConfigMapRef": "!has(self.caSecretRef) || !has(self.caConfigMapRef)",
    "is not allowed beside caSecretRef: remove one of the two"
);
rule!(
    /// Naming rules of S3 for general purpose buckets.
    BUCKET: "self.matches('^[a-z0-9][a-z0-9.-]*[a-z0-9]$') && !self.contains('..') && !self.contains('.-') \
     && !self.contains('-.') && !self.matches('^[0-9]+([.][0-9]+){3}$')",
    "must be a valid bucket name: 3 to 63 lowercase letters, digits, hyphens and single dots, starting and ending with \
     a letter or digit, and not an IP address"
);
rule!(
    /// The journal depends on the bucket.
    BUCKET_UNCHANGED: "self == oldSelf",
    "cannot be changed: create another EventExport for another bucket"
);
rule!(
    /// Gives each folder a single key.
    PREFIX_SLASHES: "!self.startsWith('/') && !self.endsWith('/') && !self.contains('//')",
    "must not begin or end with a slash, nor contain two in a row: write tracker/production; omit it for the root of \
     the bucket"
);
rule!(
    /// `..` leaves a directory; query engines skip names that begin with `_` or `.`.
    PREFIX_COMPONENTS: "self.matches(\"^[a-zA-Z0-9._~!$&'()*+,;=:@/-]*$\") && !self.matches('(^|/)[._]')",
    "must be folders of letters, digits and -._~!$&'()*+,;=:@, not beginning with a dot or underscore (Athena, \
     Spark and Hive skip those)"
);
rule!(
    /// An export in the folder of another one would be mistaken for objects of that export.
    PREFIX_RESERVED: "!self.matches('(^|/)(space|scope|date)=')",
    "must not contain a folder that begins with space=, scope= or date=: the export creates these below the prefix"
);
rule!(
    /// Also prevents removal and addition.
    PREFIX_UNCHANGED at ".prefix":
    "has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)",
    "cannot be changed, added or removed: create another EventExport for another prefix"
);
rule!(
    /// Also prevents removal and addition.
    S3_ENDPOINT_UNCHANGED at ".endpoint":
    "has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)",
    "cannot be changed, added or removed: create another EventExport for another store"
);
rule!(
    /// The region becomes part of a host name and of every signature.
    S3_REGION: "self.matches('^[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?$')",
    "must be the region of the bucket, such as us-east-1: letters, digits, hyphens and underscores"
);
rule!(
    /// The storage class becomes a header.
    STORAGE_CLASS: "self.matches('^[a-zA-Z0-9_-]+$')",
    "must be a storage class of the store, such as STANDARD_IA: letters, digits, hyphens and underscores"
);
rule!(
    /// S3 rejects the combination for every object.
    KMS_KEY_ONLY_WITH_KMS at ".kmsKeyId": "!has(self.kmsKeyId) || self.type == 'aws:kms'",
    "is allowed only with type aws:kms: remove kmsKeyId, or change the type"
);
rule!(
    /// The id becomes a header.
    KMS_KEY: "self.matches('^[a-zA-Z0-9:/_.-]+$')",
    "must be the id, alias or ARN of a key: letters, digits and :/_.- only"
);
rule!(
    /// Syntax of GEP-2257, the duration of newer Kubernetes APIs; `&&` keeps CEL from parsing invalid durations.
    SETTLE_AFTER: "self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) <= duration('720h')",
    "must be a duration from 0s to 720h (30 days) in hours, minutes and seconds, such as 6h or 1h30m; write a day as 24h"
);
rule!(
    /// As `SETTLE_AFTER`.
    VERIFICATION_EVERY: "self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('1h') && \
     duration(self) <= duration('8760h')",
    "must be a duration from 1h to 8760h (365 days) in hours, minutes and seconds, such as 24h or 168h; write a day as 24h"
);
rule!(
    /// Calendar date.
    GAP_DATE: concat!("self.matches('", date!(), "')"),
    "must be a calendar date from 1970-01-01 to 2099-12-31, as YYYY-MM-DD"
);
rule!(
    /// Dates of equal length compare as texts.
    GAP_ORDER at ".end": "self.start <= self.end",
    "is before the start of the gap: swap the two"
);
rule!(
    /// Requires an explanation on a single line, which tables can show.
    GAP_REASON: "self.matches('[^[:space:]]') && !self.matches('[[:cntrl:]]')",
    "must explain on one line why the gap is accepted"
);
rule!(
    /// Number and SHA-256 of a manifest.
    HEAD: "self.matches('^[1-9][0-9]{0,7}:[0-9a-f]{64}$')",
    "must be the number and the SHA-256 of a manifest, as NUMBER:SHA256: copy the text from the message of the reason \
     ManifestMissing"
);
rule!(
    /// Calendar date.
    UNSIGNED_BEFORE: concat!("self.matches('", date!(), "')"),
    "must be a calendar date from 1970-01-01 to 2099-12-31, as YYYY-MM-DD"
);
