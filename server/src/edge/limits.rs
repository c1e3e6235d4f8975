//! Every bound of the edge, with its source: those an operator sets, with their defaults, and those nobody
//! sets. What the wire shares with devices is in [`muster_shared::limits`].
//!
//! # What is dropped when there is no room for what a device is sent
//!
//! | to | QoS 0 | QoS 1 and 2 |
//! |---|---|---|
//! | a session that takes it now | sent | sent; waits for an answer, a receive maximum at a time |
//! | a session that does not take it now | waits in its queue | waits in its queue, on disk |
//! | a queue that is full | goes first, oldest first, behind what is over its time | the new one is not taken, and counted |
//! | a session that ended, or none | dropped | dropped, as nobody waits for it |
//! | a client that does not read | beyond four packets the session ends (M229) | the same; what waits stays in the queue |

use std::{sync::Arc, time::Duration};

use muster_shared::limits::{PACKET_MAX, TLS_FRAGMENT_MAX};

use super::{clones::Policy, proxy::Network};

/// What an operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of the node, finished handshake or not.
    pub connections: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the end of the handshake to a whole CONNECT: "within a reasonable amount of time" (MQTT 5.0
    /// §3.1.4).
    pub connect: Duration,
    /// Octets of a packet from a device; never more than [`PACKET_MAX`].
    pub packet: usize,
    /// Longest a client may ask to stay silent, seconds: one of MQTT 5 that asks for more, or for ever, is
    /// told this (Server Keep Alive, §3.2.2.3.14). `None`: as long as it asks. MQTT 3.1.1 has no word for
    /// it; such a client gets what it asks for.
    pub keep_alive_max_s: Option<u16>,
    /// What a session may take; shared by all of them.
    pub sessions: Arc<SessionLimits>,
    /// Messages a second from one device, over time; [`BURST_S`] seconds' worth of them at once.
    pub messages_per_s: u32,
    /// Handshakes begun in a second, of the whole node; 0: [`HANDSHAKES_PER_S`] for each event loop.
    pub handshakes_per_s: u32,
    /// Handshakes begun in a second from one address; a second's worth of them at once. Those beyond it
    /// wait, in order, up to [`Limits::handshake`].
    pub handshakes_per_address_per_s: u32,
    /// Handshakes of one address that wait or are in progress.
    pub handshakes_per_address: u32,
    /// Balancers: they must say in front of each connection whose it is (PROXY protocol).
    pub balancers: Vec<Network>,
    /// What is made of two holders of one identity.
    pub clones: Policy,
    /// Descriptors of the process that connections leave to its files and to the API.
    pub descriptors_kept: usize,
}

impl Limits {
    /// Handshakes begun in a second, with this many event loops.
    #[must_use]
    pub fn handshakes_per_s_of(&self, shards: u32) -> u32 {
        match self.handshakes_per_s {
            0 => HANDSHAKES_PER_S.saturating_mul(shards),
            per_s => per_s,
        }
    }
}

impl Default for Limits {
    /// A Cortex-M4 at 16 MHz takes 2-3 s for the P-256 operations of a handshake; the rest of its deadline
    /// is a slow link's. A hundred thousand idle connections take about 1 GiB with the kernel's share. One
    /// address may be a carrier's with a fleet behind it: a thousand of its devices at once, and then a
    /// thousand a second.
    fn default() -> Self {
        Self {
            connections: 100_000,
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            packet: PACKET_MAX,
            keep_alive_max_s: None,
            sessions: Arc::default(),
            messages_per_s: 100,
            handshakes_per_s: 0,
            handshakes_per_address_per_s: 1000,
            handshakes_per_address: 1024,
            balancers: Vec::new(),
            clones: Policy::default(),
            descriptors_kept: DESCRIPTORS_KEPT,
        }
    }
}

/// What an operator may set of sessions; defaults below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// [`UPLINK_INFLIGHT_MAX`].
    pub receive_max: u16,
    /// [`TOPIC_ALIAS_MAX`].
    pub topic_alias_max: u16,
    /// [`SUBSCRIPTIONS_MAX`].
    pub subscriptions_max: u16,
    /// [`SERVICE_SUBSCRIPTIONS_MAX`].
    pub service_subscriptions_max: u16,
    /// [`WILL_MAX`].
    pub will_max: u32,
    /// [`SESSION_EXPIRY_MAX_S`].
    pub expiry_max_s: u32,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            receive_max: UPLINK_INFLIGHT_MAX,
            topic_alias_max: TOPIC_ALIAS_MAX,
            subscriptions_max: SUBSCRIPTIONS_MAX as u16,
            service_subscriptions_max: SERVICE_SUBSCRIPTIONS_MAX as u16,
            will_max: WILL_MAX as u32,
            expiry_max_s: SESSION_EXPIRY_MAX_S,
        }
    }
}

// Defaults of what an operator may set.

/// Messages of one connection that wait for the uplink log. Beyond it the connection is not read, so
/// TCP holds the client back. It is also the receive maximum of MQTT 5 (§3.1.2.11.3): a client that
/// heeds it never waits for that reason.
pub const UPLINK_INFLIGHT_MAX: u16 = 128;
/// Topic aliases of one connection, each way: a device's topics have a dozen kinds.
pub const TOPIC_ALIAS_MAX: u16 = 32;
/// Messages that wait for a device's durable session. It comes for them in the order they were sent, a
/// receive maximum at a time: this is some thirty round trips.
pub const QUEUE_MAX: usize = 1000;
/// Octets that wait for a device's durable session, on disk.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;
/// Retained messages of one device: its topics have a dozen kinds, and a few streams.
pub const RETAINED_DEVICE_MAX: usize = 64;
/// Octets of the retained messages of one device: two of the largest size, or all of them at 2 KiB.
pub const RETAINED_DEVICE_BYTES_MAX: usize = 128 * 1024;
/// Octets of all retained messages but the server's own, which are one short one a device. They are held in
/// memory.
pub const RETAINED_BYTES_MAX: usize = 512 << 20;
/// Subscriptions of one device. Its topics have a dozen kinds.
pub const SUBSCRIPTIONS_MAX: usize = 32;
/// Subscriptions of one session of a service: every message is held against each of them.
pub const SERVICE_SUBSCRIPTIONS_MAX: usize = 256;
/// A will's topic, payload and properties together, octets.
pub const WILL_MAX: usize = 8 * 1024;
/// Longest a device's session goes on without a connection, seconds: 30 days. What waits for it is bounded,
/// what it costs meanwhile is not worth longer.
pub const SESSION_EXPIRY_MAX_S: u32 = 30 * 86_400;

/// A bound nobody sets, as `muster config` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Its name here.
    pub name: &'static str,
    /// How much.
    pub value: String,
    /// What it bounds, and where it comes from: its own documentation.
    pub source: String,
}

/// A number or a time, in words.
trait Shown {
    fn shown(&self) -> String;
}

macro_rules! numbers {
    ($($number:ty),+) => {
        $(impl Shown for $number {
            fn shown(&self) -> String {
                self.to_string()
            }
        })+
    };
}

numbers!(usize, u16, u32, u64, i32);

impl Shown for Duration {
    fn shown(&self) -> String {
        let ms = self.as_millis();
        if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
    }
}

/// Bounds, each with its source. What is written here is what is shown.
macro_rules! fixed {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $value:expr;)+) => {
        $($(#[doc = $doc])+ pub const $name: $kind = $value;)+

        /// Every bound that nobody sets.
        #[must_use]
        pub fn fixed() -> Vec<Fixed> {
            vec![$(Fixed {
                name: stringify!($name),
                value: Shown::shown(&$name),
                source: concat!($($doc),+).trim().replace(['`', '[', ']'], ""),
            }),+]
        }
    };
}

fixed! {
    /// What a device may have saved up of [`Limits::messages_per_s`], seconds: an outbox that fills while a
    /// device is away is emptied at once.
    BURST_S: u32 = 10;
    /// How often it is said of a device that it is held back for its pace, milliseconds: notices count by the minute.
    SLOWED_AGAIN_MS: u64 = 60_000;
    /// Connections of one shard that wait for their handshake or are in it. Further ones wait in the kernel's
    /// accept queue, so that a reconnect storm is served in order. Four times what one address may take.
    HANDSHAKES_MAX: usize = 4096;
    /// Handshakes one shard begins in a second when nobody says otherwise: at the 164-270 us of processor time
    /// measured for each, a third to a half of a core; the rest is for those who are connected.
    HANDSHAKES_PER_S: u32 = 2000;
    /// Handshakes of one shard that may begin together: about 10 ms that a connected device waits behind them.
    HANDSHAKE_BURST: u32 = 50;
    /// How late a handshake may begin before the pace slows down: what a connected device's message waits behind
    /// the others' handshakes. Far below the 2 s that a device under attack of its neighbours is promised.
    HANDSHAKE_LAG_MAX: Duration = Duration::from_millis(20);
    /// How many times slower than its rate the pace becomes at most: 125 handshakes a second for each event loop,
    /// which a processor of a tenth of the speed that was measured still does.
    HANDSHAKE_SLOWDOWN_MAX: u32 = 16;
    /// Least time between two changes of the pace: a few times the lag it is to notice.
    PACE_ADJUST: Duration = Duration::from_millis(50);
    /// Addresses told apart at the door; beyond it strangers share one pace. About 5 MiB.
    ADDRESSES_MAX: usize = 65_536;
    /// Least time between two looks through a full table of addresses: what a flood of them costs.
    ADDRESS_SWEEP: Duration = Duration::from_secs(1);
    /// Sessions whose takeovers are remembered before the first look for those that are over.
    TAKEOVERS_SWEEP: usize = 1024;
    /// A line of the PROXY protocol's version 1 with its CRLF (proxy-protocol.txt §2.1).
    PROXY_LINE_MAX: usize = 107;
    /// A header of version 2: 16 octets, 216 of addresses at most, and extensions, of which a client's
    /// certificate is the largest that balancers send.
    PROXY_HEADER_MAX: usize = 4096;
    /// Descriptors that stay free of device connections: registry and uplink log have five connections of three
    /// files each; segments, listeners, event loops and the bus take the rest.
    DESCRIPTORS_KEPT: usize = 64;
    /// Octets of an unfinished handshake flight that are kept: two certificates of the largest size with
    /// their framing, a CertificateVerify and a Finished fit, and so does a 16 KiB record.
    HANDSHAKE_BYTES_MAX: usize = 20 * 1024;
    /// A TLS record at its largest: 2^14 octets of fragment, 256 of expansion, a header (RFC 8446 §5.2).
    RECORD_MAX: usize = (1 << 14) + 256 + 5;
    /// The read buffer of a shard. Holds one whole record beside what a read brings along.
    READ_BUFFER: usize = 64 * 1024;
    /// Reads from one connection before the others have their turn.
    READS_PER_TURN: usize = 4;
    /// QoS 1 messages sent to a device and not acknowledged. A device may ask for less (receive maximum).
    DOWNLINK_INFLIGHT_MAX: u16 = 32;
    /// The same of a service, which takes what a fleet sends: a round trip's worth at full rate.
    SERVICE_INFLIGHT_MAX: u16 = 256;
    /// QoS 2 messages of a 3.1.1 client that it has not released; MQTT 5 has the receive maximum for it.
    UNRELEASED_MAX: usize = 1024;
    /// Messages that wait in a session's mail.
    MAIL_MAX: usize = 64;
    /// Octets of payload that wait in a session's mail.
    MAIL_BYTES_MAX: usize = 256 * 1024;
    /// Sessions of one service that go on without a connection: one for each client id. A client that invents a
    /// new id each time and never ends its sessions is stopped here.
    SERVICE_SESSIONS_MAX: usize = 1024;
    /// Retained messages of one service: one for each device of a large fleet.
    RETAINED_SERVICE_MAX: usize = 1 << 17;
    /// Octets of the retained messages of one service: 1 KiB for each.
    RETAINED_SERVICE_BYTES_MAX: usize = 128 << 20;
    /// Octets written to a connection that its socket has not taken: beyond it the reader is too slow and
    /// the session ends. Four packets of the largest size.
    OUTBOUND_BYTES_MAX: usize = 4 * PACKET_MAX;
    /// SUBSCRIBEs of one session whose retained messages are each sent by themselves; beyond it one for each of its
    /// subscriptions. A client that waits for what it asked for has one.
    REPLAYS_MAX: usize = 64;
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    FILTERS_PER_PACKET_MAX: usize = 64;
    /// Properties in one packet, user properties included (MQTT 5.0 sets no bound).
    PROPERTIES_MAX: usize = 64;
    /// Longest client id read from a CONNECT, octets. One that is longer is no device's.
    CLIENT_ID_MAX: usize = 256;
    /// How long a session's state may differ from the saved one when nothing waits for it, milliseconds.
    SAVE_AFTER_MS: u64 = 200;
    /// How often wills and sessions that are due are looked for, and how long it takes at most until services are
    /// told who is here: a commit four times a second, however fast devices come and go.
    SESSIONS_TICK: Duration = Duration::from_millis(250);
    /// Octets written to one client in one turn, before the others have theirs.
    OUTBOUND_TURN_MAX: usize = 2 * PACKET_MAX;
    /// Messages of the log looked at for one service in one turn.
    FOLLOWED_TURN_MAX: usize = 1024;
    /// Retained messages looked up at a time for a subscription.
    REPLAY_PAGE: usize = 64;
    /// Keep-alive grace: a client is given one and a half times its interval [MQTT-3.1.2-22]. In halves.
    KEEP_ALIVE_HALVES: u64 = 3;
    /// How long a session that takes over waits for the one before it to close its socket.
    TAKEOVER_WAIT: Duration = Duration::from_secs(5);
    /// How long a refused or ended connection lingers for its peer to take the last octets.
    LINGER: Duration = Duration::from_secs(2);
    /// How long the connections a stop has closed are given to go, before the process ends.
    LINGER_AT_STOP: Duration = Duration::from_millis(250);
    /// Pause of the accept loop when the process has no descriptors left.
    ACCEPT_PAUSE: Duration = Duration::from_millis(100);
    /// The kernel's accept queue: a reconnect storm waits there (see also `net.core.somaxconn`).
    ACCEPT_BACKLOG: i32 = 4096;
}

const _: () =
    assert!(HANDSHAKE_BYTES_MAX >= RECORD_MAX, "a record at its largest can be kept while it arrives");
const _: () =
    assert!(READ_BUFFER >= HANDSHAKE_BYTES_MAX + RECORD_MAX, "a read always has room beside what was kept");
const _: () = assert!(MAIL_BYTES_MAX >= PACKET_MAX, "a packet of the largest size can be delivered");
const _: () = assert!(QUEUE_BYTES_MAX >= 2 * PACKET_MAX, "a packet of the largest size can be queued");
const _: () =
    assert!(RETAINED_DEVICE_BYTES_MAX >= 2 * PACKET_MAX, "a packet of the largest size can be retained");
const _: () = assert!(OUTBOUND_BYTES_MAX >= MAIL_BYTES_MAX, "a full mail does not end a session by itself");
const _: () = assert!(PROXY_HEADER_MAX >= 16 + 216 && PROXY_HEADER_MAX >= PROXY_LINE_MAX);
const _: () = assert!(TLS_FRAGMENT_MAX <= 1 << 14);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixed_bound_is_shown_with_what_it_is_and_where_it_comes_from() {
        let all = fixed();
        assert!(all.len() > 30);
        for of in &all {
            assert!(of.source.ends_with('.') && of.source.len() > 20, "{of:?}");
            assert!(!of.value.is_empty() && !of.source.contains('`'), "{of:?}");
        }
        let linger = all.iter().find(|of| of.name == "LINGER").map(|of| of.value.as_str());
        assert_eq!(linger, Some("2s"));
    }
}
