//! The thread that commits: opens the file, plans and commits batch after batch, and opens the file anew
//! when a commit has failed.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
};

use super::{Kept, OpenError, Shared, TRIM_PAUSE, Tail, Waiting, tell};
use crate::{
    registry::{Verdicts, now_ms},
    uplink::{
        Downlinks, Fresh, Outcome, Position, Retained,
        batch::{Planner, State},
        bounds::Bounds,
        sqlite::{Log, Opened, StoreError},
    },
};

/// First and longest wait before a failed file is opened again.
const REOPEN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What the thread works on.
pub(super) struct Files {
    pub(super) path: PathBuf,
    pub(super) verdicts: Arc<Verdicts>,
    pub(super) downlinks: Arc<dyn Downlinks>,
    pub(super) tail: Tail,
    pub(super) bounds: Bounds,
}

/// Says that the thread has ended, however it did.
struct Ending<'s>(&'s Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        {
            self.0.queue.lock().closing = true;
        }
        self.0.fail();
        // Nobody may wait for a batch that will never end.
        self.0.ended.send_modify(|ended| *ended = u64::MAX);
        self.0.done.send_replace(true);
    }
}

pub(super) fn main(files: Files, opened: oneshot::Sender<Result<Arc<Shared>, OpenError>>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = opened.send(Err(OpenError::Thread(error)));
            return;
        }
    };
    let retained = Arc::new(Retained::default());
    let Opened { log, state, kept } =
        match runtime.block_on(Log::open(&files.path, &files.verdicts, &retained)) {
            Ok(opened) => opened,
            Err(error) => {
                let _ = opened.send(Err(OpenError::Store(Box::new(error))));
                return;
            }
        };
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        work: Condvar::new(),
        ended: watch::Sender::new(0),
        committed: watch::Sender::new(log.last),
        ready: AtomicBool::new(true),
        refused_full: AtomicU64::new(0),
        kept: Mutex::new(Kept::default()),
        thread: Mutex::new(None),
        done: watch::Sender::new(false),
        node: log.node,
        retained,
        sessions: Mutex::new(kept.sessions),
    });
    if opened.send(Ok(shared.clone())).is_err() {
        return;
    }
    let ending = Ending(&shared);
    let work = Work { shared: &shared, runtime, bounds: files.bounds, files };
    work.run(log, state);
    drop(ending);
}

struct Work<'w> {
    shared: &'w Shared,
    runtime: Runtime,
    files: Files,
    bounds: Bounds,
}

impl Work<'_> {
    fn run(&self, mut log: Log, mut state: State) {
        let (mut last, mut trimmed) = (0, Instant::now());
        while let Some(batch) = self.shared.begin(last) {
            last = batch.len();
            let committed = self.commit(&mut log, &mut state, batch);
            self.shared.end();
            let committed = committed.and_then(|()| self.trim(&mut log, &mut trimmed, last == 0));
            let Err(error) = committed else { continue };
            tracing::error!(%error, "the uplink log cannot be written: nothing is acknowledged");
            drop(log);
            match self.reopen() {
                Some(opened) => (log, state) = opened,
                None => return,
            }
        }
        self.runtime.block_on(log.close());
    }

    /// Removes a little of what is beyond what is kept, if that is asked for and it is time again.
    fn trim(&self, log: &mut Log, before: &mut Instant, idle: bool) -> Result<(), sqlx::Error> {
        if !idle && before.elapsed() < TRIM_PAUSE {
            return Ok(());
        }
        let Some(keep) = self.shared.queue.lock().keep else { return Ok(()) };
        let done = self.runtime.block_on(log.trim(keep, now_ms()))?;
        *before = Instant::now();
        {
            let mut kept = self.shared.kept.lock();
            kept.octets = done.used;
            kept.removed += done.segments;
        }
        if done.segments == 0 {
            self.shared.queue.lock().keep = None;
        }
        Ok(())
    }

    /// Plans a batch, commits it, and only then tells who waits.
    fn commit(&self, log: &mut Log, state: &mut State, batch: Vec<Waiting>) -> Result<(), sqlx::Error> {
        let now_ms = now_ms();
        let planner = Planner {
            verdicts: &self.files.verdicts,
            downlinks: &*self.files.downlinks,
            bounds: &self.bounds,
            now_ms,
            last: log.last,
        };
        let plan = planner.plan(batch.iter().map(|waiting| &waiting.item), state);
        if plan.count == 0 && plan.delta.is_empty() {
            tell(batch, plan.outcomes);
            return Ok(());
        }
        let (first, body) = (Position(log.last.0 + 1), Bytes::from(plan.body));
        let done = log.commit(plan.count, body.to_vec(), &plan.delta, now_ms);
        if let Err(error) = self.runtime.block_on(done) {
            // Nobody knows what of it is on disk: no ticket of it may say that it is. Who hears of it finds
            // that the writer takes nothing.
            self.shared.fail();
            tell(batch, std::iter::repeat(Outcome::Failed));
            return Err(error);
        }
        // Before the position is told: who subscribes at a position finds retained what came up to there.
        self.shared.retained.apply(plan.delta.retained);
        if !plan.addressed.is_empty() {
            self.files.downlinks.committed(&plan.addressed);
        }
        if plan.count > 0 {
            // Before the tickets: who subscribes behind an acknowledgement does not find its message again.
            self.shared.committed.send_replace(log.last);
        }
        tell(batch, plan.outcomes);
        if plan.count > 0 {
            (self.files.tail)(Fresh { node: log.node, first, count: plan.count, body });
        }
        Ok(())
    }

    /// Opens the file anew until it can be written; `None` when the end comes first.
    fn reopen(&self) -> Option<(Log, State)> {
        let (mut wait, longest) = REOPEN;
        let told = *self.shared.committed.borrow();
        while self.shared.pause(wait) {
            let opening = async {
                let Files { path, verdicts, .. } = &self.files;
                let mut opened = Log::open(path, verdicts, &self.shared.retained).await?;
                opened.log.try_write().await?;
                Ok::<_, StoreError>(opened)
            };
            match self.runtime.block_on(opening) {
                Ok(Opened { log, state, kept }) => {
                    tracing::info!(position = log.last.0, "the uplink log can be written again");
                    // A commit that failed may be on disk all the same: its queues hold what nobody was
                    // handed.
                    let unknown = kept.addressed_after(told);
                    if !unknown.is_empty() {
                        self.files.downlinks.committed(&unknown);
                    }
                    self.shared.committed.send_replace(log.last);
                    self.shared.ready.store(true, Ordering::Release);
                    return Some((log, state));
                }
                Err(error) => tracing::error!(%error, "the uplink log cannot be opened; trying again"),
            }
            wait = (wait * 2).min(longest);
        }
        None
    }
}
