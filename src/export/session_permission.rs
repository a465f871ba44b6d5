//! Permission of a run to open sessions. A run asks for it before its first session; the owner of the run grants it when it
//! has made sure that open sessions are not forgotten (the operator: when the resource has its finalizer). No I/O.

use std::sync::Arc;

use tokio::sync::watch;

/// End of the run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionPermission {
    /// `None`: permitted from the start.
    asked: Option<Asked>,
}

#[derive(Clone, Debug)]
struct Asked {
    wanted: Arc<watch::Sender<bool>>,
    granted: watch::Receiver<bool>,
}

/// End of the owner. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionGrant {
    wanted: watch::Receiver<bool>,
    granted: Arc<watch::Sender<bool>>,
}

impl SessionPermission {
    /// Returns a permission that need not be asked for.
    pub const fn given() -> Self {
        Self { asked: None }
    }

    /// Returns a permission that the owner of the other end grants.
    pub fn asked() -> (Self, SessionGrant) {
        let (wanted, seen) = watch::channel(false);
        let (granted, given) = watch::channel(false);
        let permission = Self {
            asked: Some(Asked {
                wanted: Arc::new(wanted),
                granted: given,
            }),
        };
        let grant = SessionGrant {
            wanted: seen,
            granted: Arc::new(granted),
        };
        (permission, grant)
    }

    /// Waits until sessions may be opened. Never returns if the owner is gone: it stops the run.
    pub async fn wait(&self) {
        let Some(Asked { wanted, granted }) = &self.asked else {
            return;
        };
        wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
        if granted.clone().wait_for(|granted| *granted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl SessionGrant {
    /// Returns true if the run wants to open sessions.
    pub fn is_wanted(&self) -> bool {
        *self.wanted.borrow()
    }

    /// Waits until the run wants to open sessions. Never returns if it is gone.
    pub async fn wanted(&mut self) {
        if self.wanted.wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns true if sessions are permitted.
    pub fn is_given(&self) -> bool {
        *self.granted.borrow()
    }

    /// Permits sessions, for the rest of the run.
    pub fn give(&self) {
        self.granted
            .send_if_modified(|granted| !std::mem::replace(granted, true));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_run_waits_for_its_owner_once() {
        let (permission, mut grant) = SessionPermission::asked();
        assert!(!grant.is_wanted());
        let waiting = tokio::spawn({
            let permission = permission.clone();
            async move { permission.wait().await }
        });
        grant.wanted().await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(grant.is_wanted() && !waiting.is_finished());
        grant.give();
        waiting.await.unwrap();
        // Later sessions ask nobody.
        permission.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_owner_nothing_is_permitted() {
        let (permission, grant) = SessionPermission::asked();
        drop(grant);
        let waited = tokio::time::timeout(Duration::from_mins(1), permission.wait()).await;
        assert!(waited.is_err());
        SessionPermission::given().wait().await;
    }
}
