//! Store that injects a fault into a chosen call: an error, a lost reply, or a crash. It counts creations, so that
//! tests detect duplicates.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use eventexport::storage::{
    Crc64, ObjectInfo, ObjectSummary, OpenUpload, PutOptions, PutResult, Segments, Store, StoreError,
    StoreIdentity, Upload, UploadedPart,
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};

/// Fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreFault {
    /// Not carried out; returns an error.
    Fail,
    /// Not carried out; returns an error that needs manual action.
    Forbid,
    /// Carried out; returns an error instead of the reply.
    LoseReply,
    /// Not carried out; no later call is answered.
    CrashBefore,
    /// Carried out; no later call is answered.
    CrashAfter,
    /// Panics in the task.
    Panic,
    /// Carried out normally; notifies the test.
    Notify,
}

impl StoreFault {
    /// All faults that a process recovers from, alone or after a restart.
    pub(crate) const ALL: [Self; 5] = [
        Self::Fail,
        Self::LoseReply,
        Self::CrashBefore,
        Self::CrashAfter,
        Self::Panic,
    ];
}

/// Creations by key; survives the process.
#[derive(Debug, Default)]
pub(crate) struct CreationLog(Mutex<BTreeMap<String, u32>>);

impl CreationLog {
    /// Lists objects and receipts that were created more than once.
    pub(crate) fn duplicates(&self) -> Vec<String> {
        let created = self.0.lock().unwrap();
        created
            .iter()
            .filter(|(_, times)| **times > 1)
            .map(|(key, times)| format!("{key} ×{times}"))
            .collect()
    }

    fn count(&self, key: &str) {
        let evidence = [".json.gz", ".receipt.json"].iter().any(|end| key.ends_with(end));
        if evidence || key.contains("/_manifests/") {
            *self.0.lock().unwrap().entry(key.to_owned()).or_default() += 1;
        }
    }
}

/// A key that the first listings leave out.
#[derive(Debug)]
struct HiddenKey {
    end: String,
    /// Listings without it.
    listings: usize,
    /// True if it exists all the time, false if only from the first listing on that has it.
    exists: bool,
}

/// Store with injected faults.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn Store>,
    hidden: Mutex<Vec<HiddenKey>>,
    /// Ends of keys in an archive tier.
    archived: Mutex<Vec<String>>,
    listings: AtomicUsize,
    created: Arc<CreationLog>,
    /// First faulty call, from 1 (0 for none), and the number of faulty calls in a row.
    at: usize,
    times: usize,
    fault: StoreFault,
    /// Clock of this store minus that of the inner one.
    clock_offset: SignedDuration,
    /// Part of the calls that wait, as `log` has them.
    stalled: watch::Sender<Option<String>>,
    calls: AtomicUsize,
    in_flight: AtomicU64,
    /// Maximum bytes of parts in flight.
    pub(crate) max_in_flight: AtomicU64,
    /// Notified when the process dies or reaches a `Notify` call.
    pub(crate) died: Notify,
    /// All calls as text, for failure messages.
    pub(crate) log: Mutex<Vec<String>>,
}

impl FaultyStore {
    pub(crate) fn new(
        inner: Arc<dyn Store>,
        created: &Arc<CreationLog>,
        at: usize,
        fault: StoreFault,
    ) -> Arc<Self> {
        Self::with_repeats(inner, created, at, 1, fault)
    }

    /// Injects the fault into several calls in a row.
    pub(crate) fn with_repeats(
        inner: Arc<dyn Store>,
        created: &Arc<CreationLog>,
        at: usize,
        times: usize,
        fault: StoreFault,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            hidden: Mutex::default(),
            archived: Mutex::default(),
            listings: AtomicUsize::new(0),
            created: Arc::clone(created),
            at,
            times,
            fault,
            clock_offset: SignedDuration::ZERO,
            stalled: watch::Sender::new(None),
            calls: AtomicUsize::new(0),
            in_flight: AtomicU64::new(0),
            max_in_flight: AtomicU64::new(0),
            died: Notify::new(),
            log: Mutex::default(),
        })
    }

    /// Creates a store without faults and with another clock.
    pub(crate) fn with_clock(
        inner: Arc<dyn Store>,
        created: &Arc<CreationLog>,
        clock_offset: SignedDuration,
    ) -> Arc<Self> {
        let store = Self::new(inner, created, 0, StoreFault::Fail);
        let store = Arc::into_inner(store).expect("the only reference");
        Arc::new(Self {
            clock_offset,
            ..store
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Leaves a key out of the first listings. It exists all the time, or only from the first listing on that has it.
    pub(crate) fn hide(&self, end: &str, listings: usize, exists: bool) {
        let end = end.to_owned();
        self.hidden.lock().unwrap().push(HiddenKey {
            end,
            listings,
            exists,
        });
    }

    /// Lets the calls with this text wait, or no more.
    pub(crate) fn stall(&self, calls: Option<&str>) {
        self.stalled.send_replace(calls.map(str::to_owned));
    }

    /// Moves a key to an archive tier: it cannot be read.
    pub(crate) fn archive(&self, end: &str) {
        self.archived.lock().unwrap().push(end.to_owned());
    }

    /// Returns the number of listings.
    pub(crate) fn listings(&self) -> usize {
        self.listings.load(Ordering::SeqCst)
    }

    fn exists(&self, key: &str) -> bool {
        let hidden = self.hidden.lock().unwrap();
        let absent =
            |one: &HiddenKey| !one.exists && self.listings() <= one.listings && key.ends_with(&one.end);
        !hidden.iter().any(absent)
    }

    fn check_tier(&self, key: &str) -> Result<(), StoreError> {
        let archived = self.archived.lock().unwrap();
        if archived.iter().any(|end| key.ends_with(end)) {
            let (store, key) = (self.inner.location().to_owned(), key.to_owned());
            return Err(StoreError::Archived { store, key });
        }
        Ok(())
    }

    fn injected_error(&self) -> StoreError {
        StoreError::Network {
            store: self.inner.location().to_owned(),
            message: "sabotage".to_owned(),
        }
    }

    async fn call<T>(
        &self,
        what: String,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.lock().unwrap().push(format!("{call} {what}"));
        let mut stalled = self.stalled.subscribe();
        let passes = |stalled: &Option<String>| stalled.as_ref().is_none_or(|part| !what.contains(part));
        let _ = stalled.wait_for(passes).await;
        let dies = matches!(self.fault, StoreFault::CrashBefore | StoreFault::CrashAfter);
        let faulty = self.at > 0 && call >= self.at && (dies || call < self.at + self.times);
        if !faulty {
            return work.await;
        }
        match self.fault {
            StoreFault::Fail => Err(self.injected_error()),
            StoreFault::Forbid => Err(StoreError::Forbidden {
                store: self.inner.location().to_owned(),
                action: "s3:Any".to_owned(),
                key: what,
            }),
            StoreFault::LoseReply => {
                let _ = work.await;
                Err(self.injected_error())
            }
            StoreFault::Panic => panic!("sabotage at {what}"),
            StoreFault::Notify => {
                self.died.notify_one();
                work.await
            }
            StoreFault::CrashBefore | StoreFault::CrashAfter => {
                if self.fault == StoreFault::CrashAfter && call == self.at {
                    let _ = work.await;
                }
                self.died.notify_one();
                pending().await
            }
        }
    }
}

fn short_key(key: &str) -> &str {
    key.split_once("scope=space/").map_or(key, |(_, below)| below)
}

#[async_trait]
impl Store for FaultyStore {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn identity(&self) -> &StoreIdentity {
        self.inner.identity()
    }

    async fn put(&self, key: &str, body: Segments, options: &PutOptions) -> Result<PutResult, StoreError> {
        let work = async {
            let stored = self.inner.put(key, body, options).await;
            if stored.is_ok() {
                self.created.count(key);
            }
            stored
        };
        self.call(format!("put {}", short_key(key)), work).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let work = async {
            self.check_tier(key)?;
            let found = self.inner.get(key, limit).await;
            found.map(|bytes| bytes.filter(|_| self.exists(key)))
        };
        self.call(format!("get {}", short_key(key)), work).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        let work = async {
            let found = self.inner.head(key).await;
            found.map(|info| info.filter(|_| self.exists(key)))
        };
        self.call(format!("head {}", short_key(key)), work).await
    }

    async fn get_range(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let work = async {
            self.check_tier(key)?;
            self.inner.get_range(key, offset, limit, etag).await
        };
        self.call(format!("read {}", short_key(key)), work).await
    }

    async fn list_pages(
        &self,
        prefix: &str,
        on_page: &mut (dyn FnMut(Vec<ObjectSummary>) + Send),
    ) -> Result<(), StoreError> {
        let work = async {
            let listing = self.listings.fetch_add(1, Ordering::SeqCst) + 1;
            let mut rows = self.inner.list(prefix).await?;
            let hidden = self.hidden.lock().unwrap();
            rows.retain(|row| {
                let hides = |one: &HiddenKey| listing <= one.listings && row.key.ends_with(&one.end);
                !hidden.iter().any(hides)
            });
            Ok(rows)
        };
        on_page(self.call(format!("list {}", short_key(prefix)), work).await?);
        Ok(())
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
        let names: Vec<&str> = keys.iter().map(|key| short_key(key)).collect();
        self.call(format!("delete {}", names.join(" ")), self.inner.delete(keys))
            .await
    }

    async fn begin_upload(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError> {
        self.call(
            format!("begin {}", short_key(key)),
            self.inner.begin_upload(key, options),
        )
        .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: u16,
        body: Segments,
        crc64: Crc64,
    ) -> Result<UploadedPart, StoreError> {
        let what = format!("part {number} of {}", short_key(&upload.key));
        let size = body.len();
        let in_flight = self.in_flight.fetch_add(size, Ordering::SeqCst) + size;
        self.max_in_flight.fetch_max(in_flight, Ordering::SeqCst);
        let part = self
            .call(what, self.inner.upload_part(upload, number, body, crc64))
            .await;
        self.in_flight.fetch_sub(size, Ordering::SeqCst);
        part
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[UploadedPart],
        options: &PutOptions,
    ) -> Result<PutResult, StoreError> {
        let work = async {
            let stored = self.inner.complete_upload(upload, parts, options).await;
            if stored.is_ok() {
                self.created.count(&upload.key);
            }
            stored
        };
        self.call(format!("complete {}", short_key(&upload.key)), work)
            .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.call(
            format!("abort {}", short_key(&upload.key)),
            self.inner.abort_upload(upload),
        )
        .await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.call(
            format!("uploads {}", short_key(prefix)),
            self.inner.list_uploads(prefix),
        )
        .await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        let now = self.call("now".to_owned(), self.inner.now()).await?;
        Ok(now + self.clock_offset)
    }
}
