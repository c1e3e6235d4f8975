use std::{pin::pin, task::Waker};

use super::*;
use crate::edge::limits::{MAIL_BYTES_MAX, MAIL_MAX};

fn arrival(device: u32) -> Arrival {
    Arrival {
        owner: DeviceKey(device).into(),
        certificate: CertificateId([device as u8; 32]),
        issuer_key_id: [7; 20],
        peer: ([127, 0, 0, 1], 40_000).into(),
        protocol: Protocol::V5,
        keep_alive_s: 60,
        cipher: None,
    }
}

fn mail(seat: &Seat) -> Poll<Mail> {
    seat.poll_mail(true, &mut Context::from_waker(Waker::noop()))
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn message(len: usize) -> Downlink {
    Downlink::direct("acme/a/app/x".into(), vec![0; len].into(), 1)
}

#[test]
fn a_second_session_of_a_device_takes_over_and_the_first_is_told() {
    let roster = Roster::new();
    let (first, none) = roster.enter(arrival(1));
    assert!(none.is_none());
    let (second, wait) = roster.enter(arrival(1));
    let mut wait = pin!(wait);
    assert!(
        matches!(mail(&first), Poll::Ready(Mail::Close(f)) if f.why == DisconnectReason::SessionTakenOver)
    );
    assert!(poll(wait.as_mut()).is_pending(), "resolves only when the first socket is closed");
    let number = first.info().number;
    drop(first);
    assert!(matches!(poll(wait), Poll::Ready(Some(closed)) if closed.number == number));
    assert_eq!(roster.is_online(DeviceKey(1)), Some(second.info()), "the successor keeps the seat");
    drop(second);
    assert_eq!(roster.count(), 0);
}

#[test]
fn closing_nobody_resolves_at_once() {
    let roster = Roster::new();
    let wait = roster.close(DeviceKey(7), DisconnectReason::Administrative);
    assert!(wait.is_none());
    assert_eq!(poll(pin!(wait)), Poll::Ready(None));
}

#[test]
fn the_first_order_to_close_counts_and_everybody_who_waits_is_told() {
    let roster = Roster::new();
    let (seat, _) = roster.enter(arrival(1));
    let mut revoked = pin!(roster.close(DeviceKey(1), DisconnectReason::CertificateRevoked));
    let kicked = pin!(roster.close(DeviceKey(1), DisconnectReason::Administrative));
    assert_eq!(seat.ordered_to_close().map(|f| f.why), Some(DisconnectReason::CertificateRevoked));
    assert!(
        matches!(mail(&seat), Poll::Ready(Mail::Close(f)) if f.why == DisconnectReason::CertificateRevoked)
    );
    assert!(poll(revoked.as_mut()).is_pending());
    drop(seat);
    assert!(matches!(poll(revoked), Poll::Ready(Some(_))));
    assert!(matches!(poll(kicked), Poll::Ready(Some(_))));
}

#[test]
fn messages_come_in_order_and_an_order_to_close_comes_before_them() {
    let roster = Roster::new();
    let (seat, _) = roster.enter(arrival(1));
    assert!(mail(&seat).is_pending());
    let mut first = pin!(roster.deliver(DeviceKey(1), message(1)));
    let mut second = pin!(roster.deliver(DeviceKey(1), message(2)));
    let Poll::Ready(Mail::Deliver(parcel)) = mail(&seat) else { panic!("no parcel") };
    let (got, receipt) = parcel.open();
    assert_eq!(got.payload.len(), 1);
    receipt.answer(Ok(Delivered::Acknowledged));
    assert_eq!(poll(first.as_mut()), Poll::Ready(Ok(Delivered::Acknowledged)));
    let _wait = roster.close(DeviceKey(1), DisconnectReason::DeviceSuspended);
    assert!(matches!(mail(&seat), Poll::Ready(Mail::Close(_))));
    assert!(poll(second.as_mut()).is_pending());
    drop(seat);
    assert_eq!(poll(second), Poll::Ready(Err(DeliverError::Ended)));
}

#[test]
fn the_mail_of_a_session_is_bounded_by_count_and_by_octets() {
    let roster = Roster::new();
    let (seat, _) = roster.enter(arrival(1));
    let held: Vec<_> = (0..MAIL_MAX).map(|_| Box::pin(roster.deliver(DeviceKey(1), message(1)))).collect();
    assert_eq!(poll(pin!(roster.deliver(DeviceKey(1), message(1)))), Poll::Ready(Err(DeliverError::Full)));
    while let Poll::Ready(Mail::Deliver(_)) = mail(&seat) {}
    drop(held);
    let big = roster.deliver(DeviceKey(1), message(MAIL_BYTES_MAX));
    assert!(poll(pin!(big)).is_pending());
    assert_eq!(poll(pin!(roster.deliver(DeviceKey(1), message(1)))), Poll::Ready(Err(DeliverError::Full)));
}

#[test]
fn without_room_messages_wait_and_an_order_to_close_does_not() {
    let roster = Roster::new();
    let (seat, _) = roster.enter(arrival(1));
    let sent = Box::pin(roster.deliver(DeviceKey(1), message(1)));
    let closed = |room| seat.poll_mail(room, &mut Context::from_waker(Waker::noop()));
    assert!(closed(false).is_pending());
    assert!(matches!(closed(true), Poll::Ready(Mail::Deliver(_))));
    let _wait = roster.close(DeviceKey(1), DisconnectReason::Administrative);
    assert!(matches!(closed(false), Poll::Ready(Mail::Close(_))));
    drop(sent);
}

#[test]
fn nobody_delivers_to_an_absent_or_closing_session() {
    let roster = Roster::new();
    assert_eq!(poll(pin!(roster.deliver(DeviceKey(1), message(1)))), Poll::Ready(Err(DeliverError::Offline)));
    let (seat, _) = roster.enter(arrival(1));
    let _wait = roster.close(DeviceKey(1), DisconnectReason::DeviceSuspended);
    assert_eq!(poll(pin!(roster.deliver(DeviceKey(1), message(1)))), Poll::Ready(Err(DeliverError::Offline)));
    drop(seat);
}

#[test]
fn listing_is_by_age_and_counts_what_passed() {
    let roster = Roster::new();
    let seats: Vec<_> = (0..20).map(|n| roster.enter(arrival(n)).0).collect();
    seats[3].count_received();
    seats[3].count_sent();
    seats[3].set_subscriptions(2);
    let list = roster.list();
    assert!(list.windows(2).all(|pair| pair[0].number < pair[1].number));
    let third = list.iter().find(|info| info.arrival.owner == DeviceKey(3).into()).cloned();
    assert_eq!(third.map(|i| (i.received, i.sent, i.subscriptions)), Some((1, 1, 2)));
}

#[test]
fn mail_posted_from_other_threads_is_never_missed() {
    let roster = Roster::new();
    let (seat, _) = roster.enter(arrival(1));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    while poll(pin!(roster.deliver(DeviceKey(1), message(1))))
                        == Poll::Ready(Err(DeliverError::Full))
                    {
                        std::thread::yield_now();
                    }
                }
            });
        }
        runtime.block_on(async {
            for _ in 0..2000 {
                let got = std::future::poll_fn(|cx| seat.poll_mail(true, cx)).await;
                assert!(matches!(got, Mail::Deliver(_)));
            }
        });
    });
    assert!(mail(&seat).is_pending());
}

/// A message was refused for what was decided, and the session ended, before anybody came to close it.
#[test]
fn a_session_that_met_a_decision_first_is_found_once() {
    let roster = Roster::new();
    let why = DisconnectReason::CertificateRevoked;
    let (seat, _) = roster.enter(arrival(1));
    let number = seat.info().number;
    seat.refused();
    drop(seat);
    assert_eq!(roster.count(), 0);
    assert!(roster.close(DeviceKey(1), why).is_none(), "there is no session");
    let found = poll(pin!(roster.close_decided(DeviceKey(1), why)));
    assert!(matches!(found, Poll::Ready(Some(closed)) if closed.number == number));
    assert!(roster.close_decided(DeviceKey(1), why).is_none(), "by one decision");
    // Of many, with those that are there; one that was told to close was found then.
    let (here, _) = roster.enter(arrival(1));
    let (met, _) = roster.enter(arrival(2));
    let (told, _) = roster.enter(arrival(3));
    met.refused();
    told.refused();
    let _wait = roster.close(DeviceKey(3), why);
    drop((met, told));
    let waits = roster.choose(|_| Some(why.into())).close();
    assert_eq!(waits.len(), 2);
    assert!(
        roster
            .choose(|arrival| (arrival.owner != here.owner().clone()).then(|| why.into()))
            .close()
            .is_empty()
    );
}
