//! A store that strikes at the call it is told: refuses it, loses its reply, or lets the process die there.
//! It counts what is created, so that a test sees what was created twice.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use eventexport::storage::{
    Crc64, Listed, ObjectFacts, OpenUpload, Part, PutOptions, Segments, Store, StoreError, Stored, Upload,
};
use jiff::Timestamp;
use tokio::sync::Notify;

/// What happens at the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// Not carried out, and an error.
    Refuse,
    /// Not carried out, and a person would have to allow it.
    Forbid,
    /// Carried out, and an error instead of its reply.
    LoseReply,
    /// Not carried out, and nothing is ever answered again.
    DieBefore,
    /// Carried out, and nothing is ever answered again.
    DieAfter,
    /// A defect: the task ends there.
    Panic,
    /// Carried out as if nothing were, and told.
    Tell,
}

impl Strike {
    /// All that a process may go on from by itself, or die of.
    pub(crate) const ALL: [Self; 5] = [
        Self::Refuse,
        Self::LoseReply,
        Self::DieBefore,
        Self::DieAfter,
        Self::Panic,
    ];
}

/// What was created, by key: survives the process.
#[derive(Debug, Default)]
pub(crate) struct Created(Mutex<BTreeMap<String, u32>>);

impl Created {
    /// Evidence that was created more than once.
    pub(crate) fn doubled(&self) -> Vec<String> {
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

/// The store.
#[derive(Debug)]
pub(crate) struct Saboteur {
    inner: Arc<dyn Store>,
    created: Arc<Created>,
    /// The call that is struck, from 1; 0 is none; and how many in a row.
    at: usize,
    times: usize,
    strike: Strike,
    calls: AtomicUsize,
    flying: AtomicU64,
    /// The most bytes of parts that were on their way at a time.
    pub(crate) most_flying: AtomicU64,
    /// Told when the process dies, or is told.
    pub(crate) died: Notify,
    /// Every call in words, for the message of a test that fails.
    pub(crate) log: Mutex<Vec<String>>,
}

impl Saboteur {
    pub(crate) fn new(inner: Arc<dyn Store>, created: &Arc<Created>, at: usize, strike: Strike) -> Arc<Self> {
        Self::repeatedly(inner, created, at, 1, strike)
    }

    /// Strikes several calls in a row.
    pub(crate) fn repeatedly(
        inner: Arc<dyn Store>,
        created: &Arc<Created>,
        at: usize,
        times: usize,
        strike: Strike,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            created: Arc::clone(created),
            at,
            times,
            strike,
            calls: AtomicUsize::new(0),
            flying: AtomicU64::new(0),
            most_flying: AtomicU64::new(0),
            died: Notify::new(),
            log: Mutex::default(),
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn lost(&self) -> StoreError {
        StoreError::Network {
            store: self.inner.name().to_owned(),
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
        let dies = matches!(self.strike, Strike::DieBefore | Strike::DieAfter);
        let struck = self.at > 0 && call >= self.at && (dies || call < self.at + self.times);
        if !struck {
            return work.await;
        }
        match self.strike {
            Strike::Refuse => Err(self.lost()),
            Strike::Forbid => Err(StoreError::Forbidden {
                store: self.inner.name().to_owned(),
                action: "s3:Any".to_owned(),
                key: what,
            }),
            Strike::LoseReply => {
                let _ = work.await;
                Err(self.lost())
            }
            Strike::Panic => panic!("sabotage at {what}"),
            Strike::Tell => {
                self.died.notify_one();
                work.await
            }
            Strike::DieBefore | Strike::DieAfter => {
                if self.strike == Strike::DieAfter && call == self.at {
                    let _ = work.await;
                }
                self.died.notify_one();
                pending().await
            }
        }
    }
}

fn short(key: &str) -> &str {
    key.split_once("scope=space/").map_or(key, |(_, below)| below)
}

#[async_trait]
impl Store for Saboteur {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn put(&self, key: &str, body: Segments, options: &PutOptions) -> Result<Stored, StoreError> {
        let work = async {
            let stored = self.inner.put(key, body, options).await;
            if stored.is_ok() {
                self.created.count(key);
            }
            stored
        };
        self.call(format!("put {}", short(key)), work).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        self.call(format!("get {}", short(key)), self.inner.get(key, limit))
            .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectFacts>, StoreError> {
        self.call(format!("head {}", short(key)), self.inner.head(key))
            .await
    }

    async fn read(
        &self,
        key: &str,
        offset: u64,
        limit: u64,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let work = self.inner.read(key, offset, limit, etag);
        self.call(format!("read {}", short(key)), work).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.call(format!("list {}", short(prefix)), self.inner.list(prefix))
            .await
    }

    async fn delete(&self, keys: &[String]) -> Result<Vec<(String, StoreError)>, StoreError> {
        let names: Vec<&str> = keys.iter().map(|key| short(key)).collect();
        self.call(format!("delete {}", names.join(" ")), self.inner.delete(keys))
            .await
    }

    async fn begin_upload(&self, key: &str, options: &PutOptions) -> Result<Upload, StoreError> {
        self.call(
            format!("begin {}", short(key)),
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
    ) -> Result<Part, StoreError> {
        let what = format!("part {number} of {}", short(&upload.key));
        let size = body.len();
        let flying = self.flying.fetch_add(size, Ordering::SeqCst) + size;
        self.most_flying.fetch_max(flying, Ordering::SeqCst);
        let part = self
            .call(what, self.inner.upload_part(upload, number, body, crc64))
            .await;
        self.flying.fetch_sub(size, Ordering::SeqCst);
        part
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Stored, StoreError> {
        let work = async {
            let stored = self.inner.complete_upload(upload, parts, options).await;
            if stored.is_ok() {
                self.created.count(&upload.key);
            }
            stored
        };
        self.call(format!("complete {}", short(&upload.key)), work).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.call(
            format!("abort {}", short(&upload.key)),
            self.inner.abort_upload(upload),
        )
        .await
    }

    async fn uploads(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        self.call(format!("uploads {}", short(prefix)), self.inner.uploads(prefix))
            .await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.call("now".to_owned(), self.inner.now()).await
    }
}
