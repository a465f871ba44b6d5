//! Why a condition is what it is: a closed list, each with what it means and what a person does. The words are
//! doc comments here and the table of reasons in the documentation. No I/O.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($name:ident: $means:literal, $person:literal;)+) => {
        /// Why a condition is what it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(
                #[doc = $means]
                #[doc = ""]
                #[doc = concat!("What a person does: ", $person)]
                $name,
            )+
        }

        impl Reason {
            /// All of them, from the best news to the worst.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As it stands in a condition.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $means,)+
                }
            }

            /// What a person does about it.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $person,)+
                }
            }
        }
    };
}

reasons! {
    // It goes well.
    Complete: "Everything that was asked for is stored and proved, or an accepted gap, and a manifest says so.", "Nothing.";
    CaughtUp: "A continuous export has stored every day that is over and has settled.", "Nothing; the next run is in status.nextRunTime.";
    Exporting: "Windows are being transferred, or their manifest is being written.", "Nothing; wait.";
    Accepted: "The spec is valid and the work is about to begin.", "Nothing; wait.";
    NewGeneration: "The spec changed and was not acted upon yet.", "Nothing; wait.";
    // It waits for time, or for others.
    NotSettled: "The day is not over, or spec.settleAfter has not passed since its end.", "Nothing; wait, or shorten spec.settleAfter.";
    Suspended: "spec.suspend is true.", "Set spec.suspend to false to go on.";
    Throttled: "The service or the store asks for fewer requests.", "Nothing at first; if it lasts, lower spec.parallelism.";
    SpaceFull: "All 30 sessions of the space are open, or too few are left for this export.", "Delete sessions that nobody needs (`eventexport session list` shows them, `eventexport session delete` ends them), or wait until others have ended theirs.";
    HeldBy: "Another process holds the window: another cluster, a run of the command, or a Pod.", "Nothing if that process is meant to run; else stop it, or wait until its deadline passed.";
    SessionsOpen: "All is stored, but a session is not deleted yet.", "Nothing; wait. If it lasts, delete the session that status.sessions names.";
    TwoOperators: "Two operators of the cluster, with different Leases, would serve this export: one does, the other leaves it alone.", "Let one of them look after the namespace: the message names both. To hand it over, stop the one that serves it; the other goes on within three minutes.";
    // It waits for a person: the manifest and its permissions.
    InvalidSpec: "The spec breaks a rule that the cluster's definition did not check.", "Correct the field that the message names, and apply today's crds/eventexports.yaml.";
    CredentialsMissing: "A Secret, or a key in it, that the spec refers to is not there.", "Make the Secret in the namespace of the EventExport, with the keys that the message names.";
    CredentialsRefused: "The UAA, the service or the store does not accept the credentials.", "Put valid credentials into the Secret that the message names; the export goes on by itself.";
    RoleMissing: "The user lacks the developer role in the space, or may not see the account's events.", "Give the user the role, or set another user's credentials.";
    HostNotAllowed: "The operator may not speak to a host that the spec or a discovery names.", "Have the host added to the operator's --allow-host, or correct the address.";
    IdentityNotGranted: "The spec has no credentials for the bucket, and the operator's own identity is not granted to this namespace for it.", "Set destination.s3.credentialsSecretRef, or have the grant added to the operator's configuration.";
    SigningKeyInvalid: "The key that manifests are to be signed with is not there, or is not an Ed25519 key in PEM; events are stored all the same.", "Put a key into the Secret that the message names: `openssl genpkey -algorithm ed25519` prints one. The manifest is then written by itself.";
    // It waits for a person: the bucket.
    BucketMissing: "The bucket does not exist, or not in this region.", "Make the bucket, or correct destination.s3.region; the name cannot be changed.";
    BucketForbidden: "The credentials may not do in the bucket what is needed.", "Grant the action that the message names, below the prefix.";
    BucketFull: "The store refuses more data: a quota, or no space.", "Make room, or raise the quota; the export goes on by itself.";
    DestinationWeak: "The store cannot create an object only if it is absent, so that two writers could overwrite each other.", "Use a store that honours If-None-Match; with `run`, say --single-writer if nobody else writes there.";
    LockRefused: "The bucket does not accept the object lock, encryption or storage class of the spec.", "Make the bucket with object lock, or correct destination.s3.";
    // A peer cannot be reached.
    SourceUnreachable: "The Activity Tracker or its UAA does not answer, or fails.", "Check the address, proxy, certificate authority and network policy; it is tried again by itself.";
    DestinationUnreachable: "The store does not answer, or fails.", "Check the address, proxy, certificate authority and network policy; it is tried again by itself.";
    // A peer answers, and says no.
    SourceRefused: "The Activity Tracker or its UAA refuses a request in a way that has no reason of its own here.", "Read what the message quotes; check the endpoint, and proxies and gateways on the way. It is tried again after minutes.";
    DestinationRefused: "The store refuses a request in a way that has no reason of its own here.", "Read what the message quotes; check the clock, the bucket's policy and what lies between. It is tried again after minutes.";
    // What was downloaded is not good.
    NotGzip: "The body of a download does not begin as gzip does: an error page, or something unpacked it on the way.", "Check proxies and gateways between the operator and the service; nothing was stored.";
    NotWhole: "A download ended early, or its gzip is damaged or followed by other bytes.", "Nothing at first, it is downloaded again; if it lasts, report it to the service.";
    NotEvents: "A download is whole but is not a list of JSON objects.", "Look at what the service sends for that day; nothing was stored.";
    RangeMismatch: "The service opened a session for other days, another hour or another scope than was asked.", "Report it to the service; nothing was stored under the wrong day.";
    TooLarge: "One hour's events exceed what one object can hold.", "Report it: the store's limit of 10,000 parts is reached.";
    Short: "Fewer events arrived than the service counts for that day, twice.", "Report it to the service; accept the gap in spec.acceptedGaps if it cannot be mended.";
    EmptyUnproved: "The service sent no events, but nothing proves that there were none.", "Look at the service's daily listing (`eventexport status`); accept the gap if the day is known to be empty.";
    Expired: "The service no longer has events of that day: a gap.", "Accept the gap in spec.acceptedGaps with a reason; nothing brings the events back.";
    // What lies in the bucket is not what was written.
    ForeignObject: "An object is where this export would write, and no journal entry says that it wrote it.", "Find out who wrote it, and move it away; it is not overwritten.";
    JournalMismatch: "The journal below the prefix belongs to another source, or to a newer version.", "Use another prefix, or the source that the journal names.";
    SessionUnaccounted: "A session is open that may be ours but cannot be proved to be; it is not deleted.", "Find out whose it is, and delete it by hand if nobody's (`eventexport session delete ID`).";
    Failed: "An error that has no reason of its own.", "Read the message and the log; report it if it is not clear.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a reason of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a reason that this version knows")]
pub struct UnknownReason(pub String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_valid_in_a_condition_and_has_a_remedy() {
        for reason in Reason::ALL {
            let text = reason.as_str();
            // The pattern of metav1.Condition.reason, as narrow as our names are.
            assert!(
                text.chars().all(|c| c.is_ascii_alphanumeric()) && text.len() <= 64,
                "{text}"
            );
            assert!(
                reason.meaning().ends_with('.') && reason.remedy().ends_with('.'),
                "{text}"
            );
            assert_eq!(text.parse(), Ok(*reason));
        }
    }
}
