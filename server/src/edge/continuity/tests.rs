use proptest::prelude::*;

use super::*;

fn issued(epoch: u32, counter: u64) -> Issued {
    Issued { epoch, counter, nonce: [7; 8] }
}

fn kept(confirmed: Issued, pending: Option<Issued>) -> Option<Kept> {
    Some(Kept { confirmed, pending })
}

/// The table, row by row: what is known, what is shown, what it means. The registry is in epoch 2.
#[test]
fn the_table() {
    use Presented::{Authentic, Foreign, Forged, Nothing};
    let (old, current) = (kept(issued(1, 50), Some(issued(1, 60))), kept(issued(2, 50), Some(issued(2, 60))));
    let confirmed_only = kept(issued(2, 50), None);
    let given_anew = kept(issued(1, 50), Some(issued(2, 60)));
    let history = |counter| Authentic(Issued { nonce: [8; 8], ..issued(2, counter) });
    for (known, shown, sign) in [
        // Nothing was ever confirmed.
        (None, Nothing, Sign::Right),
        (None, Foreign, Sign::Right),
        (None, Authentic(issued(2, 1)), Sign::Right),
        (None, Authentic(issued(9, 1)), Sign::Right),
        (None, Forged, Sign::Forged),
        // Confirmed or pending.
        (current, Authentic(issued(2, 50)), Sign::Right),
        (current, Authentic(issued(2, 60)), Sign::Right),
        (confirmed_only, Authentic(issued(2, 50)), Sign::Right),
        (old, Authentic(issued(1, 50)), Sign::Right),
        (old, Authentic(issued(1, 60)), Sign::Right),
        // Newer: facts were lost.
        (current, Authentic(issued(2, 61)), Sign::Ahead),
        (current, Authentic(issued(3, 1)), Sign::Ahead),
        (confirmed_only, Authentic(issued(2, 51)), Sign::Ahead),
        (old, Authentic(issued(1, 61)), Sign::Ahead),
        (old, Authentic(issued(2, 1)), Sign::Ahead),
        // Of an earlier epoch, and none of this one was confirmed.
        (old, Authentic(issued(1, 49)), Sign::Restored),
        (old, Authentic(issued(1, 55)), Sign::Restored),
        (given_anew, Authentic(issued(1, 55)), Sign::Restored),
        (given_anew, Authentic(issued(1, 99)), Sign::Restored),
        // Older.
        (current, Authentic(issued(2, 49)), Sign::Older),
        (current, Authentic(issued(2, 55)), Sign::Older),
        (current, Authentic(issued(1, 99)), Sign::Older),
        (confirmed_only, Authentic(issued(2, 49)), Sign::Older),
        (given_anew, Authentic(issued(2, 59)), Sign::Older),
        // The same number out of another history.
        (current, history(50), Sign::Older),
        (current, history(60), Sign::Older),
        // Missing or not ours, where one was confirmed.
        (current, Nothing, Sign::Missing),
        (current, Foreign, Sign::Missing),
        (current, Forged, Sign::Forged),
        (old, Nothing, Sign::Missing),
    ] {
        assert_eq!(judge(2, known.as_ref(), shown), sign, "{known:?} {shown:?}");
    }
}

/// Every combination of small numbers.
#[test]
fn the_table_is_whole_and_has_no_way_around_it() {
    let all = || {
        (1..=3_u32).flat_map(|epoch| {
            (1..=3_u64).flat_map(move |counter| {
                (0..=1_u8).map(move |nonce| Issued { epoch, counter, nonce: [nonce; 8] })
            })
        })
    };
    let place = |of: Issued| (of.epoch, of.counter);
    let mut signs = std::collections::HashMap::new();
    for epoch in 1..=3 {
        for confirmed in all() {
            let pending = std::iter::once(None).chain(all().filter(|of| *of > confirmed).map(Some));
            for pending in pending.filter(|of| of.is_none_or(|of| of.epoch <= epoch)) {
                let known = Kept { confirmed, pending };
                for none in [Presented::Nothing, Presented::Foreign] {
                    assert_eq!(judge(epoch, Some(&known), none), Sign::Missing);
                }
                assert_eq!(judge(epoch, Some(&known), Presented::Forged), Sign::Forged);
                for shown in all() {
                    let sign = judge(epoch, Some(&known), Presented::Authentic(shown));
                    *signs.entry(format!("{sign:?}")).or_insert(0) += 1;
                    let is_known = shown == confirmed || Some(shown) == pending;
                    assert_eq!(sign == Sign::Right, is_known, "exactly the tokens it may have");
                    let newer = |than: Issued| place(shown) > place(than);
                    match sign {
                        Sign::Right => {}
                        Sign::Ahead => assert!(newer(confirmed) && pending.is_none_or(newer)),
                        Sign::Restored => assert!(shown.epoch < epoch && confirmed.epoch < epoch),
                        Sign::Older => {
                            assert!(!newer(pending.unwrap_or(confirmed)));
                            assert!(shown.epoch >= epoch || confirmed.epoch >= epoch);
                        }
                        Sign::Missing | Sign::Forged => panic!("{shown:?} is authentic"),
                    }
                }
            }
        }
    }
    assert_eq!(signs.len(), 4, "each is met: {signs:?}");
}

/// The server's side of it, with what its file held after each connect.
struct Server {
    kept: Option<Kept>,
    epoch: u32,
    now_ms: u64,
    history: Vec<Option<Kept>>,
}

impl Server {
    fn new() -> Self {
        Self { kept: None, epoch: 1, now_ms: 1000, history: vec![None] }
    }

    fn connect(&mut self, shown: Option<Issued>) -> (Sign, Issued) {
        self.now_ms += 3;
        let presented = shown.map_or(Presented::Nothing, Presented::Authentic);
        let sign = judge(self.epoch, self.kept.as_ref(), presented);
        let nonce = self.now_ms.to_be_bytes();
        let next;
        (self.kept, next) = follow(self.kept, shown, self.epoch, self.now_ms, nonce);
        self.history.push(self.kept);
        (sign, next)
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The device connects; CONNACK arrives and is kept, or is lost.
    Connect(bool),
    /// The server's newest facts are lost with a crash.
    Crash(prop::sample::Index),
    /// An old copy of the registry takes its place, by the book.
    Restore(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<bool>().prop_map(Step::Connect),
        1 => any::<prop::sample::Index>().prop_map(Step::Crash),
        1 => any::<prop::sample::Index>().prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Whatever is lost on either side, a device that has no double is let in.
    #[test]
    fn a_device_alone_is_never_turned_away(steps in steps()) {
        let mut server = Server::new();
        let mut token = None;
        for step in steps {
            match step {
                Step::Connect(kept) => {
                    let (sign, next) = server.connect(token);
                    prop_assert!(matches!(sign, Sign::Right | Sign::Ahead | Sign::Restored), "{sign:?}");
                    if kept {
                        token = Some(next);
                    }
                }
                Step::Crash(at) => server.kept = *at.get(&server.history),
                Step::Restore(at) => {
                    server.kept = *at.get(&server.history);
                    server.epoch += 1;
                }
            }
        }
    }

    /// Two that share a token are found out when the first of them comes back after the second was there.
    #[test]
    fn a_double_is_found_out_at_the_third_connect(
        before in 1_usize..10,
        lost in prop::collection::vec(any::<bool>(), 10),
        first_is_the_copy in any::<bool>(),
    ) {
        let mut server = Server::new();
        let mut token = Some(server.connect(None).1);
        for lost in lost.into_iter().take(before) {
            let next = server.connect(token).1;
            if !lost {
                token = Some(next);
            }
        }
        let mut holders = [token, token];
        if first_is_the_copy {
            holders.swap(0, 1);
        }
        for turn in [0, 1] {
            let (sign, next) = server.connect(holders[turn]);
            prop_assert_eq!(sign, Sign::Right, "nobody can tell yet");
            holders[turn] = Some(next);
        }
        prop_assert_eq!(server.connect(holders[0]).0, Sign::Older);
    }

    #[test]
    fn a_token_is_never_given_out_twice(steps in steps()) {
        let mut server = Server::new();
        let mut token = None;
        let mut last = 0;
        for step in steps {
            match step {
                Step::Connect(kept) => {
                    let next = server.connect(token).1;
                    prop_assert!(next.counter > last, "{} after {last}", next.counter);
                    last = next.counter;
                    if kept {
                        token = Some(next);
                    }
                }
                Step::Crash(at) | Step::Restore(at) => server.kept = *at.get(&server.history),
            }
        }
    }
}
