//! The table of attacks: a name, a flight, and what a device must make of it.
//!
//! Who plays decides what is at stake. A stranger, who has no key of the broker's hierarchy, must never get a
//! connection, whatever is said in whatever order. Somebody on the path may put records into an honest
//! conversation. And a broker gone wrong has the right key and still must not bring a device down.

mod after;
mod messages;
mod mutation;
mod records;

use super::{chains::Cast, flight::Flight};

pub use mutation::{mutations, truncations};

/// What a device must make of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It's no attack: the connection stands and [`BAIT`] arrives.
    Accepted,
    /// No connection: nothing of the application's is sent or accepted, and the device's certificate stays
    /// unsaid.
    Refused,
    /// The peer has the broker's key or sits on the path, and a connection stands when the attack begins. It
    /// ends the connection, and nothing is delivered.
    Ended,
    /// The peer has the broker's key and is odd. The device may go on or not; it lives.
    Survived,
}

/// What the attacker does when the flight is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Says no more.
    Close,
    /// Stays, silent: only a deadline helps.
    Hold,
    /// Waits for the client's Finished and goes on.
    Continue,
}

/// What a server says in one go.
type Play = Box<dyn Fn(&mut Flight, &Cast) + Send + Sync>;

/// A row of the table.
pub struct Attack {
    /// What is wrong.
    pub name: String,
    /// What a device must make of it.
    pub verdict: Verdict,
    /// What follows.
    pub then: Then,
    open: Play,
    follow: Play,
}

/// Application data an attacker sends where it can: an MQTT 5 CONNACK that grants everything.
pub const BAIT: [u8; 5] = [0x20, 0x03, 0x00, 0x00, 0x00];

impl Attack {
    /// Says the flight up to where the client must answer.
    pub fn open(&self, flight: &mut Flight, cast: &Cast) {
        (self.open)(flight, cast);
    }

    /// Says what follows the client's Finished.
    pub fn follow(&self, flight: &mut Flight, cast: &Cast) {
        (self.follow)(flight, cast);
    }

    fn new(name: &str, verdict: Verdict, play: impl Fn(&mut Flight, &Cast) + Send + Sync + 'static) -> Self {
        Self {
            name: name.to_owned(),
            verdict,
            then: Then::Close,
            open: Box::new(play),
            follow: Box::new(|_, _| ()),
        }
    }

    fn refused(name: &str, play: impl Fn(&mut Flight, &Cast) + Send + Sync + 'static) -> Self {
        Self::new(name, Verdict::Refused, play)
    }

    fn survived(name: &str, play: impl Fn(&mut Flight, &Cast) + Send + Sync + 'static) -> Self {
        let attack = Self::new(name, Verdict::Survived, play);
        attack.then(|flight, _| flight.application(&BAIT))
    }

    /// An honest flight, and then something else.
    fn after(
        name: &str,
        verdict: Verdict,
        play: impl Fn(&mut Flight, &Cast) + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, verdict, honest).then(play)
    }

    fn then(mut self, play: impl Fn(&mut Flight, &Cast) + Send + Sync + 'static) -> Self {
        self.then = Then::Continue;
        self.follow = Box::new(play);
        self
    }

    fn held(mut self) -> Self {
        self.then = Then::Hold;
        self
    }
}

/// What an honest broker says.
fn honest(flight: &mut Flight, cast: &Cast) {
    flight.good(&cast.broker.chain, &cast.broker.key);
}

/// Honest brokers, however they cut their records: what shows that a refusal is one.
#[must_use]
pub fn controls() -> Vec<Attack> {
    let bait = |flight: &mut Flight, _: &Cast| flight.application(&BAIT);
    let accepted = |name, play: fn(&mut Flight, &Cast)| Attack::new(name, Verdict::Accepted, play).then(bait);
    vec![
        accepted("honest", honest),
        accepted("honest, one record", |flight, cast| {
            flight.hello();
            flight.together(|flight| {
                flight.encrypted_extensions();
                flight.certificate_request();
                flight.certificate(&cast.broker.chain);
                flight.certificate_verify(&cast.broker.key);
                flight.finished();
            });
        }),
        accepted("honest, compatibility mode", |flight, cast| {
            flight.hello();
            flight.raw(&[20, 3, 3, 0, 1, 1]);
            flight.encrypted_extensions();
            flight.certificate_request();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            flight.finished();
        }),
        accepted("honest, its issuer sent along", |flight, cast| {
            let issuer = cast.hierarchy.broker.certificate().der().to_vec();
            flight.good(&[cast.broker.chain.clone(), vec![issuer]].concat(), &cast.broker.key);
        }),
        Attack::after("honest, padded", Verdict::Accepted, |flight, _| {
            flight.inner(&[&BAIT[..], &[23], &[0; 200]].concat());
        }),
        Attack::after("honest, empty records first", Verdict::Accepted, |flight, _| {
            for _ in 0..20 {
                flight.application(&[]);
            }
            flight.application(&BAIT);
        }),
    ]
}

/// Every attack that has a name. [`truncations`] and [`mutations`] are further ones that have numbers.
#[must_use]
pub fn table(cast: &Cast) -> Vec<Attack> {
    let mut table = messages::order();
    table.extend(messages::signatures());
    table.extend(messages::chains(cast));
    table.extend(messages::hellos());
    table.extend(records::before());
    table.extend(after::by_the_broker());
    table.extend(after::on_the_path());
    table
}
