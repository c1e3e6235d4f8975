//! Decisions about groups against live sessions: a tenant, a station, a batch, a CA, a certificate.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use muster_pki::testing::{self, Credential};
use muster_server::{
    edge::{Service, Trust},
    registry::{Act, DeviceState, DisconnectReason, Group, Hold},
};
use muster_shared::Code;

use crate::{
    client::{Client, End, V3, V5, code_in, connect_with, publish, text, tls_of},
    site::{HIERARCHY, PATIENCE, Site, now_s, unknown},
};

fn group(kind: &str) -> Group {
    let station = &HIERARCHY.stations[0];
    match kind {
        "tenant" => Group::Tenant(station.record.tenant.clone()),
        "station" => Group::Station(station.record.station.clone()),
        "batch" => batch("B-0001"),
        "ca" => Group::Ca(station.factory.certificate().key_id()),
        other => panic!("{other}"),
    }
}

fn batch(name: &str) -> Group {
    Group::Batch(HIERARCHY.stations[0].record.station.clone(), name.parse().unwrap())
}

fn of_certificate(credential: &Credential) -> Group {
    Group::Certificate(credential.identity().id)
}

/// A session with a will.
async fn with_will(site: &Site, credential: &Credential) -> Client {
    let topic = format!("acme/{}/app/will", credential.identity().device_id);
    let will = connect_with(V5, 0b0000_1110, 60, &[&text(""), &[0], &text(&topic), &text("gone")]);
    let mut client = Client::open(site, tls_of(credential), V5).await.unwrap();
    client.send(&will).await;
    assert_eq!(client.packet().await.unwrap()[3], 0);
    client
}

/// The session is told this and closed.
async fn ends(client: &mut Client, code: Code) {
    let said = client.packet().await.unwrap();
    assert_eq!((said[0], said[2], code_in(&said)), (0xe0, 0x98, Some(code)), "{said:02x?}");
    assert_eq!(client.end().await, End::Clean);
}

/// What CONNACK says to this one.
async fn told(site: &Site, credential: &Credential) -> Option<Code> {
    let (_, connack) = Client::connecting(site, credential, V5).await;
    code_in(&connack).filter(|_| connack[3] != 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_of_each_kind_of_group_ends_its_sessions_and_no_others() {
    for kind in ["tenant", "station", "batch", "ca", "certificate"] {
        let site = Site::with(3).await;
        let others = [unknown("MU-000011")];
        site.import("B-0002", &others).await;
        let group = if kind == "certificate" { of_certificate(&site.devices[0]) } else { group(kind) };
        let mut members = Vec::new();
        for device in &site.devices {
            members.push(with_will(&site, device).await);
        }
        let mut bystander = Client::connected(&site, &others[0], V5).await;
        let answer = site.decide_group(&group, Act::Revoke).await.unwrap();
        let decided = answer.decided.clone();
        let enforced = answer.enforced().await.unwrap().unwrap();
        let (ended, devices) = match kind {
            "certificate" => (1, 1),
            "batch" => (3, 3),
            _ => (4, 4),
        };
        assert_eq!((enforced.closed_sessions, decided.devices), (ended, devices), "{kind}");
        assert_eq!(site.roster.count() as u64, 4 - ended, "the wait ends when the sessions have: {kind}");
        let code = if kind == "ca" { Code::IssuerWithdrawn } else { Code::CertificateRevoked };
        for (at, client) in members.iter_mut().enumerate() {
            if at == 0 || kind != "certificate" {
                ends(client, code).await;
                assert!(matches!(
                    told(&site, &site.devices[at]).await,
                    Some(Code::CertificateRevoked | Code::IssuerWithdrawn)
                ));
                let ended = site.detail(at).await.sessions[0].ended.map(|(_, why)| why);
                assert_eq!(ended, Some(DisconnectReason::CertificateRevoked));
            } else {
                assert_eq!(client.publish(1, "acme/MU-000002/app/x", b"goes on").await & 0x80, 0);
                break;
            }
        }
        if ended < 4 {
            assert_eq!(bystander.publish(7, "acme/MU-000011/app/x", b"goes on").await & 0x80, 0);
        }
        let wills = site.stored().await.iter().filter(|one| one.topic.ends_with(b"/app/will")).count();
        assert_eq!(wills, 0, "a kicked session takes its will along: {kind}");
        let again = site.decide_group(&group, Act::Revoke).await;
        assert_eq!(again.err().map(|error| error.code()), Some(Code::TransitionNotAllowed));
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_held_for_now_and_let_go_as_it_was() {
    for (kind, act, back, code) in [
        ("batch", Act::Suspend, Act::Resume, Code::DeviceSuspended),
        ("station", Act::Quarantine, Act::Release, Code::DeviceQuarantined),
        ("tenant", Act::Suspend, Act::Resume, Code::DeviceSuspended),
    ] {
        let site = Site::with(2).await;
        site.decide(1, Act::Suspend).await.unwrap().enforced().await.unwrap();
        let mut client = Client::connected(&site, &site.devices[0], V5).await;
        let enforced = site.decide_group(&group(kind), act).await.unwrap().enforced().await.unwrap().unwrap();
        assert_eq!(enforced.closed_sessions, 1);
        ends(&mut client, code).await;
        assert_eq!(told(&site, &site.devices[0]).await, Some(code));
        assert_eq!(site.detail(0).await.row.state, DeviceState::Active, "its own state is as it was");
        assert!(site.decide_group(&group(kind), back).await.unwrap().enforced().await.unwrap().is_none());
        drop(Client::connected(&site, &site.devices[0], V5).await);
        assert_eq!(told(&site, &site.devices[1]).await, Some(Code::DeviceSuspended), "by its own state");
        site.stop().await;
    }
}

/// Devices that publish as fast as they are answered, until they are cut off; the number each was told is
/// stored after `decided`.
fn publishers(
    clients: Vec<Client>,
    ids: Vec<String>,
    decided: &Arc<AtomicBool>,
) -> Vec<tokio::task::JoinHandle<usize>> {
    let publisher = |(mut client, id): (Client, String)| {
        let decided = decided.clone();
        tokio::spawn(async move {
            let (version, topic) = (client.version, format!("acme/{id}/telemetry/climate"));
            let mut late = 0;
            for packet in 1..=u16::MAX {
                let after = decided.load(Ordering::SeqCst);
                client.send(&publish(version, 1, packet, &topic, &packet.to_be_bytes())).await;
                match client.packet().await {
                    Ok(answer) if answer[0] == 0x40 && answer.get(4).is_none_or(|reason| *reason < 0x80) => {
                        late += usize::from(after);
                    }
                    _ => break,
                }
            }
            late
        })
    };
    clients.into_iter().zip(ids).map(publisher).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_batch_is_accepted_after_its_revocation_was_answered() {
    const DEVICES: usize = 4;
    let site = Arc::new(Site::with(1).await);
    for round in 0..24 {
        let credentials: Vec<_> =
            (0..DEVICES).map(|n| unknown(&format!("MU-{:06}", 100 + round * DEVICES + n))).collect();
        let name = format!("B-1{round:03}");
        site.import(&name, &credentials).await;
        let mut clients = Vec::new();
        for (n, device) in credentials.iter().enumerate() {
            clients.push(Client::connected(&site, device, if n % 2 == 0 { V3 } else { V5 }).await);
        }
        let ids = credentials.iter().map(|device| device.identity().device_id.to_string()).collect();
        let (before, decided) = (site.stored().await.len(), Arc::new(AtomicBool::new(false)));
        let publishers = publishers(clients, ids, &decided);
        while site.stored().await.len() < before + 2 * DEVICES {
            tokio::task::yield_now().await;
        }
        let answer = site.decide_group(&batch(&name), Act::Revoke).await.unwrap();
        decided.store(true, Ordering::SeqCst);
        let held = site.stored().await.len();
        let enforced = answer.enforced().await.unwrap().unwrap();
        assert_eq!(enforced.closed_sessions, DEVICES as u64, "round {round}");
        for publisher in publishers {
            assert_eq!(publisher.await.unwrap(), 0, "round {round}");
        }
        assert_eq!(site.stored().await.len(), held, "not one more, round {round}");
    }
    assert_eq!(site.roster.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_holds_for_who_is_imported_later() {
    for kind in ["station", "tenant", "ca"] {
        let site = Site::with(1).await;
        site.decide_group(&group(kind), Act::Revoke).await.unwrap().enforced().await.unwrap();
        let late = unknown("MU-000021");
        site.import("B-0002", std::slice::from_ref(&late)).await;
        let code = if kind == "ca" { Code::IssuerWithdrawn } else { Code::CertificateRevoked };
        assert_eq!(told(&site, &late).await, Some(code), "{kind}");
        let site = site.restarted(Trust::default()).await;
        assert!(told(&site, &late).await.is_some(), "after a restart: {kind}");
        site.stop().await;
    }
    let site = Site::with(1).await;
    let late = unknown("MU-000022");
    site.decide_group(&of_certificate(&late), Act::Revoke).await.unwrap().enforced().await.unwrap();
    assert_eq!(told(&site, &late).await, Some(Code::CertificateRevoked), "not imported yet");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_revoked_batch_follow_its_rule() {
    let site = Site::with(3).await;
    site.decide_group(&batch("B-0001"), Act::Revoke).await.unwrap().enforced().await.unwrap();
    let followed = async {
        while site.detail(2).await.row.state != DeviceState::Revoked {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, followed).await.expect("in time");
    for device in 0..3 {
        let detail = site.detail(device).await;
        assert_eq!(detail.row.state, DeviceState::Revoked);
        assert!(detail.certificates.iter().all(|certificate| certificate.revoked.is_some()));
        assert_eq!(detail.why.unwrap().action, "batch.revoke");
    }
    let site = site.restarted(Trust::default()).await;
    assert_eq!(told(&site, &site.devices[0]).await, Some(Code::CertificateRevoked));
    assert_eq!(site.registry.verdicts().held(&batch("B-0001")), Some(Hold::Revoked));
    site.stop().await;
}

fn historian() -> (Trust, Credential) {
    let entry = Service::new("historian".parse().unwrap(), None, ["#"], ["#"]).unwrap();
    let trust = Trust::default().services(HIERARCHY.service.certificate(), [Arc::new(entry)], []);
    (trust, testing::named(&HIERARCHY.service, "historian", now_s()))
}

fn service_certificate(credential: &Credential) -> Group {
    let identity = muster_pki::ServiceIdentity::from_certificate(&credential.chain[0]).unwrap();
    Group::Certificate(identity.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_service_is_withdrawn_while_it_talks() {
    let (trust, lost) = historian();
    let site = Arc::new(Site::trusting(1, trust).await);
    let mut client = Client::connected(&site, &lost, V5).await;
    let decided = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn({
        let decided = decided.clone();
        async move {
            let mut late = 0;
            for id in 1..=u16::MAX {
                let after = decided.load(Ordering::SeqCst);
                client.send(&publish(V5, 1, id, "acme/fleet/news", b"x")).await;
                match client.packet().await {
                    Ok(answer) if answer[0] == 0x40 && answer.get(4).is_none_or(|reason| *reason < 0x80) => {
                        late += usize::from(after);
                    }
                    _ => break,
                }
            }
            late
        }
    });
    while site.stored().await.len() < 20 {
        tokio::task::yield_now().await;
    }
    let answer = site.decide_group(&service_certificate(&lost), Act::Revoke).await.unwrap();
    decided.store(true, Ordering::SeqCst);
    let held = site.stored().await.len();
    assert_eq!(answer.enforced().await.unwrap().unwrap().closed_sessions, 1);
    assert_eq!(publisher.await.unwrap(), 0);
    assert_eq!(site.stored().await.len(), held, "not one more");
    assert_eq!(told(&site, &lost).await, Some(Code::CertificateRevoked));
    let (_, another) = historian();
    let mut client = Client::connected(&site, &another, V5).await;
    assert_eq!(client.publish(1, "acme/fleet/news", b"back").await & 0x80, 0, "the service itself goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_service_authority_ends_every_service() {
    let (trust, one) = historian();
    let site = Site::trusting(1, trust).await;
    let mut service = Client::connected(&site, &one, V5).await;
    let mut device = Client::connected(&site, &site.devices[0], V5).await;
    let ca = Group::Ca(HIERARCHY.service.certificate().key_id());
    let enforced = site.decide_group(&ca, Act::Revoke).await.unwrap().enforced().await.unwrap().unwrap();
    assert_eq!(enforced.closed_sessions, 1);
    ends(&mut service, Code::IssuerWithdrawn).await;
    assert_eq!(told(&site, &one).await, Some(Code::IssuerWithdrawn));
    assert_eq!(device.publish(1, "acme/MU-000001/app/x", b"goes on").await & 0x80, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_suspended_batch_stays() {
    let (trust, one) = historian();
    let site = Site::trusting(2, trust).await;
    let mut device = Client::connected(&site, &site.devices[0], V5).await;
    let topic = "acme/MU-000001/app/kept";
    device.send(&[&[0x33][..], &publish(V5, 1, 1, topic, b"kept")[1..]].concat()).await;
    assert_eq!(device.packet().await.unwrap()[0], 0x40);
    site.decide_group(&batch("B-0001"), Act::Suspend).await.unwrap().enforced().await.unwrap();
    let mut service = Client::connected(&site, &one, V3).await;
    assert_eq!(service.subscribe(topic).await, 1);
    service.send(&[0xc0, 0]).await;
    assert_eq!(service.packet().await.unwrap(), [0xd0, 0], "nothing is retained of it");
    site.stop().await;
}
