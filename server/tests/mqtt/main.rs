//! What the MQTT specifications ask of a server, statement by statement, against the real edge over real TLS
//! with raw octets. A test is named after its statement: `mqtt5_3_1_0_1` is [MQTT-3.1.0-1] of MQTT 5.0,
//! `mqtt3_3_1_0_1` the one of MQTT 3.1.1. [`inventory`] holds every number and fails when one has neither a
//! test nor a reason.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

/// Makes a test of each line, on a broker of its own, and the list the inventory checks itself against.
macro_rules! statements {
    ($($name:ident => $body:ident($version:expr);)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let mut broker = crate::broker::Broker::start().await;
                Box::pin($body(&mut broker, $version)).await;
                broker.stop().await;
            }
        )*
        pub(crate) const TESTS: &[&str] = &[$(stringify!($name)),*];
    };
}

mod alias;
mod broker;
mod client;
mod connack;
mod connect;
mod connect_form;
mod delivery;
mod disconnect;
mod expiry;
mod flow;
mod inventory;
mod malformed;
mod not_applicable;
mod packets;
mod pending;
mod properties;
mod qos1;
mod qos2;
mod reading;
mod resend;
mod retain;
mod session;
mod shared;
#[path = "../edge/site.rs"]
#[allow(dead_code, reason = "shared with the tests of the edge")]
mod site;
mod subscribe;
mod subscribe_form;
mod topics;
mod trouble;
mod unsubscribe;
mod will;
