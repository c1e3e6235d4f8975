//! A device of our firmware as it leaves the factory, without the factory: its flash, written at once.

use muster_firmware::{
    credentials,
    store::{self, Record, Slot, Store},
};
use muster_pki::{
    hierarchy::Hierarchy,
    testing::{self, Credential},
};
use muster_shared::{factory::Endpoint, vendor::VendorPage};
use muster_sim::Flash;
use p256::{SecretKey, pkcs8::DecodePrivateKey as _};

/// The flash of a device with this birth certificate, as it leaves the factory.
pub(crate) async fn provisioned(hierarchy: &Hierarchy, serial: &str, birth: &Credential) -> Flash {
    let page = VendorPage { root_digest: hierarchy.root_digest(), hardware: "sim".try_into().unwrap() };
    let flash = Flash::flashed(&page, [7; 32]);
    let endpoint = Endpoint {
        host: "10.0.2.2",
        port: 8883,
        server_name: "localhost",
        keep_alive_s: 30,
        telemetry_s: 60,
        retry_s_max: 1,
    };
    let mut room = vec![0; 1024];
    let mut write = |value: &dyn Fn(&mut [u8]) -> usize| {
        let len = value(&mut room);
        room[..len].to_vec()
    };
    let subject = write(&|room| postcard::to_slice(&testing::subject(serial), room).unwrap().len());
    let endpoint = write(&|room| postcard::to_slice(&endpoint, room).unwrap().len());
    let key = SecretKey::from_pkcs8_der(&birth.key_pkcs8()).unwrap();
    let mut room = Box::new([0; store::ROOM]);
    let mut store = Store::new(flash.clone(), &mut room);
    for (record, value) in [
        (Record::Subject, &subject[..]),
        (Record::Endpoint, &endpoint),
        (Record::Anchors, &hierarchy.anchors),
        (Record::Key(Slot::Birth), &key.to_bytes()),
        (Record::Certificate(Slot::Birth), &birth.chain[0]),
        (Record::Issuer(Slot::Birth), &birth.chain[1]),
    ] {
        store.put(record, value).await.unwrap();
    }
    credentials::seal(&mut store, Slot::Birth, 1).await.unwrap();
    store.put(Record::Lock, &[1]).await.unwrap();
    drop(store);
    flash
}
