//! One core's share of the edge: a runtime of its own on a thread of its own, an accept loop, and what its
//! connections share.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use muster_shared::Code;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_local,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    admission::Admission,
    arrival,
    feed::{Groups, Tail},
    figures::{Figures, Flow},
    guard::{Guard, Tally},
    limits::{ACCEPT_PAUSE, HANDSHAKES_MAX, LINGER_AT_STOP, Limits, READ_BUFFER},
    mqtt::session::Output,
    presence::Presences,
    roster::Roster,
    sessions::Sessions,
    tls::{self, Wire},
    trust::Trust,
};
use crate::{
    registry::{Claimed, Facts, Registry, Verdicts, now_ms},
    uplink::{Answers, Writer},
    zero_touch::ZeroTouch,
};

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// Nobody is let in any more.
    Stopping,
    /// Whoever is left is dropped.
    Exit,
}

/// What all shards of the node share.
pub(super) struct Node {
    pub(super) registry: Registry,
    pub(super) verdicts: Arc<Verdicts>,
    pub(super) facts: Facts,
    pub(super) uplink: Writer,
    pub(super) tail: Arc<Tail>,
    pub(super) groups: Arc<Groups>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) presences: Arc<Presences>,
    pub(super) roster: Arc<Roster>,
    pub(super) trust: Arc<Trust>,
    pub(super) zero_touch: Option<Arc<ZeroTouch>>,
    pub(super) limits: Limits,
    pub(super) admission: Arc<Admission>,
    pub(super) guard: Arc<Guard>,
    pub(super) tally: Arc<Tally>,
    pub(super) figures: Arc<Figures>,
    pub(super) connections: AtomicUsize,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) config: watch::Receiver<Arc<ServerConfig>>,
}

/// Buffers of a shard. Borrowed for one turn of one connection, never across an `.await`.
pub(super) struct Scratch {
    /// What was read, and decrypted in place.
    pub(super) read: Box<[u8]>,
    /// What is to be written, encrypted.
    pub(super) wire: Wire,
    /// What came out of a session.
    pub(super) out: Output,
}

pub(super) struct Shard {
    pub(super) node: Arc<Node>,
    pub(super) scratch: RefCell<Scratch>,
    /// What its connections carry.
    pub(super) flow: Arc<Flow>,
    started: Instant,
    handshakes: Arc<Semaphore>,
    /// The log; its tickets resolve on this thread, all of a commit at once.
    pub(super) uplink: Writer,
    answers: Arc<Answers>,
    /// Where those who have arrived wait for their handshake, in order.
    pub(super) line: Mutex<()>,
    guests: Cell<usize>,
    guest_left: Notify,
}

impl Shard {
    pub(super) fn new(node: Arc<Node>) -> Rc<Self> {
        let scratch = Scratch {
            read: vec![0; READ_BUFFER].into_boxed_slice(),
            wire: Wire::default(),
            out: Output::default(),
        };
        let flow = node.figures.flow();
        let answers = Arc::new(Answers::default());
        Rc::new(Self {
            uplink: node.uplink.answering(Arc::clone(&answers)),
            answers,
            node,
            flow,
            scratch: RefCell::new(scratch),
            started: Instant::now(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            line: Mutex::default(),
            guests: Cell::new(0),
            guest_left: Notify::new(),
        })
    }

    /// Milliseconds on this shard's monotonic clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(super) fn stopping(&self) -> bool {
        *self.node.phase.borrow() != Phase::Running
    }

    /// Accepts until the stop, then waits until its connections are gone or may be dropped.
    pub(super) async fn run(self: Rc<Self>, listener: TcpListener) {
        tls::warm_up();
        let answers = Arc::clone(&self.answers);
        // As long as the runtime, and so as any connection of it.
        spawn_local(async move { answers.deliver().await });
        let mut phase = self.node.phase.clone();
        tokio::select! {
            () = self.accept(&listener) => {}
            // A sender that is gone means a stop, too.
            _ = phase.wait_for(|phase| *phase >= Phase::Stopping) => {}
        }
        drop(listener);
        let _ = phase.wait_for(|phase| *phase == Phase::Exit).await;
        let all_left = async {
            while self.guests.get() > 0 {
                self.guest_left.notified().await;
            }
        };
        let _ = timeout(LINGER_AT_STOP, all_left).await;
    }

    async fn accept(self: &Rc<Self>, listener: &TcpListener) {
        let mut accepts = true;
        loop {
            let Ok(permit) = Arc::clone(&self.handshakes).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if !accepts {
                        info!("accepting connections again");
                        accepts = true;
                    }
                    self.admit(stream, peer, permit);
                }
                Err(error) if is_of_one_connection(&error) => debug!(%error, "connection gone before accept"),
                Err(error) => {
                    // No descriptors or no memory: what is connected goes on, who knocks waits in the
                    // kernel's queue.
                    if accepts {
                        warn!(%error, "cannot accept connections for now");
                        accepts = false;
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let node = &self.node;
        if node.connections.fetch_add(1, Ordering::Relaxed) >= node.limits.connections {
            node.connections.fetch_sub(1, Ordering::Relaxed);
            node.facts.refused(&Claimed::Nobody, Code::ServerBusy, now_ms(), Some(peer));
            return;
        }
        self.guests.set(self.guests.get() + 1);
        let guest = Guest(Rc::clone(self));
        spawn_local(async move {
            let guest = guest;
            // On the heap for as long as it takes: a served connection carries no room for its handshake.
            let connection = Box::pin(arrival::receive(&guest.0, stream, peer, permit)).await;
            if let Some(connection) = connection {
                connection.run().await;
            }
        });
    }
}

/// One connection's task, counted for as long as it lives, however it ends.
struct Guest(Rc<Shard>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.node.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.guests.set(self.0.guests.get() - 1);
        self.0.guest_left.notify_one();
    }
}

/// Errors of accept(2) that belong to the connection, not to the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
