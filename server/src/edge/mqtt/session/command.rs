//! What goes into a session and what comes out of it, besides octets.

use bytes::Bytes;
use muster_shared::{Code, telemetry::Boot};

use super::kept::Kept;
use crate::edge::{
    farewell::Farewell,
    mqtt::packet::Qos,
    roster::{DeliverError, Delivered, Protocol},
};

/// What comes out of a session.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent to the client, in this order.
    pub bytes: Vec<u8>,
    /// To be done, in this order.
    pub commands: Vec<Command>,
    /// Messages among the octets, and those that follow them when they are on disk, by QoS.
    pub sent: [u32; 3],
}

/// What a session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask the gate, then call [`Session::admit`] or [`Session::refuse`]. Nothing is read before.
    ///
    /// [`Session::admit`]: super::Session::admit
    /// [`Session::refuse`]: super::Session::refuse
    Connect(Box<Request>),
    /// Hand this to the uplink log, then call [`Session::settled`] when its fate is known.
    ///
    /// [`Session::settled`]: super::Session::settled
    Append(Uplink),
    /// Hand the will to the uplink log now; nobody waits for its fate.
    AppendWill(Uplink),
    /// The session's connection has ended: hand this will to the uplink log after `delay_s` seconds, or
    /// when the session ends before that; not at all when the session goes on first [MQTT-3.1.3-9]. Its
    /// topic is to be authorised again then.
    HoldWill {
        /// The will.
        will: Uplink,
        /// Seconds; never longer than the session goes on.
        delay_s: u32,
    },
    /// Commit this state of a session that goes on, then call [`Session::settled`]: something waits for
    /// it. Behind what was handed over before it, before what is handed over after it.
    ///
    /// [`Session::settled`]: super::Session::settled
    Save(Box<Kept>),
    /// The state of a session that goes on has changed, and nobody waits for it to be saved: commit
    /// [`Session::kept`] before long, when everything before this was handed over.
    ///
    /// [`Session::kept`]: super::Session::kept
    Changed,
    /// The session's subscriptions have changed; it holds this many now.
    Subscriptions(usize),
    /// What became of the message with this token. A copy that is kept for the session is to be given up
    /// behind the [`Command::Save`] before this.
    Delivered(u64, Result<Delivered, DeliverError>),
    /// Something was refused and the session goes on: for the record.
    Refused(Code),
    /// Send what is to be sent, then close the socket.
    Close(Farewell),
}

/// A client asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The version it speaks.
    pub protocol: Protocol,
    /// The keep-alive it wants to keep, seconds; 0: none.
    pub keep_alive_s: u16,
    /// Why the session itself would refuse it, whatever the registry says.
    pub objection: Option<Code>,
    /// The client id as it was sent; empty asks for one.
    pub client_id: Box<str>,
    /// Clean Start, Clean Session in 3.1.1: the session there may be does not go on.
    pub clean: bool,
    /// How long the session is to go on without a connection, seconds; `u32::MAX`: for ever. In 3.1.1 that
    /// is what a session that is not clean asks for.
    pub expiry_s: u32,
    /// The continuity token it presents.
    pub continuity: Option<Box<str>>,
}

/// What the gate lets a client in with.
#[derive(Debug, Default)]
pub struct Admission<'a> {
    /// The session that goes on.
    pub kept: Option<Kept>,
    /// The client id in force. It is sent to a client that gave none.
    pub client_id: &'a str,
    /// The longest a session goes on without a connection, seconds; `u32::MAX`: for ever.
    pub expiry_max_s: u32,
    /// The longest keep-alive; a client of MQTT 5 that asks for more, or for none, is held to it. In 3.1.1
    /// there is no way to tell it.
    pub keep_alive_max_s: Option<u16>,
    /// The continuity token to hand out.
    pub continuity: Option<&'a str>,
}

/// A message from the client, on a topic it may publish on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The topic.
    pub topic: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// The publisher's.
    pub qos: Qos,
    /// To be retained; with an empty payload, the one retained so far is to be removed [MQTT-3.3.1-6].
    pub retain: bool,
    /// MQTT 5 properties as they came, but for the topic alias and the will delay. A message expiry counts
    /// from when the message was received.
    pub properties: Bytes,
    /// What a repeated one is recognised by: of telemetry, where its payload says it.
    pub name: Option<(Boot, u64)>,
    /// At QoS 2, of a session that goes on: the state to commit together with the message.
    pub state: Option<Box<Kept>>,
}

/// What became of a message or a state that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is on disk.
    Stored,
    /// It was refused at the commit; so was the state that was to be committed with it.
    Refused(Code),
    /// It could not be stored.
    Failed,
}

/// A subscription whose retained messages are due (MQTT 5.0 §3.8.4), in the order of their topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// What the retained messages' topics have to match.
    pub filter: Box<str>,
    /// Retained messages up to this position; later ones come as fresh ones.
    pub up_to: u64,
    /// The topic of the last one that was looked at; `None` before the first.
    pub after: Option<Box<str>>,
}

/// A message to a client.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The payload.
    pub payload: &'a Bytes,
    /// The publisher's.
    pub qos: Qos,
    /// As it was published.
    pub retain: bool,
    /// By which of the client's subscriptions.
    pub via: Via<'a>,
    /// MQTT 5 properties as [`Uplink::properties`] has them.
    pub properties: &'a [u8],
    /// How long ago it was received, seconds.
    pub waited_s: u32,
    /// The client published it itself.
    pub from_self: bool,
    /// Where it stands in the log.
    pub position: u64,
}

/// By which of a client's subscriptions a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via<'a> {
    /// By all that match, made before it was published; shared ones are not asked.
    Filters,
    /// It is a retained one, by the subscription with this filter.
    Replay(&'a str),
    /// By this shared subscription, spelled as in its SUBSCRIBE.
    Share(&'a str),
}
