//! The reasons of conditions: one for each cause, with its meaning and its remedy. No I/O.
//!
//! A single table for status, metrics, documentation and command line.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($name:ident: $meaning:literal, $remedy:literal;)+) => {
        /// The reason of a condition.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(
                #[doc = $meaning]
                #[doc = ""]
                #[doc = concat!("Remedy: ", $remedy)]
                $name,
            )+
        }

        impl Reason {
            /// All reasons, from the best news to the worst.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name, as a condition states it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// The cause, in one or two sentences.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                }
            }

            /// The action that a person takes.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)+
                }
            }
        }
    };
}

reasons! {
    // Progress.
    Complete: "Everything that the spec asks for is stored and proved or an accepted gap, and a manifest states it.", "Nothing.";
    CaughtUp: "A continuous export has stored every day that has ended and settled.", "Nothing; status.nextRunTime names the next run.";
    Exporting: "Windows are being transferred, or their manifest is being written.", "Nothing; wait.";
    Accepted: "The spec is valid and the export is about to start.", "Nothing; wait.";
    NewGeneration: "The operator has not acted on the newest generation of the spec yet.", "Nothing; wait.";
    Proved: "The last scheduled verification read the whole archive again and found nothing wrong.", "Nothing.";
    NotVerifiedYet: "No scheduled verification of the archive has ended yet.", "Nothing; wait. The first one starts when all due days are stored.";
    // Waiting for time or for others.
    NotSettled: "The day has not ended, or spec.settleAfter has not passed since its end.", "Nothing; wait, or shorten spec.settleAfter.";
    NotListedYet: "The service lists neither the day nor a later one yet, so that its number of events is not known.", "Nothing; wait. Three days after the day has settled, it is exported without waiting.";
    Suspended: "spec.suspend is true.", "Set spec.suspend to false to resume.";
    Throttled: "The service or the store asks for fewer requests.", "Nothing at first; if it persists, lower spec.parallelism.";
    SpaceFull: "All 30 sessions of the space are open, or too few are left for this export.", "Delete sessions that nobody needs (`eventexport session list` shows them, `eventexport session delete` deletes them), or wait until their owners delete them.";
    SessionRefused: "The service refuses to open a session, and neither its reply nor its list of sessions shows that the space is full.", "Read the reply that the message quotes: grant the developer role to the user (for account events the permission of the account), or delete sessions of other users, which the list may omit.";
    HeldByOther: "Another process holds the window: an operator of another cluster, a run of the command, or a Pod.", "Nothing if that process is meant to run; otherwise stop it, or wait until its deadline has passed.";
    SessionsOpen: "Everything is stored, but a session is not deleted yet.", "Nothing; wait. If it persists, delete the session that status.sessions names.";
    OperatorConflict: "The scopes of two installations overlap in this export: one serves it, the other ignores it.", "Separate the scopes: --namespace, --exclude-namespace or --selector (chart: scope). The message names both Leases. If the serving operator ends, the other one takes over about a minute later.";
    // Manual action: the manifest and its permissions.
    InvalidSpec: "The spec breaks a rule that the definition in the cluster did not check.", "Correct the field that the message names, and apply the current crds/eventexports.yaml.";
    CredentialsMissing: "A Secret or ServiceAccount that the spec names, or a key or role in it, does not exist, or the operator may not use it; or the process has no identity.", "Create the Secret or ServiceAccount in the namespace of the EventExport with what the message names, or grant the permission that it names.";
    CredentialsRefused: "The UAA, the service or the store rejects the credentials, or the STS the role.", "Put valid credentials into the place that the message names, or correct the trust policy of the role.";
    RoleMissing: "The user lacks the developer role in the space, or may not read the events of the account.", "Grant the role to the user, or use the credentials of another user.";
    HostNotAllowed: "The allow-list of the operator does not contain a host that the spec or a discovery names.", "Add the host to --allow-host of the operator, or correct the address.";
    IdentityNotGranted: "The spec names no credentials for the bucket, and the configuration of the operator does not grant its own identity to this namespace.", "Set destination.s3.credentialsSecretRef or serviceAccountName, or add a grant to the configuration of the operator.";
    SigningKeyInvalid: "The key that signs manifests is missing or is not an Ed25519 key in PEM. Events are stored without it.", "Put a key into the Secret that the message names (`openssl genpkey -algorithm ed25519` prints one).";
    // Manual action: the bucket.
    BucketMissing: "The bucket does not exist.", "Create the bucket; destination.s3.bucket cannot be changed.";
    BucketInOtherRegion: "The bucket exists in another region than the one that the spec names.", "Correct destination.s3.region.";
    BucketForbidden: "The credentials lack a required permission on the bucket.", "Grant the action that the message names, below the prefix.";
    BucketFull: "The store refuses more data: a quota is reached, or the disk is full.", "Free space, or raise the quota.";
    ConditionalWritesUnsupported: "The store ignores If-None-Match, so that two writers could overwrite each other.", "Use a store that honors If-None-Match; with `run`, pass --single-writer if nothing else writes to the prefix.";
    ObjectAttributesRejected: "The bucket rejects the object lock, encryption, storage class or ACL of the spec.", "Create the bucket with object lock, or correct destination.s3.objectLock, serverSideEncryption, storageClass or acl.";
    // A peer is unreachable.
    SourceUnreachable: "The Activity Tracker or its UAA does not answer, or fails.", "Check the address, the proxy, the certificate authority and the network policy.";
    DestinationUnreachable: "The store, or the STS that issues its credentials, does not answer, or fails.", "Check the address, the proxy, the certificate authority and the network policy.";
    ListingIncomplete: "The listing of the bucket contradicts itself, or leaves out a key that exists.", "Nothing at first; if it persists, use a store that lists what it stores (docs/stores.md), and check caches and gateways before it.";
    // A peer rejects a request.
    SourceRefused: "The Activity Tracker or its UAA rejects a request, and no other reason fits.", "Read the reply that the message quotes; check the endpoint, and proxies and gateways in between.";
    DestinationRefused: "The store rejects a request, and no other reason fits.", "Read the reply that the message quotes; check the clock, the policy of the bucket, and proxies in between.";
    // The download is not usable.
    NotGzip: "The body of a download is not gzip: it is an error page, or something decompressed it on the way.", "Check proxies and gateways between the exporter and the service; nothing was stored.";
    DownloadIncomplete: "A download ended early, or its gzip is damaged or followed by other bytes.", "Nothing at first; if it persists, report it to the service.";
    EventsUncounted: "A download is complete and stored, but its events could be counted only in part, and fewer were counted than the service reports, or none.", "Examine the object that the message names; if it has all events, accept the gap in spec.acceptedGaps, otherwise delete the object and its receipt to export the window again.";
    RangeMismatch: "The service opened a session for another space, other days, another hour or another scope than requested.", "Report it to the service; nothing was stored under the wrong day.";
    TransferSlow: "A transfer hardly moved while other exports waited, and gave its place to one of them.", "Check the speed of the service, of the store and of the network in between; the window is tried again, and a day is then exported by the hour.";
    TooLarge: "The events of one hour exceed the size of one object (10,000 parts).", "Report it; the limit of the store is reached.";
    Short: "Fewer events arrived than the service reports for that day, twice.", "Report it to the service; accept the gap in spec.acceptedGaps if the service cannot correct it.";
    DayChanged: "The service reports more events of a stored day than before, but what it sends lacks events that are stored; it was kept beside the day, and nothing was replaced.", "Compare both bodies (the later one is below `_revisions/`) and report it to the service; if the stored events are to stay as they are, accept the day in spec.acceptedGaps with a reason.";
    EmptyUnproved: "The service sent no events, but nothing proves that there were none.", "Compare with the daily listing of the service (`eventexport status`); accept the gap if the day is known to be empty.";
    Expired: "The service no longer has events of that day: a gap.", "Accept the gap in spec.acceptedGaps with a reason; the events cannot be recovered.";
    // The bucket does not hold what was written.
    ForeignObject: "An object has the key that this export would write, and no journal entry explains it.", "Find out who wrote the object, and move it away; it is not overwritten.";
    ArchiveTooLarge: "The listing, the journal or the manifests of the archive need more memory than the share of one export.", "Find out who writes below destination.s3.prefix, and remove what is not of the archive; with many exports of one namespace, export to fewer or shorter ranges at a time.";
    SourceMismatch: "The receipts below the prefix are about another source.", "Use another destination.s3.prefix, or the source that the receipts name.";
    ObjectMissing: "A receipt names an object that does not exist.", "Restore the object from a backup or a version of the bucket, or delete the receipt to export the window again while the service still has it.";
    ObjectSizeMismatch: "An object has another size than its receipt states.", "Restore the object from a backup or a version of the bucket.";
    ObjectArchived: "An object of the archive is in an archive tier of the store and cannot be read.", "Restore the object that the message names from the archive tier; limit the lifecycle rule of the bucket, or spec.destination.s3.storageClass, to classes that can be read at once, or exempt `_journal/` and `_manifests/` from the rule.";
    ReceiptUnreadable: "A document of the journal or a manifest is not valid JSON, or lacks a field.", "Restore the document that the message names from a backup or a version of the bucket.";
    UnsupportedSchema: "A document of the journal or a manifest has a schema that this version cannot read.", "Upgrade eventexport to the version that wrote the document, or a later one.";
    ManifestMissing: "The newest manifest that is remembered outside the bucket is not in the chain with that digest, or a sealed period would hold fewer events than its newest manifest states. Nothing is added to the chain; events are stored.", "Restore the manifests, receipts and objects from a backup or a version of the bucket; to give the remembered manifest up knowingly, set spec.manifest.abandonedHead to the text that the message names.";
    SignatureInvalid: "A file in the place of a signature is not a signature of its document by a trusted key. No manifest is written over it.", "Add the public key of the earlier signing key to previousPublicKeys of the Secret, or find out who wrote the file and delete it.";
    ReceiptUnsigned: "A manifest is due that would state receipts without a signature by a trusted key. It is neither written nor signed; events are stored.", "Find out why the receipts that the message names are not signed; if they were written before the signing key was set, set spec.manifest.unsignedReceiptsBefore to the day after the last of them.";
    TimestampMissing: "The time-stamp authority gave no time stamp of a manifest or checkpoint. Nothing else waits for it; the document counts without it.", "Check spec.manifest.timestampAuthority and the network policy; the operator retries. Remove the field if no time stamps are wanted.";
    ReportNotWritten: "The report on the archive (spec.report) could not be written. Nothing else waits for it; the archive is complete without it.", "Correct what the message names: usually the permission to overwrite `_report/index.html`; the operator retries. Remove spec.report if no report is wanted.";
    OrphanSessionSuspected: "An open session may belong to this export, but nothing proves it; it is not deleted.", "Find out who owns the session; if nobody does, delete it with `eventexport session delete ID`.";
    NotProved: "A scheduled verification found damage: an object, receipt or manifest is missing, changed, or contradicts another one.", "Run `eventexport verify -f` with the manifest for all findings and their remedies; restore what is damaged from a copy or an older version of the bucket.";
    VerificationFailed: "A scheduled verification could not read the archive, or some of its objects.", "Nothing at first; the operator retries. If it persists, correct what the message names: credentials, network, an archive tier of the store, or spec.verification.bytesPerSecond.";
    Failed: "An error that no other reason describes.", "Read the message and the log; report the error if it is unclear.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no reason of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a known reason")]
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
