//! What a fleet has done, counted from its logs.

use std::fmt;

use crate::{device::Device, log::Log};

/// How one device stands, by what it said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Standing {
    /// It waits for a station.
    #[default]
    Blank,
    /// It has an identity and no connection.
    Offline,
    /// Its session is open.
    Online,
}

/// Follows the logs of a fleet.
#[derive(Default)]
pub struct Tally {
    followed: Vec<Followed>,
    acked: u64,
    refused: u64,
}

struct Followed {
    log: Log,
    seen: usize,
    standing: Standing,
}

/// The count at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// Devices followed.
    pub devices: usize,
    /// Devices without an identity.
    pub blank: usize,
    /// Devices whose session is open.
    pub online: usize,
    /// Telemetry messages acknowledged.
    pub acked: u64,
    /// Refusals and failures printed; a device folds its repeats.
    pub refused: u64,
}

impl Tally {
    /// Follows one more device, from its first line.
    pub fn follow(&mut self, device: &Device) {
        let log = device.log().clone();
        self.followed.push(Followed { log, seen: 0, standing: Standing::default() });
    }

    /// Reads on in every log, and counts.
    pub fn count(&mut self) -> Count {
        for device in &mut self.followed {
            let (lines, seen) = device.log.since(device.seen);
            device.seen = seen;
            for line in lines {
                match Event::of(&line) {
                    Event::Acked => self.acked += 1,
                    Event::Standing(standing) => device.standing = standing,
                    Event::Refused => {
                        self.refused += 1;
                        if device.standing == Standing::Online {
                            device.standing = Standing::Offline;
                        }
                    }
                    Event::Other => {}
                }
            }
        }
        let standing = |wanted| self.followed.iter().filter(|device| device.standing == wanted).count();
        Count {
            devices: self.followed.len(),
            blank: standing(Standing::Blank),
            online: standing(Standing::Online),
            acked: self.acked,
            refused: self.refused,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { devices, blank, online, acked, refused } = self;
        write!(f, "{devices} devices, {blank} blank, {online} online, {acked} acked, {refused} refused")
    }
}

/// What a line means here (`muster_firmware`'s module `log` lists them).
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Acked,
    Standing(Standing),
    Refused,
    Other,
}

impl Event {
    fn of(line: &str) -> Self {
        let mut words = line.split(' ').skip(1);
        match (words.next(), words.next(), words.next()) {
            (Some("telemetry"), Some(_), Some("acked")) => Self::Acked,
            (Some("mqtt"), Some("connected"), _) => Self::Standing(Standing::Online),
            (Some("boot"), _, Some("no")) => Self::Standing(Standing::Blank),
            (Some("boot"), ..) | (Some("factory"), Some("locked"), _) => Self::Standing(Standing::Offline),
            // A topic refused leaves the session open.
            (Some("acl"), ..) => Self::Other,
            (Some("net" | "tls" | "mqtt"), ..) => Self::Refused,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_the_firmware_lists() {
        for (line, event) in [
            ("muster boot 0.1.0 no identity | waiting for a station", Event::Standing(Standing::Blank)),
            ("muster boot 0.1.0 acme/MU-1 | connecting to h:1", Event::Standing(Standing::Offline)),
            ("muster factory key made | waiting for the certificate", Event::Other),
            ("muster factory locked | the port answers hello only", Event::Standing(Standing::Offline)),
            ("muster mqtt connected h:1 as acme/MU-1", Event::Standing(Standing::Online)),
            ("muster telemetry 17 acked", Event::Acked),
            ("muster mqtt M201 suspended by the operator | retry 15m", Event::Refused),
            ("muster net N02 no answer from h:1 (x8) | retry 1s..5m", Event::Refused),
            ("muster acl M210 topic not ours: a/b/c | dropped", Event::Other),
            ("", Event::Other),
        ] {
            assert_eq!(Event::of(line), event, "{line}");
        }
    }
}
