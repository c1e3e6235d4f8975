//! The form of SUBSCRIBE and UNSUBSCRIBE (§3.8.1, §3.8.3, §3.10.1, §3.10.3).

use crate::{
    broker::Broker,
    packets::{V3, V5, packet, subscribe, unsubscribe},
};

const ILL_FORMED: [&[u8]; 5] = [&[0xff], &[0xc3, 0x28], &[0xed, 0xa0, 0x80], &[0xc0, 0xaf], b"a\0b"];

async fn refused(broker: &Broker, version: u8, octets: &[u8], reasons: &[u8]) {
    let mut client = broker.client(version, "a").await;
    client.send(octets).await;
    client.closed_for(reasons).await;
}

/// A packet with other flags than 0b0010.
async fn flags_are_fixed(broker: &Broker, version: u8, octets: &[u8]) {
    for flags in [0b0000, 0b0001, 0b0011, 0b0110, 0b1010, 0b1111] {
        let mut octets = octets.to_vec();
        octets[0] = octets[0] & 0xf0 | flags;
        refused(broker, version, &octets, &[0x81]).await;
    }
}

async fn the_flags_of_subscribe_are_fixed(broker: &mut Broker, version: u8) {
    flags_are_fixed(broker, version, &subscribe(version, 1, &[], &[("t", 1)])).await;
}

async fn the_flags_of_unsubscribe_are_fixed(broker: &mut Broker, version: u8) {
    flags_are_fixed(broker, version, &unsubscribe(version, 1, &["t"])).await;
}

async fn filters_of_subscribe_are_utf_8(broker: &mut Broker, version: u8) {
    for filter in ILL_FORMED {
        let octets = subscribe(version, 1, &[], &[(&b"fine"[..], 1), (filter, 1)]);
        refused(broker, version, &octets, &[0x81, 0x82, 0x8f]).await;
    }
}

async fn filters_of_unsubscribe_are_utf_8(broker: &mut Broker, version: u8) {
    for filter in ILL_FORMED {
        let octets = unsubscribe(version, 1, &[&b"fine"[..], filter]);
        refused(broker, version, &octets, &[0x81, 0x82, 0x8f]).await;
    }
}

async fn a_subscribe_has_a_filter(broker: &mut Broker, version: u8) {
    refused(broker, version, &subscribe::<&str>(version, 1, &[], &[]), &[0x81, 0x82]).await;
    // A filter whose options are missing is none.
    let whole = subscribe(version, 1, &[], &[("t", 1)]);
    let cut = packet(0x82, &[&whole[2..whole.len() - 1]]);
    refused(broker, version, &cut, &[0x81]).await;
}

async fn an_unsubscribe_has_a_filter(broker: &mut Broker, version: u8) {
    refused(broker, version, &unsubscribe::<&str>(version, 1, &[]), &[0x81, 0x82]).await;
}

async fn no_local_is_not_for_shared_subscriptions(broker: &mut Broker, version: u8) {
    let octets = subscribe(version, 1, &[], &[("$share/group/t", 0b101)]);
    refused(broker, version, &octets, &[0x82]).await;
}

async fn reserved_bits_of_the_options_are_zero(broker: &mut Broker, version: u8) {
    let bad: &[u8] = if version == V5 {
        // The two highest bits; QoS 3; retain handling 3.
        &[0x40, 0x80, 0xc1, 0x03, 0x31]
    } else {
        &[0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xfc, 0x03]
    };
    for options in bad {
        let octets = subscribe(version, 1, &[], &[("fine", 1), ("t", *options)]);
        refused(broker, version, &octets, &[0x81, 0x82]).await;
    }
}

async fn wildcards_are_supported(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for filter in ["#", "+", "a/#", "+/+", "a/+/b", "/#", "+/"] {
        assert_eq!(client.subscribe(filter, 1).await, 1, "{filter}");
    }
}

statements! {
    mqtt5_3_8_1_1 => the_flags_of_subscribe_are_fixed(V5);
    mqtt3_3_8_1_1 => the_flags_of_subscribe_are_fixed(V3);
    mqtt5_3_10_1_1 => the_flags_of_unsubscribe_are_fixed(V5);
    mqtt3_3_10_1_1 => the_flags_of_unsubscribe_are_fixed(V3);
    mqtt5_3_8_3_1 => filters_of_subscribe_are_utf_8(V5);
    mqtt3_3_8_3_1 => filters_of_subscribe_are_utf_8(V3);
    mqtt5_3_10_3_1 => filters_of_unsubscribe_are_utf_8(V5);
    mqtt3_3_10_3_1 => filters_of_unsubscribe_are_utf_8(V3);
    mqtt5_3_8_3_2 => a_subscribe_has_a_filter(V5);
    mqtt3_3_8_3_3 => a_subscribe_has_a_filter(V3);
    mqtt5_3_10_3_2 => an_unsubscribe_has_a_filter(V5);
    mqtt3_3_10_3_2 => an_unsubscribe_has_a_filter(V3);
    mqtt5_3_8_3_4 => no_local_is_not_for_shared_subscriptions(V5);
    mqtt5_3_8_3_5 => reserved_bits_of_the_options_are_zero(V5);
    mqtt3_3_8_3_4 => reserved_bits_of_the_options_are_zero(V3);
    mqtt3_3_8_3_2 => wildcards_are_supported(V3);
}
