//! Ordered start and stop of everything `muster serve` runs.
//!
//! ```text
//! start: data directory claimed → keys opened → registry → bus, uplink log, sessions → edge → API → addresses
//! stop:  API (no new decisions) → edge (DISCONNECT 0x8B; what the log holds is acknowledged)
//!        → uplink log → bus → registry → data directory given back
//! ```
//!
//! Each part is stopped only when nothing that uses it runs any more, so nothing acknowledged is lost. The
//! first SIGINT or SIGTERM stops in this order; the second ends the process at once, which loses nothing
//! acknowledged either, since PUBACK waits for the disk.

mod addresses;
mod credentials;
pub mod messages;

use std::{
    io,
    net::SocketAddr,
    num::NonZero,
    path::PathBuf,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use muster_pki::{Purpose, bundle::ServerBundle};
use muster_shared::Code;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tracing_subscriber::EnvFilter;

pub(crate) use addresses::Claim;
pub(crate) use addresses::private as private_file;
pub use addresses::{Addresses, host_secret};
use credentials::{broker_credential, https_resolver, now_s};
pub use messages::{Messages, MessagesError};

use crate::{
    api::{self, error::Problem, serve::Server},
    backup,
    certificate::Renewing,
    config::{Config, Log},
    edge::{Doors, Edge, EdgeError, Limits, Trust, limits::DESCRIPTORS_KEPT},
    init::open_bundle,
    registry::{Actor, Registry, RegistryError, now_ms},
    retention,
    revocation::{Reconciler, Revocation},
    twin::Twins,
    zero_touch::ZeroTouch,
};

/// How long answers under way may take when the server stops.
const API_STOP: Duration = Duration::from_secs(10);
/// How long sessions may take to end: their outstanding messages are a batch or two of the log.
const EDGE_STOP: Duration = Duration::from_secs(10);
/// Threads for the API, the registry and the bus. Devices have threads of their own.
const CONTROL_THREADS: usize = 2;
/// Longest sleep between looks at the certificates' ends: a clock may jump.
const RENEWAL_LOOK: Duration = Duration::from_secs(3600);
/// The exit status of a process that a second signal ended.
const INTERRUPTED: i32 = 130;

/// Serves until a signal. `listening` is called once, when both doors are open.
///
/// # Errors
/// Whatever keeps it from starting: M505, M511, M515 for the configuration and the data directory, M311
/// for the keys, M115 for an address that is taken, M506 for the rest.
pub fn run(config: &Config, listening: impl FnOnce(&Addresses, Option<&FirstLink>)) -> Result<(), Problem> {
    log(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| fault("the runtime cannot be started", &error))?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(|error| fault("signals cannot be taken", &error))?;
        let node = Node::start(config).await?;
        listening(&node.addresses, node.first_link.as_ref());
        tracing::info!(https = %node.addresses.https, mqtt = %node.addresses.mqtt, "listening");
        let registry = node.registry.clone();
        let lost = tokio::select! {
            () = signals.next() => false,
            () = registry.lost() => true,
        };
        tracing::info!("stopping; a second signal ends at once");
        tokio::select! {
            () = node.stop() => {}
            () = signals.next() => {
                tracing::warn!("ended by a second signal");
                std::process::exit(INTERRUPTED);
            }
        }
        tracing::info!("stopped");
        if lost { Err(taken(config)) } else { Ok(()) }
    })
}

/// Another server writes the registry now: what this one knew of it is old.
fn taken(config: &Config) -> Problem {
    Problem::new(Code::RegistryHeld)
        .at(config.registry.url.clone().unwrap_or_default())
        .because("it was taken while this server had lost its connection to it")
}

/// A fault with its cause: what should not happen, said as completely as it is known.
fn fault(what: &str, error: &dyn std::error::Error) -> Problem {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(one) = source {
        why.push_str(&format!(": {one}"));
        source = one.source();
    }
    Problem::new(Code::Fault)
        .what(what)
        .because(why)
        .next("muster config check; then look at the system's log")
}

fn log(log: &Log) -> Result<(), Problem> {
    // The embedded router tells every link and filter of its own; only its troubles are the operator's.
    let level = format!("rumqttd=warn,{}", log.level);
    let filter = EnvFilter::try_new(level).map_err(|error| {
        Problem::new(Code::ConfigInvalid)
            .at(format!("log.level = {:?}", log.level))
            .because(error.to_string())
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let ansi = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    // A subscriber that is there already was set by whoever embeds the server.
    let _ = if log.json { builder.json().try_init() } else { builder.with_ansi(ansi).try_init() };
    Ok(())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Taken and let be: a file that may not grow (RLIMIT_FSIZE) is an error of the write then, like a full
    /// disk, and not the end of the process (setrlimit(2)).
    _file_size: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Everything that runs, in the order it was started.
struct Node {
    addresses: Addresses,
    first_link: Option<FirstLink>,
    _claim: Claim,
    registry: Registry,
    messages: Messages,
    reconciler: Reconciler,
    twins: Twins,
    edge: Arc<Edge>,
    renewal: JoinHandle<()>,
    checkpoints: JoinHandle<()>,
    asking: Arc<api::asking::Asking>,
    jobs: api::jobs::Runner,
    retention: JoinHandle<()>,
    api: Server,
}

impl Node {
    async fn start(config: &Config) -> Result<Self, Problem> {
        let claim = claim(config)?;
        let bundle = bundle(config).await?;
        let registry = registry(config, &bundle).await?;
        let messages = Messages::open_within(&config.data_dir, &registry, config.limits.kept)
            .await
            .map_err(|error| fault("messages cannot be stored", &error))?;
        let Messages { uplink, bus, sessions, .. } = &messages;
        let revocation = Revocation::new(registry.clone(), sessions.clone(), uplink.clone());
        let reconciler = revocation.start();
        let twins = Twins::start(registry.clone(), uplink.clone());
        let broker = Renewing::new(
            &bundle.broker,
            &credentials::names(&config.mqtt.names, config.mqtt.listen),
            now_s(),
        );
        let broker = Arc::new(broker.map_err(|error| fault("no broker certificate", &error))?);
        let trust = Arc::new(trust(config, &bundle));
        let edge = edge(config, &trust, &registry, &messages, &revocation, &broker)?;
        let edge = Arc::new(edge);
        let (resolver, https) = https_resolver(config, &bundle)?;
        let asking = api::asking::Asking::new(config.https.limits)
            .map_err(|error| fault("no random numbers", &error))?;
        let asking = Arc::new(asking);
        let doors = api::Doors {
            registry: registry.clone(),
            roster: sessions.roster().clone(),
            sessions: sessions.clone(),
            revocation,
            uplink: uplink.clone(),
            history: messages.history.clone(),
            held: api::certificates::Held::of(&bundle),
            bus: bus.clone(),
            access: api::attempts::Access::new(claim.host_secret(), config.https.limits.sign_in_failures_max),
            tail: messages.tail.clone(),
            trust,
            asking: asking.clone(),
            figures: edge.figures(),
            guard: edge.guard(),
            facts: Arc::new(api::Facts {
                started_at_ms: now_ms(),
                mqtt: Addresses::new(edge.local_addr(), edge.local_addr()).mqtt,
                data_dir: config.data_dir.clone(),
                limits: config.https.limits,
                body_max: config.https.body_max,
                request: config.https.request,
                keys: config.keys.clone(),
                broker: broker.clone(),
                services: config
                    .services
                    .iter()
                    .filter_map(|of| Some((of.service.name().to_owned(), of.service.tenant()?.clone())))
                    .collect(),
                tally: edge.tally(),
                config: api::config::told(config),
            }),
        };
        let operators: Vec<_> = bundle
            .former_of(Purpose::Operator)
            .chain([&bundle.operator])
            .map(|ca| ca.certificate())
            .collect();
        let tls =
            api::serve::tls(resolver, &operators).map_err(|error| fault("HTTPS cannot be set up", &error))?;
        let listen = config.https.listen;
        let api = Server::start(listen, tls, api::router(doors.clone()), config.https.connections_max)
            .await
            .map_err(|error| cannot_listen("https.listen", listen, &error))?;
        let renewal = tokio::spawn(renew(broker, edge.clone(), https));
        let checkpoints = tokio::spawn(checkpoints(registry.clone()));
        let jobs = api::jobs::start(doors);
        let configured = retention::Configured { periods: config.retention, pinned: config.pinned_periods() };
        let retention = retention::start(configured, registry.clone(), uplink.clone());
        let addresses = Addresses::new(api.local_addr(), edge.local_addr());
        let first_link = first_link(config, &registry, &addresses).await?;
        claim.publish(&addresses).map_err(|error| fault("the addresses cannot be written", &error))?;
        Ok(Self {
            addresses,
            first_link,
            _claim: claim,
            registry,
            messages,
            reconciler,
            twins,
            edge,
            renewal,
            checkpoints,
            retention,
            asking,
            jobs,
            api,
        })
    }

    async fn stop(self) {
        // What lasts would keep the API from ending.
        self.asking.stop();
        self.api.stop(API_STOP).await;
        self.jobs.ended().await;
        for task in [self.renewal, self.checkpoints, self.retention] {
            task.abort();
            let _ = task.await;
        }
        // The renewal task was the only other holder.
        if let Some(edge) = Arc::into_inner(self.edge) {
            edge.stop(EDGE_STOP).await;
        }
        self.reconciler.stop().await;
        self.twins.stop().await;
        self.messages.close().await;
        // What was decided in this run is signed before it ends.
        if let Err(error) = self.registry.audit_checkpoint().await {
            tracing::error!(%error, "the audit log's end is not signed");
        }
        self.registry.close().await;
    }
}

/// The link that lets the first operator in: on a terminal, or in a file of mode 0600; nowhere else.
#[derive(Debug)]
pub enum FirstLink {
    /// For the terminal that standard output is.
    Terminal {
        /// The whole link.
        url: String,
    },
    /// In this file.
    File(PathBuf),
}

/// The first link's file in the data directory, until somebody has signed in.
pub const LINK_FILE: &str = "first-link";

/// Makes a link for the first operator at each start, until somebody has signed in.
async fn first_link(
    config: &Config,
    registry: &Registry,
    addresses: &Addresses,
) -> Result<Option<FirstLink>, Problem> {
    let path = config.data_dir.join(LINK_FILE);
    // The one of the last start has ended, or will soon: it is not left lying about.
    let _ = std::fs::remove_file(&path);
    let Some(operator) = registry.first_operator().await? else { return Ok(None) };
    let link = registry.invite(&Actor::server(), &operator, None).await?;
    let url = format!("{}/once/{}", addresses.https, link.expose_secret());
    if io::IsTerminal::is_terminal(&io::stdout()) && !config.client.output.is_json() {
        return Ok(Some(FirstLink::Terminal { url }));
    }
    private_file(&path, format!("{url}\n").as_bytes())
        .map_err(|error| fault("the first link cannot be written", &error))?;
    Ok(Some(FirstLink::File(path)))
}

/// Rows of the audit log after which it is signed, and the longest a row waits for that.
const CHECKPOINT_ROWS: u64 = 1000;
const CHECKPOINT_WAIT: Duration = Duration::from_secs(600);
/// How often it is looked at.
const CHECKPOINT_LOOK: Duration = Duration::from_secs(5);

/// Signs where the audit log stands, while it grows.
async fn checkpoints(registry: Registry) {
    let (mut signed, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(CHECKPOINT_LOOK).await;
        let at = match registry.audit_head().await {
            Ok(head) => head.no,
            Err(error) => {
                tracing::warn!(%error, "the audit log's end cannot be read");
                continue;
            }
        };
        if at == signed {
            since = Instant::now();
        } else if at - signed.min(at) >= CHECKPOINT_ROWS || since.elapsed() >= CHECKPOINT_WAIT {
            match registry.audit_checkpoint().await {
                Ok(checkpoint) => (signed, since) = (checkpoint.head.no, Instant::now()),
                Err(error) => tracing::error!(%error, "the audit log's end is not signed"),
            }
        }
    }
}

fn claim(config: &Config) -> Result<Claim, Problem> {
    let dir = config.data_dir.display().to_string();
    if !config.keys.bundle.is_dir() {
        return Err(Problem::new(Code::DataDirectory)
            .what("the data directory is not initialised")
            .at(dir)
            .because(format!("there is no key bundle {}", config.keys.bundle.display()))
            .next(format!("muster init --data-dir {}", config.data_dir.display())));
    }
    match Claim::take(&config.data_dir) {
        Ok(Some(_)) if backup::is_unfinished(&config.data_dir) => Err(Problem::new(Code::DataDirectory)
            .at(dir.clone())
            .because("a restore was cut short: what is here does not belong together")
            .next(format!("repeat it: muster restore FILE --force --data-dir {dir}"))),
        Ok(Some(claim)) => Ok(claim),
        Ok(None) => Err(Problem::new(Code::DataDirectoryBusy).at(dir)),
        Err(error) => Err(Problem::new(Code::DataDirectory).at(dir).because(error.to_string())),
    }
}

async fn bundle(config: &Config) -> Result<ServerBundle, Problem> {
    let keys = config.keys.clone();
    // Deriving the keys' keys takes a second of computing.
    let opened = tokio::task::spawn_blocking(move || open_bundle(&keys.bundle, &keys.passphrase_file));
    let (bundle, _) = opened.await.map_err(|error| fault("the keys cannot be opened", &error))??;
    Ok(bundle)
}

async fn registry(config: &Config, bundle: &ServerBundle) -> Result<Registry, Problem> {
    let kept = config.registry.place(&config.data_dir)?;
    let place = |problem: Problem| problem.at(kept.to_string());
    let failed = |error: RegistryError| match error {
        RegistryError::Held(_) | RegistryError::Unfit(_) => place(error.into()),
        error => place(fault("the registry cannot be opened", &error)),
    };
    let registry = Registry::open_at(&config.data_dir, &kept).await.map_err(failed)?;
    let actor = Actor::server();
    let root = bundle.root.der().to_vec().into();
    registry.trust_root(&actor, &root).await.map_err(|error| place(error.into()))?;
    for record in &bundle.stations {
        registry.trust_station(&actor, record).await.map_err(|error| place(error.into()))?;
    }
    Ok(registry)
}

/// Whom the edge believes beyond the registry.
fn trust(config: &Config, bundle: &ServerBundle) -> Trust {
    let services = config.services.iter().map(|entry| entry.service.clone());
    let revoked = config.services.iter().flat_map(|entry| entry.revoked.iter().copied());
    let trust = Trust::new(config.mqtt.verify).operational(bundle.operational.certificate()).services(
        bundle.service.certificate(),
        services,
        revoked,
    );
    bundle.former.iter().map(|ca| ca.certificate()).fold(trust, |trust, ca| match ca.purpose() {
        Purpose::Operational => trust.operational(ca),
        Purpose::Service => trust.former_service(ca),
        _ => trust,
    })
}

fn edge(
    config: &Config,
    trust: &Arc<Trust>,
    registry: &Registry,
    messages: &Messages,
    revocation: &Revocation,
    broker: &Renewing,
) -> Result<Edge, Problem> {
    let zero_touch = ZeroTouch::start(&config.zero_touch, registry).map_err(|unusable| {
        Problem::new(Code::ConfigInvalid)
            .what("what a [[zero_touch]] section names cannot be used")
            .at(format!("{} = {}", unusable.key, unusable.path.display()))
            .because(unusable.why)
    })?;
    let doors = Doors {
        registry: registry.clone(),
        uplink: messages.uplink.clone(),
        tail: messages.tail.clone(),
        roster: messages.sessions.roster().clone(),
        sessions: messages.sessions.clone(),
        revocation: revocation.clone(),
        broker: broker_credential(&broker.current()),
        trust: Arc::clone(trust),
        zero_touch,
        limits: Limits {
            connections: config.limits.connections_max,
            handshake: config.limits.handshake,
            connect: config.limits.connect,
            packet: config.limits.packet_max,
            keep_alive_max_s: Some(config.limits.keep_alive_max_s).filter(|max_s| *max_s > 0),
            sessions: config.limits.sessions.into(),
            messages_per_s: config.limits.messages_per_s,
            handshakes_per_s: config.limits.handshakes_per_s,
            handshakes_per_address_per_s: config.limits.handshakes_per_address_per_s,
            handshakes_per_address: config.limits.handshakes_per_address,
            balancers: config.mqtt.proxy_protocol.clone(),
            clones: config.clones,
            // A connection of the API is a descriptor too.
            descriptors_kept: DESCRIPTORS_KEPT + config.https.connections_max,
        },
    };
    let shards = match config.mqtt.shards {
        0 => available_parallelism().map_or(1, NonZero::get),
        shards => shards,
    };
    Edge::start(doors, config.mqtt.listen, shards).map_err(|error| match error {
        EdgeError::Listen { addr, source } => cannot_listen("mqtt.listen", addr, &source),
        other => fault("the edge cannot be started", &other),
    })
}

fn cannot_listen(key: &str, address: SocketAddr, error: &io::Error) -> Problem {
    let place = format!("{key} {address}");
    if error.kind() == io::ErrorKind::AddrInUse {
        return Problem::new(Code::AddressInUse).at(place);
    }
    Problem::new(Code::ConfigInvalid)
        .what("this address cannot be listened on")
        .at(place)
        .because(error.to_string())
}

/// Renews what this server issued itself, at two thirds of each certificate's life.
async fn renew(broker: Arc<Renewing>, edge: Arc<Edge>, https: Option<Arc<Renewing>>) {
    loop {
        let due = |of: &Renewing| of.due_in(now_s());
        let https_due = https.as_ref().map_or(RENEWAL_LOOK, |https| due(https));
        tokio::time::sleep(due(&broker).min(https_due).clamp(Duration::from_secs(1), RENEWAL_LOOK)).await;
        if due(&broker).is_zero() {
            match broker.renew(now_s()) {
                Ok(own) => {
                    if let Err(error) = edge.present(broker_credential(&own)) {
                        tracing::error!(%error, "the renewed broker certificate is not shown");
                    }
                }
                Err(error) => tracing::error!(%error, "the broker certificate is not renewed"),
            }
        }
        if let Some(https) = https.as_ref().filter(|https| due(https).is_zero())
            && let Err(error) = https.renew(now_s())
        {
            tracing::error!(%error, "the HTTPS certificate is not renewed");
        }
    }
}
