//! Messages for the tests of this crate.

use std::sync::Arc;

use bytes::Bytes;
use muster_shared::telemetry::{Boot, Reading, TelemetryBatch, Value};

use super::{Message, Publisher, Writer};
use crate::registry::{
    now_ms,
    testing::{Device, Fleet},
};

pub(crate) const BOOT: Boot = Boot { install: 0xB007, count: 1 };

/// The log in a fleet's folder, which nobody reads.
pub(crate) async fn open(fleet: &Fleet) -> Writer {
    Writer::open(fleet.dir.path(), fleet.registry.verdicts(), Arc::new(()), Box::new(|_| {})).await.unwrap()
}

/// Telemetry number `seq` of a device, with one temperature, named as the edge names it.
pub(crate) fn telemetry(device: &Device, seq: u64, temperature_c: f32) -> Message {
    let mut batch = TelemetryBatch::new(BOOT, seq, 1000);
    batch
        .readings
        .push(Reading {
            sensor: "temperature_c".try_into().unwrap(),
            uptime_ms: 1000,
            value: Value::Float(temperature_c),
        })
        .unwrap();
    let mut room = [0; 1024];
    let payload = Bytes::copy_from_slice(batch.write(&mut room).unwrap());
    Message {
        publisher: Publisher::Device { device: device.key, certificate: device.certificate },
        topic: Bytes::from(format!("acme/{}/telemetry/env", device.serial)),
        name: TelemetryBatch::name(&payload).ok(),
        payload,
        qos: 1,
        retain: false,
        properties: Bytes::new(),
        received_ms: now_ms(),
        state: None,
    }
}
