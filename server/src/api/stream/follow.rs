//! One client's place in the three sources, and the task that tells it what comes next.

use std::{future::poll_fn, task::Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use muster_shared::{DeviceId, Tenant};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval, interval_at, timeout},
};

use super::{
    super::{Doors, error::Problem, view},
    BEAT, FRAME_BYTES, SLOW,
    asked::Asked,
    cursor::{Cursor, Source},
    events,
    news::News,
    who::Listener,
};
use crate::{
    edge::feed::{Entry, Feed, FeedError},
    registry::{AuditRow, follow::Counted, now_ms},
    uplink::Position,
};

/// Rows read at a time.
const PAGE: u32 = 200;
/// How often refusals are looked for: they gather for that long.
const REFUSALS: std::time::Duration = std::time::Duration::from_secs(1);
/// How long to wait where the log cannot be read now.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The client does not listen any more, or is too slow.
struct Gone;

/// What a stream waits for.
enum Happened {
    Ended,
    Decided,
    Refused,
    Read(Result<Entry, FeedError>),
    Beat,
}

/// One client's place.
pub(super) struct Follower {
    doors: Doors,
    listener: Listener,
    asked: Asked,
    only: Option<(Tenant, DeviceId)>,
    /// The registry's number, and the log's.
    node: u64,
    log: u64,
    at: Cursor,
    /// Up to where the client has it.
    handed: Cursor,
    feed: Option<Feed>,
    news: News,
    stop: watch::Receiver<bool>,
    out: mpsc::Sender<Bytes>,
    frame: Vec<u8>,
}

impl Follower {
    /// Takes its place: where the cursor says, or at the end. What the cursor asks for and is not there is
    /// told as a gap first.
    pub(super) async fn begin(
        doors: Doors,
        listener: Listener,
        asked: Asked,
        only: Option<(Tenant, DeviceId)>,
        after: Option<Cursor>,
        out: mpsc::Sender<Bytes>,
    ) -> Result<Self, Problem> {
        // Heard from before the end is looked up: nothing falls between.
        let news = News::new(doors.registry.changes());
        let node = doors.registry.node().await?;
        let log = doors.tail.node();
        let end = doors.tail.end().await.map_err(|error| {
            tracing::error!(%error, "the uplink log's end cannot be read");
            Problem::new(muster_shared::Code::Fault)
        })?;
        let ends = [
            (Source::Decisions, node, doors.registry.audit_head().await?.no),
            (Source::Messages, log, end.0),
            (Source::Refusals, node, doors.registry.refusals_end().await?),
        ];
        let stop = doors.asking.stopped();
        let (at, handed, feed, frame) = (Cursor::default(), Cursor::default(), None, Vec::new());
        let mut this =
            Self { doors, listener, asked, only, node, log, at, handed, feed, news, stop, out, frame };
        let mut gaps = Vec::new();
        for (source, node, last) in ends {
            let (from, gap) = place(after.as_ref(), source, node, last);
            this.at.set(source, node, from);
            gaps.extend(gap.filter(|_| this.listens(source)));
        }
        this.handed.clone_from(&this.at);
        if this.asked.reads_log() {
            let from = this.at.of(Source::Messages, log).unwrap_or_default();
            this.feed = Some(this.doors.tail.feed(Position(from)));
        }
        this.frame.extend_from_slice(b"retry: 2000\n\n");
        this.event(&events::blank("open", now_ms()));
        gaps.iter().for_each(|gap| this.event(gap));
        Ok(this)
    }

    fn listens(&self, source: Source) -> bool {
        match source {
            Source::Decisions => self.asked.changes,
            Source::Messages => self.asked.reads_log(),
            Source::Refusals => self.asked.counts(),
        }
    }

    /// Tells until the client is gone, or the server stops.
    pub(super) async fn run(mut self) {
        if self.tell().await.is_err() {
            tracing::debug!("an event stream ended");
        }
    }

    async fn tell(&mut self) -> Result<(), Gone> {
        self.hand_over().await?;
        self.decisions().await?;
        let mut beat = interval_at(Instant::now() + BEAT, BEAT);
        let mut refusals = interval(REFUSALS);
        for timer in [&mut beat, &mut refusals] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let out = self.out.clone();
        loop {
            match self.happened(&out, &mut beat, &mut refusals).await {
                Happened::Ended => return Ok(()),
                Happened::Decided => self.decisions().await?,
                Happened::Refused => self.refusals().await?,
                Happened::Read(read) => self.messages(read).await?,
                Happened::Beat => self.beat().await?,
            }
        }
    }

    /// Waits for whatever is next. Nothing is lost when something else came first.
    async fn happened(
        &mut self,
        out: &mpsc::Sender<Bytes>,
        beat: &mut Interval,
        refusals: &mut Interval,
    ) -> Happened {
        let Self { feed, asked, only, news, stop, .. } = self;
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => Happened::Ended,
            () = out.closed() => Happened::Ended,
            heard = news.wait() => if heard.is_ok() { Happened::Decided } else { Happened::Ended },
            _ = refusals.tick(), if asked.counts() => Happened::Refused,
            read = next(feed, asked, only.as_ref()) => Happened::Read(read),
            _ = beat.tick() => Happened::Beat,
        }
    }

    /// Reads on in the audit log, to its end.
    async fn decisions(&mut self) -> Result<(), Gone> {
        while self.asked.changes {
            let after = self.at.of(Source::Decisions, self.node).unwrap_or_default();
            let rows = match self.doors.registry.audit(after, PAGE).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(%error, "the audit log cannot be followed now; trying again");
                    return Ok(());
                }
            };
            for row in &rows {
                self.at.set(Source::Decisions, self.node, row.no);
                if self.wants(row) {
                    self.event(&events::change(row));
                    self.hand_over_when_full().await?;
                }
            }
            if rows.len() < PAGE as usize {
                break;
            }
        }
        self.hand_over().await
    }

    fn wants(&self, row: &AuditRow) -> bool {
        if let Some(device) = &self.asked.device {
            return row.target == device.to_string();
        }
        let Some(tenant) = &self.asked.tenant else { return true };
        row.origin.as_ref().is_some_and(|origin| origin.tenant == tenant.as_str())
    }

    async fn refusals(&mut self) -> Result<(), Gone> {
        loop {
            let after = self.at.of(Source::Refusals, self.node).unwrap_or_default();
            let rows = match self.doors.registry.facts_after(after, PAGE).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(%error, "refusals and notices cannot be followed now; trying again");
                    return Ok(());
                }
            };
            for row in &rows {
                self.at.set(Source::Refusals, self.node, row.turn);
                let tenant = self.asked.tenant.as_ref().is_none_or(|own| row.tenant.as_ref() == Some(own));
                let device = self.asked.device.as_ref().is_none_or(|device| {
                    row.serial.as_ref() == Some(&device.serial) && row.tenant == device.tenant
                });
                let kind = match row.what {
                    Counted::Refused(_) => self.asked.refusals,
                    Counted::Noticed(_) => self.asked.notices,
                };
                if tenant && device && kind {
                    self.event(&events::counted(row));
                    self.hand_over_when_full().await?;
                }
            }
            if rows.len() < PAGE as usize {
                return self.hand_over().await;
            }
        }
    }

    /// A message, and whatever else is there without waiting.
    async fn messages(&mut self, first: Result<Entry, FeedError>) -> Result<(), Gone> {
        let mut read = Some(first);
        while let Some(one) = read.take() {
            match one {
                Ok(entry) => {
                    let verdicts = self.doors.registry.verdicts();
                    self.log_read();
                    let event = events::message(entry.position, &entry, self.asked.presence, &verdicts);
                    self.event(&event);
                }
                Err(FeedError::Lost { from, to }) => {
                    self.log_read();
                    let why = "they are not kept any more";
                    self.event(&events::gap(Source::Messages, Some(from), Some(to), why, now_ms()));
                }
                Err(FeedError::SetBack { asked, last }) => {
                    self.log_read();
                    let why = "the log was set back, by a restored copy for one";
                    self.event(&events::gap(Source::Messages, Some(last + 1), Some(asked), why, now_ms()));
                }
                Err(FeedError::Read(error)) => {
                    tracing::warn!(%error, "the uplink log cannot be followed now; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
                Err(FeedError::Stopped) => return Err(Gone),
            }
            self.hand_over_when_full().await?;
            read = next(&mut self.feed, &self.asked, self.only.as_ref()).now_or_never();
        }
        self.hand_over().await
    }

    /// The cursor follows the feed, past what was not asked for too.
    fn log_read(&mut self) {
        if let Some(feed) = &self.feed {
            self.at.set(Source::Messages, self.log, feed.position().0);
        }
    }

    async fn beat(&mut self) -> Result<(), Gone> {
        // What ends by the clock is announced by nobody.
        self.ask_again().await?;
        self.decisions().await?;
        self.log_read();
        // A block without data is no event, and moves the client's last id all the same.
        self.frame.extend_from_slice(format!(": still here\nid: {}\n\n", self.at).as_bytes());
        self.hand_over().await
    }

    fn event(&mut self, event: &view::StreamEvent) {
        events::write(&mut self.frame, event, &self.at);
    }

    async fn hand_over_when_full(&mut self) -> Result<(), Gone> {
        if self.frame.len() < FRAME_BYTES { Ok(()) } else { self.hand_over().await }
    }

    /// Ends the stream when its listener may not listen any more: what was gathered is not told, and the last
    /// id is of what was.
    async fn ask_again(&mut self) -> Result<(), Gone> {
        let Err(problem) = self.listener.still_may(&self.doors).await else { return Ok(()) };
        let said = serde_json::from_str(&problem.to_document()).unwrap_or_default();
        let end = view::StreamEvent { problem: Some(said), ..events::blank("end", now_ms()) };
        self.frame.clear();
        events::write(&mut self.frame, &end, &self.handed);
        self.send().await?;
        Err(Gone)
    }

    async fn hand_over(&mut self) -> Result<(), Gone> {
        if self.news.access_changed() {
            self.ask_again().await?;
        }
        self.send().await
    }

    async fn send(&mut self) -> Result<(), Gone> {
        if self.frame.is_empty() {
            return Ok(());
        }
        self.handed.clone_from(&self.at);
        let frame = std::mem::take(&mut self.frame).into();
        match timeout(SLOW, self.out.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Gone),
            Err(_) => {
                tracing::info!("an event stream's client takes nothing; it is let go");
                Err(Gone)
            }
        }
    }
}

/// The next message that was asked for; never where none were.
async fn next(
    feed: &mut Option<Feed>,
    asked: &Asked,
    only: Option<&(Tenant, DeviceId)>,
) -> Result<Entry, FeedError> {
    poll_fn(|cx| match feed {
        Some(feed) => feed.poll_wanted(cx, |_, message| asked.wants_topic(&message.topic, only)),
        None => Poll::Pending,
    })
    .await
}

/// Where a source is gone on with, and what is missing before that.
fn place(after: Option<&Cursor>, source: Source, node: u64, last: u64) -> (u64, Option<view::StreamEvent>) {
    let Some(after) = after else { return (last, None) };
    match after.of(source, node) {
        Some(number) if number <= last => (number, None),
        // The feed finds that out by itself, and says it.
        Some(number) if source == Source::Messages => (number, None),
        Some(number) => {
            let why = "it was set back, by a restored copy for one";
            (last, Some(events::gap(source, Some(last + 1), Some(number), why, now_ms())))
        }
        None if after.has(source) => {
            let why = "the id is of another server's; this one is told from its beginning";
            (0, Some(events::gap(source, None, None, why, now_ms())))
        }
        None => (last, None),
    }
}
