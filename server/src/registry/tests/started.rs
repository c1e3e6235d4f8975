//! What a start knows of a fleet that comes in more than one row.

use muster_shared::{CertificateId, Code};
use sha2::{Digest as _, Sha256};

use super::Fleet;
use crate::registry::{DeviceState, RegistryError, now_ms};

/// Two rows of devices, and a few.
const DEVICES: u64 = 2 * 1024 + 3;
/// One of the second row.
const SUSPENDED: u64 = 1025;

/// Every device is found by its name and by its certificate, in its state.
fn all_are_known(fleet: &Fleet) {
    let verdicts = fleet.registry.verdicts();
    assert_eq!((verdicts.devices(), verdicts.certificates()), (DEVICES as usize, DEVICES as usize));
    let (tenant, now_s) = ("acme".parse().unwrap(), (now_ms() / 1000) as i64);
    for n in 1..=DEVICES {
        let id = CertificateId(Sha256::digest((n as i64).to_be_bytes()).into());
        let device = verdicts.by_id(&tenant, &format!("gr-{n:06}").parse().unwrap());
        let known = verdicts.certificate(&id).unwrap();
        assert_eq!(device, Some(known.device), "{n}");
        assert_eq!(verdicts.name(known.device).serial.as_str(), format!("GR-{n:06}"));
        let expected = if n == SUSPENDED { Err(Code::DeviceSuspended) } else { Ok(DeviceState::Registered) };
        assert_eq!(verdicts.may_talk(known.device, &id, now_s), expected, "{n}");
    }
}

#[tokio::test]
async fn every_device_is_known_at_a_start_and_after_reading_it_all_again() {
    let fleet = Fleet::empty().await.grown(DEVICES as usize).await;
    fleet
        .each("UPDATE device SET state = 'suspended', changed_no = $2 WHERE id = $1", |id| {
            (id == SUSPENDED).then_some(1)
        })
        .await;
    let fleet = fleet.reopened().await;
    all_are_known(&fleet);
    // As after a commit that failed: over the writer's own connection, into verdicts that hold it all.
    let inner = &fleet.registry.inner;
    {
        let mut writer = inner.writer().await.unwrap();
        inner.load(writer.connection().unwrap(), None).await.unwrap();
    }
    all_are_known(&fleet);
}

#[tokio::test]
async fn a_row_that_is_not_what_was_written_ends_the_start() {
    let fleet = Fleet::empty().await.grown(DEVICES as usize).await;
    fleet
        .each("UPDATE certificate SET status = 'odd', added_at_ms = $2 WHERE device = $1", |id| {
            (id == DEVICES).then_some(1)
        })
        .await;
    let (dir, place) = (fleet.dir.path(), fleet.place());
    fleet.registry.close().await;
    let ended = crate::registry::Registry::open_at(dir, &place).await.map(drop).unwrap_err();
    assert!(matches!(&ended, RegistryError::Damaged(why) if why.contains("a certificate's row")), "{ended}");
}
