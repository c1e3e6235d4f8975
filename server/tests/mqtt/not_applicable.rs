//! Statements without a test, and why: they bind the client alone, another transport, or a server that lacks
//! what ours has.

const CLIENT: &str = "binds the client alone";
const WEBSOCKET: &str = "there is no WebSocket listener: the transport is TLS over TCP";
const NO_AUTH: &str =
    "the server takes no authentication method and never sends AUTH (see 4.12.0-1, 4.12.0-6)";
const ONE_COPY: &str = "overlapping subscriptions get one copy (see 3.3.4-4)";
const QOS_2: &str = "for servers without QoS 1 or 2; ours has both (see 3.2.2-9)";
const RETAINS: &str = "for servers without retained messages; ours has them";
const LENGTH: &str = "a length of two octets cannot say more; longer ones are refused by size";

/// Statements of MQTT 5.0.
pub(crate) const V5: &[(&str, &str)] = &[
    ("3.1.2-20", CLIENT),
    ("3.1.2-21", CLIENT),
    ("3.1.2-30", CLIENT),
    ("3.2.2-4", CLIENT),
    ("3.2.2-5", CLIENT),
    ("3.2.2-10", QOS_2),
    ("3.2.2-11", CLIENT),
    ("3.2.2-12", QOS_2),
    ("3.2.2-13", RETAINS),
    ("3.2.2-14", CLIENT),
    ("3.2.2-15", CLIENT),
    ("3.2.2-17", CLIENT),
    ("3.2.2-18", CLIENT),
    ("3.2.2-21", CLIENT),
    ("3.3.2-10", CLIENT),
    ("3.3.4-5", ONE_COPY),
    ("3.3.4-8", CLIENT),
    ("3.15.2-1", NO_AUTH),
    ("3.15.2-2", NO_AUTH),
    ("3.15.2-3", NO_AUTH),
    ("4.5.0-2", CLIENT),
    ("4.7.3-3", LENGTH),
    ("4.12.0-2", NO_AUTH),
    ("4.12.0-3", CLIENT),
    ("4.12.0-4", NO_AUTH),
    ("4.12.0-5", NO_AUTH),
    ("4.12.0-7", CLIENT),
    ("4.12.1-1", CLIENT),
    ("4.12.1-2", NO_AUTH),
    ("6.0.0-1", WEBSOCKET),
    ("6.0.0-2", WEBSOCKET),
    ("6.0.0-3", WEBSOCKET),
    ("6.0.0-4", WEBSOCKET),
];

/// Statements of MQTT 3.1.1.
pub(crate) const V3: &[(&str, &str)] = &[
    ("2.3.1-2", CLIENT),
    ("2.3.1-3", CLIENT),
    ("3.1.2-23", CLIENT),
    ("3.1.3-7", CLIENT),
    ("3.14.4-1", CLIENT),
    ("3.14.4-2", CLIENT),
    ("4.5.0-2", CLIENT),
    ("4.7.3-3", LENGTH),
    ("6.0.0-1", WEBSOCKET),
    ("6.0.0-2", WEBSOCKET),
    ("6.0.0-3", WEBSOCKET),
    ("6.0.0-4", WEBSOCKET),
    ("7.0.0-1", "the server opens no connections to other servers"),
    ("7.1.2-1", CLIENT),
];
