//! Tasks of a run, each at most once at a time, and their results. No I/O of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::task::{Id, JoinError, JoinSet};
use tracing::Instrument as _;

use super::attempt_state::AttemptReport;
use super::commit::ReceiptWrite;
use super::document_task::{DocumentKind, DocumentTask};
use super::documents::DocumentResult;
use super::failure::Failure;
use crate::archive::counts::DayListing;
use crate::archive::layout::AttemptId;
use crate::archive::window::Window;

/// Task of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunTask {
    Window(Window),
    Recover(AttemptId),
    Adopt(Window),
    Confirm(Window),
    Document(DocumentTask),
    ListDays,
}

/// Result of a task that ended by itself.
pub(super) enum RunTaskResult {
    Window(Window, AttemptReport),
    /// With whether the user of the sessions was known at its start.
    Recover(AttemptId, bool, Result<(), Failure>),
    Adopt(Window, Result<bool, Failure>),
    Confirm(Window, Result<ReceiptWrite, Failure>),
    Document(DocumentTask, DocumentResult),
    ListDays(Result<Option<Arc<DayListing>>, Failure>),
}

/// End of a task.
pub(super) enum RunTaskEnd {
    Done(RunTaskResult),
    /// It panicked. `None`: it is not known which one it was.
    Panicked(Option<RunTask>, JoinError),
}

/// Running tasks. Dropping them aborts all.
#[derive(Default)]
pub(super) struct RunTasks {
    results: JoinSet<RunTaskResult>,
    running: HashMap<Id, RunTask>,
}

impl RunTasks {
    /// Starts a task, unless it runs already.
    pub(super) fn spawn<F>(&mut self, task: RunTask, work: impl FnOnce() -> F)
    where
        F: Future<Output = RunTaskResult> + Send + 'static,
    {
        if self.is_running(|running| *running == task) {
            return;
        }
        let handle = self.results.spawn(work().in_current_span());
        self.running.insert(handle.id(), task);
    }

    /// Waits for the end of a task; `None`: none runs.
    pub(super) async fn next(&mut self) -> Option<RunTaskEnd> {
        let end = self.results.join_next_with_id().await;
        end.map(|end| self.end(end))
    }

    /// Returns the end of a task that has ended.
    pub(super) fn try_next(&mut self) -> Option<RunTaskEnd> {
        let end = self.results.try_join_next_with_id();
        end.map(|end| self.end(end))
    }

    fn end(&mut self, end: Result<(Id, RunTaskResult), JoinError>) -> RunTaskEnd {
        match end {
            Ok((id, result)) => {
                self.running.remove(&id);
                RunTaskEnd::Done(result)
            }
            Err(error) => RunTaskEnd::Panicked(self.running.remove(&error.id()), error),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Returns true if a task of this kind runs.
    pub(super) fn is_running(&self, kind: impl FnMut(&RunTask) -> bool) -> bool {
        self.running.values().any(kind)
    }

    /// Returns the windows that are being exported.
    pub(super) fn windows(&self) -> BTreeSet<Window> {
        self.select(|task| match task {
            RunTask::Window(window) => Some(*window),
            _ => None,
        })
    }

    /// Returns the kinds of documents that are being written.
    pub(super) fn documents(&self) -> BTreeSet<DocumentKind> {
        self.select(|task| match task {
            RunTask::Document(task) => Some(task.kind()),
            _ => None,
        })
    }

    /// Returns the attempts that are being recovered.
    pub(super) fn recoveries(&self) -> BTreeSet<AttemptId> {
        self.select(|task| match task {
            RunTask::Recover(id) => Some(*id),
            _ => None,
        })
    }

    fn select<T: Ord>(&self, select: impl FnMut(&RunTask) -> Option<T>) -> BTreeSet<T> {
        self.running.values().filter_map(select).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[tokio::test]
    async fn a_task_runs_once_at_a_time_and_is_known_after_a_panic() {
        let window = Window::day(date(2018, 6, 3));
        let mut tasks = RunTasks::default();
        for _ in 0..2 {
            tasks.spawn(RunTask::Adopt(window), || async move {
                RunTaskResult::Adopt(window, Ok(true))
            });
        }
        assert!(tasks.is_running(|task| *task == RunTask::Adopt(window)) && tasks.windows().is_empty());
        let end = tasks.next().await;
        assert!(matches!(end, Some(RunTaskEnd::Done(RunTaskResult::Adopt(..)))));
        assert!(tasks.is_empty() && tasks.next().await.is_none());

        tasks.spawn(RunTask::Window(window), || async { panic!("as the test says") });
        assert_eq!(tasks.windows(), BTreeSet::from([window]));
        let end = tasks.next().await;
        assert!(matches!(
            end,
            Some(RunTaskEnd::Panicked(Some(RunTask::Window(_)), _))
        ));
        assert!(tasks.try_next().is_none());
    }
}
