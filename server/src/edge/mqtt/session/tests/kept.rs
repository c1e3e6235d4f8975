//! The form on disk of what goes on. Do not change the golden octets: they are as servers have written them;
//! a new version gets octets of its own, and these must still be read.

use proptest::prelude::*;

use super::{
    super::{
        kept::{Released, Sent},
        subscriptions::Subscriptions,
    },
    *,
};

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn subscription(filter: &str, flags: u8, id: u32, since: u64) -> Arc<Subscription> {
    Subscription::restored(filter, flags, id, since).unwrap()
}

#[test]
fn golden_version_1() {
    let kept = Kept {
        expiry_s: 3600,
        last_id: 300,
        subscriptions: Subscriptions::restored(vec![
            subscription("acme/MU-1/#", 0b1101, 7, 41),
            subscription("$share/g/a/+", 2, 0, 0),
        ]),
        inflight: vec![Sent { id: 299, qos: Qos::AtLeastOnce, token: 1000 }],
        released: vec![Released { id: 300, token: 1001 }],
        unreleased: vec![5, 6],
        replays: Vec::new(),
    };
    let golden = "01901cac02020b61636d652f4d552d312f230d07290c2473686172652f672f612f2b02000001ab0201e807\
                  01ac02e907020506";
    assert_eq!(hex(&kept.encode()), golden);
    assert_eq!(Kept::decode(&kept.encode()), Ok(kept));
    assert_eq!(hex(&Kept::default().encode()), "0100000000000000".get(..14).unwrap());
}

#[test]
fn golden_version_2() {
    let due = |filter: &str, after: Option<&str>| Replay {
        filter: filter.into(),
        up_to: 300,
        after: after.map(Into::into),
    };
    let kept = Kept {
        expiry_s: 60,
        subscriptions: Subscriptions::restored(vec![
            subscription("a/#", 1, 0, 3),
            subscription("b", 0, 0, 3),
        ]),
        replays: vec![due("b", None), due("a/#", Some("a/x"))],
        ..Kept::default()
    };
    assert_eq!(hex(&kept.encode()), "023c000203612f2301000301620000030000000201ac020000ac020103612f78");
    assert_eq!(Kept::decode(&kept.encode()), Ok(kept));
}

#[test]
fn what_no_server_wrote_is_refused() {
    assert_eq!(Kept::decode(&[]), Err(KeptError::Malformed));
    assert_eq!(Kept::decode(&[0]), Err(KeptError::Malformed));
    assert_eq!(Kept::decode(&[3, 0, 0, 0, 0, 0, 0]), Err(KeptError::Version(3)));
    assert_eq!(Kept::decode(&[1, 0, 0, 0, 0, 0, 0]), Ok(Kept::default()));
    for bad in [
        &[1, 0, 0, 0, 0, 0][..],                        // cut short
        &[1, 0, 0, 0, 0, 0, 0, 0],                      // octets behind the end
        &[1, 0, 0, 1, 1, b'#', 3, 0, 0, 0, 0, 0],       // QoS 3
        &[1, 0, 0, 1, 2, b'#', b'a', 0, 0, 0, 0, 0, 0], // no filter
        &[1, 0, 0, 0, 1, 5, 0, 9, 0, 0],                // in flight at QoS 0
        &[1, 0, 0, 0, 1, 0, 1, 9, 0, 0],                // packet identifier 0
        &[1, 0, 0, 0, 1, 5, 1, 9, 1, 5, 9, 0],          // one identifier, two messages
        &[1, 0, 0, 0, 0, 0, 2, 5, 5],                   // one identifier twice
        &[2, 0, 0, 0, 0, 0, 0],                         // no list of what is due
        &[2, 0, 0, 0, 0, 0, 0, 1, 0, 9, 0],             // due to no subscription
        &[2, 0, 0, 0, 0, 0, 0, 0, 0],                   // octets behind the end
    ] {
        assert_eq!(Kept::decode(bad), Err(KeptError::Malformed), "{bad:?}");
    }
}

#[test]
fn an_offline_session_says_what_it_wants() {
    let kept = Kept {
        subscriptions: Subscriptions::restored(vec![
            subscription("acme/MU-1/#", 0, 0, 9),
            subscription("acme/MU-1/app/+", 0b101, 0, 9),
            subscription("$share/g/acme/#", 2, 0, 0),
        ]),
        ..Kept::default()
    };
    assert_eq!(kept.wants("acme/MU-1/twin/desired", false), Some(Qos::AtMostOnce));
    assert_eq!(kept.wants("acme/MU-1/app/x", false), Some(Qos::AtLeastOnce));
    assert_eq!(kept.wants("acme/MU-1/app/x", true), Some(Qos::AtMostOnce), "no-local");
    assert_eq!(kept.wants("acme/MU-2/app/x", false), None, "a shared one is not asked");
    let [.., shared] = &kept.subscriptions().collect::<Vec<_>>()[..] else { panic!("three") };
    assert_eq!(shared.share(), Some(("g", "acme/#")));
}

fn subscriptions() -> impl Strategy<Value = Subscriptions> {
    let one = ("[a-z]{1,4}(/[a-z+]?){0,3}(/#)?", 0u8..3, any::<[bool; 3]>(), any::<u32>(), any::<u64>());
    prop::collection::vec(one, 0..8).prop_map(|all| {
        let all = all.into_iter().filter_map(|(filter, qos, [local, retain, share], id, since)| {
            let filter = if share { format!("$share/g/{filter}") } else { filter };
            Subscription::restored(&filter, qos | u8::from(local) << 2 | u8::from(retain) << 3, id, since)
        });
        Subscriptions::restored(all.collect())
    })
}

fn kept() -> impl Strategy<Value = Kept> {
    let ids = || prop::collection::btree_set(1u16.., 0..20);
    let token = any::<u64>();
    let due = any::<[Option<(u64, bool)>; 8]>();
    let rest = (token, any::<bool>(), due);
    (any::<u32>(), any::<u16>(), subscriptions(), ids(), ids(), rest).prop_map(
        |(expiry_s, last_id, subscriptions, ours, theirs, (token, first, due))| {
            let due = subscriptions.iter().zip(due).filter(|(of, _)| of.share().is_none());
            let replay = |(of, due): (&Arc<Subscription>, Option<(u64, bool)>)| {
                let (up_to, begun) = due?;
                let after = begun.then(|| "a/b".into());
                Some(Replay { filter: of.filter().into(), up_to, after })
            };
            let mut replays: Vec<Replay> = due.filter_map(replay).collect();
            // The strategy may make one filter twice, which no session does.
            let mut filters = std::collections::BTreeSet::new();
            replays.retain(|one| filters.insert(one.filter.clone()));
            let (sent, received): (Vec<_>, Vec<_>) = ours.into_iter().partition(|id| (id % 3 == 0) == first);
            let qos = |id| if id % 2 == 0 { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
            let token = |id: u16| token.wrapping_add(u64::from(id));
            Kept {
                expiry_s,
                last_id,
                subscriptions,
                inflight: sent.into_iter().map(|id| Sent { id, qos: qos(id), token: token(id) }).collect(),
                released: received.into_iter().map(|id| Released { id, token: token(id) }).collect(),
                unreleased: theirs.into_iter().collect(),
                replays,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_was_written_is_read_back(kept in kept()) {
        prop_assert_eq!(Kept::decode(&kept.encode()), Ok(kept));
    }

    #[test]
    fn what_is_resumed_is_what_is_kept(kept in kept()) {
        let mut kept = kept;
        kept.expiry_s = 3600;
        let client = Client::durable(V5, Some(kept.clone()));
        prop_assert_eq!(client.session.kept(), Some(kept));
    }

    #[test]
    fn any_octets_are_refused_or_read(version in 1u8..3, octets in prop::collection::vec(any::<u8>(), 0..80)) {
        let octets = [&[version][..], &octets].concat();
        if let Ok(kept) = Kept::decode(&octets) {
            prop_assert_eq!(Kept::decode(&kept.encode()), Ok(kept));
        }
    }
}
