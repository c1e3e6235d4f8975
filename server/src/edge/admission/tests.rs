use proptest::prelude::*;

use super::*;

const SWEEP_US: u64 = ADDRESS_SWEEP.as_micros() as u64;

fn limits() -> Limits {
    Limits {
        handshakes_per_s: 1000,
        handshakes_per_address_per_s: 100,
        handshakes_per_address: 40,
        ..Limits::default()
    }
}

fn address(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))
}

#[test]
fn an_address_has_its_places_and_gets_them_back() {
    let door = Admission::new(&limits(), 2);
    let visits: Vec<_> = (0..40).map_while(|_| door.arrive(address(1))).collect();
    assert_eq!(visits.len(), 40);
    assert!(door.arrive(address(1)).is_none());
    assert!(door.arrive(address(2)).is_some(), "the next address is not concerned");
    drop(visits);
    assert!(door.arrive(address(1)).is_some());
}

#[test]
fn an_address_that_is_too_fast_waits_behind_its_own_and_then_is_turned_away() {
    let limits = Limits { handshakes_per_address: 10_000, ..limits() };
    let door = Admission::new(&limits, 1);
    let mut last_us = 0;
    let mut placed = 0;
    while let Some((_, at_us)) = door.place(address(1), 0) {
        assert!(at_us >= last_us, "in order");
        last_us = at_us;
        placed += 1;
    }
    // A second's worth at once, then as many as a client waits for: the handshake's deadline.
    assert_eq!(placed, 100 + 100 * 10 + 1);
    assert_eq!(last_us, 10_000_000);
    assert!(matches!(door.place(address(2), 0), Some((_, 0))));
}

#[test]
fn ipv6_clients_are_told_apart_by_their_first_half() {
    let door = Admission::new(&Limits { handshakes_per_address: 1, ..limits() }, 1);
    let arrive = |text: &str| door.arrive(text.parse().unwrap());
    let _one = arrive("2001:db8:0:1::7").unwrap();
    assert!(arrive("2001:db8:0:1:ffff::9").is_none());
    let _other = arrive("2001:db8:0:2::7").unwrap();
    let _mapped = arrive("::ffff:10.0.0.1").unwrap();
    assert!(arrive("10.0.0.1").is_none(), "an IPv4 client is one however a socket spells it");
}

#[test]
fn addresses_that_say_nothing_any_more_are_forgotten() {
    let door = Admission::new(&limits(), 1);
    for n in 0..ADDRESSES_MAX as u32 {
        let (who, _) = door.place(address(n), 0).unwrap();
        door.leave(who, 0);
    }
    // None is past its pace yet: those who come now share one entry.
    let full = door.place(address(1 << 20), 0).unwrap();
    assert_eq!(full.0, Who::Others);
    assert_eq!(door.addresses.lock().known.len(), ADDRESSES_MAX + 1);
    door.leave(full.0, 0);
    let later = door.place(address(1 << 21), 2 * SWEEP_US).unwrap();
    assert_eq!(later.0, Who::of(address(1 << 21)));
    assert_eq!(door.addresses.lock().known.len(), 1);
    door.leave(later.0, 4 * SWEEP_US);
    assert!(door.addresses.lock().known.is_empty());
}

#[test]
fn a_pace_slows_down_while_the_loop_is_behind_and_comes_back() {
    let pace = Pace::new(Rate::new(1000, 0));
    let mut now_us = 0;
    // How many begin in a tenth of a second, each as late as this.
    let mut in_a_tenth = |late_us: u64| {
        let end_us = now_us + 100_000;
        let mut begun = 0;
        loop {
            let at_us = pace.take(now_us);
            now_us = at_us.max(now_us);
            if now_us >= end_us {
                return begun;
            }
            begun += 1;
            pace.begun(late_us, now_us);
        }
    };
    assert_eq!(in_a_tenth(0), 100);
    let behind: Vec<_> = (0..40).map(|_| in_a_tenth(60_000)).collect();
    assert!(behind.is_sorted_by(|before, after| after <= before), "{behind:?}");
    assert!((6..=8).contains(&behind[39]), "a sixteenth is left: {behind:?}");
    let again: Vec<_> = (0..200).map(|_| in_a_tenth(500)).collect();
    assert!(again[199] >= 99 && again.iter().all(|begun| *begun <= 101), "{again:?}");
    let so_so: Vec<_> = (0..10).map(|_| in_a_tenth(10_000)).collect();
    assert!(so_so.iter().all(|begun| *begun >= 99), "neither late nor early changes nothing: {so_so:?}");
}

#[test]
fn without_a_number_the_pace_follows_from_the_event_loops() {
    let automatic = Limits { handshakes_per_s: 0, ..limits() };
    assert_eq!(automatic.handshakes_per_s_of(4), 4 * automatic.handshakes_per_s_of(1));
    assert_eq!(limits().handshakes_per_s_of(4), 1000);
}

/// A fleet that comes back at once while one address hammers: everybody of the fleet is served, in order of
/// arrival, as if the hammering one were not there.
#[tokio::test(start_paused = true)]
async fn a_fleet_that_comes_back_at_once_is_served_in_order() {
    let limits = Limits { handshakes_per_address_per_s: 10, ..limits() };
    let door = Admission::new(&limits, 1);
    let line = Arc::new(Line::default());
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..3000_u32 {
        for from in [address(0), address(1 + n)] {
            let Some(visit) = door.arrive(from) else { continue };
            let (served, door, line) = (Arc::clone(&served), Arc::clone(&door), Arc::clone(&line));
            tasks.spawn(async move {
                // Every third of the fleet gives up before it is served.
                if !visit.turn(&line, || n % 3 == 2 && from != address(0)).await {
                    return;
                }
                served.lock().push((from, door.now_us()));
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let served = served.lock();
    let mut fleet: Vec<_> = served.iter().filter(|(from, _)| *from != address(0)).collect();
    assert_eq!(fleet.len(), 2000);
    fleet.sort_by_key(|(from, _)| *from);
    assert!(fleet.is_sorted_by_key(|(_, at_us)| *at_us), "in order of arrival");
    let last_us = fleet.last().unwrap().1;
    // 2000 at 1000 a second, but for the burst; the hammering address has its ten a second of it, and those
    // who have gone took nobody's time.
    assert!((1_900_000..=2_060_000).contains(&last_us), "{last_us}");
    assert!(served.len() <= 2000 + 40, "{}", served.len());
}

proptest! {
    #[test]
    fn a_pace_gives_out_no_more_than_its_rate(
        per_s in 1_u32..20_000,
        burst in 0_u32..100,
        gaps in prop::collection::vec((0_u64..2_000, 0_u64..100_000), 1..300),
    ) {
        let rate = Rate::new(per_s, burst);
        let pace = Pace::new(rate);
        let mut now_us = 0;
        let mut given = Vec::new();
        for (gap, late_us) in gaps {
            now_us += gap;
            let at_us = pace.take(now_us);
            pace.begun(late_us, now_us);
            prop_assert!(at_us >= now_us);
            prop_assert!(given.last().is_none_or(|last| *last <= at_us), "in order");
            given.push(at_us);
        }
        for (n, from) in given.iter().enumerate() {
            for (m, to) in given.iter().enumerate().skip(n) {
                let most = (to - from) / rate.interval_us + u64::from(burst) + 1;
                prop_assert!((m - n + 1) as u64 <= most + 1, "{} within {} us", m - n + 1, to - from);
            }
        }
    }
}
