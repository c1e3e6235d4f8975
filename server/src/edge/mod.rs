//! The edge: where devices meet the server, and the only room that sees their sockets.
//!
//! # Invariants
//!
//! - A connection is who its own verified certificate says. Nothing else it says of itself is believed.
//! - Nobody talks before the registry said so twice: before the session takes its seat, and after.
//! - PUBACK leaves after the uplink log has answered, never before, and in order.
//! - A session that is ordered closed hands over nothing more once [`CloseWait`] has resolved.
//! - One connection's trouble, whatever it is, is no other's.
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | `listener`, `shard` | a runtime, a thread, a listening socket and an accept loop for each core |
//! | `arrival`, [`proxy`], `admission` | whose connection it is, behind a balancer too; when its handshake begins |
//! | [`tls`] | TLS, all of it; whose certificate passes the handshake |
//! | `connection` | one connection from accept to close |
//! | [`identity`], [`gate`] | who it is; whether it may come in |
//! | [`replay`] | the same answers, without a connection |
//! | [`trust`] | whom the edge believes beyond the registry: authorities, services, the way of verifying |
//! | [`feed`] | what services read: the log from a position, alone or as a group |
//! | [`principal`] | what it may publish, subscribe to and be handed |
//! | `guard`, [`continuity`], [`clones`] | whether it is the device it was before, and the only one |
//! | [`roster`] | who is here; how to reach and how to close them |
//! | [`sessions`] | what is kept of who is not: sessions, queues, wills |
//! | `presence` | what services are told of who is here |
//! | [`mqtt`] | the protocol, without sockets and clocks |
//! | [`farewell`] | how sessions end |
//! | `pace`, [`limits`] | how fast a device may send; every other bound |

mod admission;
mod arrival;
pub mod clones;
mod connection;
pub mod continuity;
pub mod farewell;
pub mod feed;
pub mod figures;
pub mod gate;
pub mod guard;
pub mod handshakes;
pub mod identity;
pub mod limits;
mod listener;
pub mod mqtt;
mod pace;
mod presence;
pub mod principal;
pub mod proxy;
pub mod replay;
pub mod roster;
pub mod sessions;
mod shard;
pub mod tls;
pub mod trust;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize, mpsc},
    thread,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    sync::{oneshot, watch},
    task::spawn_local,
    time::{Instant, sleep, timeout_at},
};

use self::{
    admission::Admission,
    figures::Figures,
    guard::{Guard, Tally},
    limits::SESSIONS_TICK,
    presence::Presences,
    shard::{Node, Phase, Shard},
};
pub use self::{
    farewell::Farewell,
    feed::Tail,
    guard::Seen,
    limits::{Limits, SessionLimits},
    principal::{Principal, Service},
    proxy::{Network, NetworkError},
    roster::{
        Arrival, CloseWait, Closed, DeliverError, Delivered, Downlink, Owner, Protocol, Roster, SessionInfo,
    },
    sessions::Sessions,
    tls::{BrokerCredential, CredentialError},
    trust::{Trust, Verify},
};
use crate::{
    registry::{DisconnectReason, Registry, Verdicts, now_ms},
    revocation::Revocation,
    uplink::Writer,
    zero_touch::ZeroTouch,
};

/// What the edge is given.
pub struct Doors {
    /// Who may talk; and where what happened is recorded.
    pub registry: Registry,
    /// Where messages are stored.
    pub uplink: Writer,
    /// Where services read them.
    pub tail: Arc<Tail>,
    /// Where sessions sit.
    pub roster: Arc<Roster>,
    /// What is kept of those that do not.
    pub sessions: Arc<Sessions>,
    /// How a decision of the edge's own is seen through.
    pub revocation: Revocation,
    /// What the edge shows to devices.
    pub broker: BrokerCredential,
    /// Whom it believes beyond the registry.
    pub trust: Arc<Trust>,
    /// How a device is registered that nobody has registered; `None`: not here.
    pub zero_touch: Option<Arc<ZeroTouch>>,
    /// What an operator has set.
    pub limits: Limits,
}

/// Why the edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The broker's certificate and key cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A thread or its runtime cannot be made.
    #[error("cannot start a shard")]
    Shard(#[source] io::Error),
}

/// The edge, running.
pub struct Edge {
    addr: SocketAddr,
    roster: Arc<Roster>,
    verdicts: Arc<Verdicts>,
    trust: Arc<Trust>,
    tally: Arc<Tally>,
    figures: Arc<Figures>,
    guard: Arc<Guard>,
    presences: Arc<Presences>,
    phase: watch::Sender<Phase>,
    config: watch::Sender<Arc<ServerConfig>>,
    shards: Vec<oneshot::Receiver<()>>,
}

impl Edge {
    /// Listens on `addr` and serves devices, on `shards` threads of its own (at least one).
    ///
    /// # Errors
    /// [`EdgeError`]; nothing runs then.
    pub fn start(doors: Doors, addr: SocketAddr, shards: usize) -> Result<Self, EdgeError> {
        let verdicts = doors.registry.verdicts();
        let trust = doors.trust;
        let tls = tls::server_config(doors.broker, Arc::clone(&verdicts), Arc::clone(&trust))?;
        let (config, config_seen) = watch::channel(tls);
        let (phase, phase_seen) = watch::channel(Phase::Running);
        let listen = |source| EdgeError::Listen { addr, source };
        let listeners = listener::listen(addr, shards.max(1)).map_err(listen)?;
        let addr = listeners[0].local_addr().map_err(listen)?;
        let limits = listener::within_descriptors(doors.limits);
        let (tally, figures) = (Arc::<Tally>::default(), Arc::<Figures>::default());
        let presences = Arc::new(Presences::new(doors.uplink.clone(), Arc::clone(&verdicts)));
        let roster = Arc::clone(&doors.roster);
        let guard = Guard::new(&doors.registry, roster, doors.revocation, limits.clones, Arc::clone(&tally));
        let guard = Arc::new(guard);
        let node = Arc::new(Node {
            admission: Admission::new(&limits, listeners.len()),
            guard: Arc::clone(&guard),
            tally: Arc::clone(&tally),
            figures: Arc::clone(&figures),
            verdicts: Arc::clone(&verdicts),
            facts: doors.registry.facts(),
            registry: doors.registry,
            uplink: doors.uplink,
            groups: doors.sessions.groups(),
            tail: doors.tail,
            sessions: doors.sessions,
            presences: Arc::clone(&presences),
            roster: Arc::clone(&doors.roster),
            trust: Arc::clone(&trust),
            zero_touch: doors.zero_touch,
            limits,
            connections: AtomicUsize::new(0),
            phase: phase_seen,
            config: config_seen,
        });
        let roster = doors.roster;
        let shards = Vec::new();
        let mut edge =
            Self { addr, roster, verdicts, trust, tally, figures, guard, presences, phase, config, shards };
        for (number, listener) in listeners.into_iter().enumerate() {
            // What was started before ends when `edge` is dropped here.
            let shard = start_shard(number, listener, Arc::clone(&node)).map_err(EdgeError::Shard)?;
            edge.shards.push(shard);
        }
        Ok(edge)
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What the guards at the door have seen since the start.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.tally.read()
    }

    /// The same, while it is counted.
    #[must_use]
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// What it has carried since its start, while it is counted.
    #[must_use]
    pub fn figures(&self) -> Arc<Figures> {
        Arc::clone(&self.figures)
    }

    /// The guards themselves: what a device's next CONNECT will be held against.
    #[must_use]
    pub fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.guard)
    }

    /// Shows another certificate to every connection from now on; live ones stay.
    ///
    /// # Errors
    /// [`CredentialError`]; the one before stays.
    pub fn present(&self, broker: BrokerCredential) -> Result<(), CredentialError> {
        let config = tls::server_config(broker, Arc::clone(&self.verdicts), Arc::clone(&self.trust))?;
        self.config.send_replace(config);
        Ok(())
    }

    /// Ends every session with DISCONNECT 0x8B and stops. Nothing more is read; what was handed to the
    /// uplink log is waited for and acknowledged, until `deadline` at most.
    pub async fn stop(self, deadline: Duration) {
        let deadline = Instant::now() + deadline;
        // Whoever is between the gate and its seat sees the phase after it sits, or is found sitting.
        self.phase.send_replace(Phase::Stopping);
        let sessions = self.roster.close_all(DisconnectReason::ServerShutdown);
        let closed = async {
            for session in sessions {
                session.await;
            }
        };
        let _ = timeout_at(deadline, closed).await;
        self.phase.send_replace(Phase::Exit);
        for shard in self.shards {
            // An error says that the thread is gone, which is what is waited for.
            let _ = shard.await;
        }
        // Nobody comes or goes any more: what was said of the last ones goes to the log.
        self.presences.hand_over();
    }
}

/// Starts a thread with a runtime of its own. The receiver resolves when it has ended.
fn start_shard(
    number: usize,
    listener: std::net::TcpListener,
    node: Arc<Node>,
) -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let (started, start) = mpsc::sync_channel(1);
    thread::Builder::new().name(format!("edge-{number}")).spawn(move || {
        // Dropped with the thread, however it ends.
        let _ended: oneshot::Sender<()> = ended;
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let serve = |runtime: LocalRuntime| {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let _ = started.send(Ok(()));
                if number == 0 {
                    spawn_local(keep_time(Arc::clone(&node)));
                }
                Shard::new(node).run(listener).await;
                Ok(())
            })
        };
        if let Err(error) = runtime.and_then(serve) {
            let _ = started.send(Err(error));
        }
    })?;
    match start.recv() {
        Ok(started) => started.map(|()| end),
        Err(_) => Err(io::Error::other("the thread ended at once")),
    }
}

/// What is due of sessions that are away, and who has come and gone, as long as the runtime lives.
async fn keep_time(node: Arc<Node>) {
    loop {
        sleep(SESSIONS_TICK).await;
        node.sessions.tick(now_ms(), &node.trust);
        node.presences.hand_over();
    }
}
