//! Plays an attack on a connection and notes what the client gave away.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    attacks::{Attack, Then},
    chains::Cast,
    flight::{CERTIFICATE, ClientHello, FINISHED, Flight},
    record::{ALERT, APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, HEADER},
};

/// How long a client may be silent before it's given up: longer than any deadline of a device.
const SILENCE: Duration = Duration::from_secs(90);

/// What the client said, as far as a server with its keys can read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// A ClientHello arrived.
    pub hello: bool,
    /// Its certificate arrived: the client said who it is.
    pub certificate: bool,
    /// Its Finished arrived: the client believes the handshake is done.
    pub finished: bool,
    /// Its application data.
    pub application: Vec<u8>,
    /// Descriptions of its alerts.
    pub alerts: Vec<u8>,
    /// Protected records that none of the keys open. They may be anything, application data too.
    pub unreadable: usize,
}

/// Plays `attack` on `stream` until the client leaves.
pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, attack: &Attack, cast: &Cast) -> Seen {
    let mut seen = Seen::default();
    let Some((HANDSHAKE, first)) = record(&mut stream).await.map(|record| (record[0], record)) else {
        return seen;
    };
    let Some(client) = ClientHello::read(&first[HEADER..]) else { return seen };
    seen.hello = true;
    let mut flight = Flight::new(client);
    attack.open(&mut flight, cast);
    // A client that has left already is no failure of the attack: what it said still counts.
    let _ = stream.write_all(&flight.take()).await;
    if attack.then == Then::Close {
        let _ = stream.shutdown().await;
    }
    while let Some(record) = record(&mut stream).await {
        let done = seen.finished;
        hear(&mut seen, &mut flight, &record);
        if !done && seen.finished && attack.then == Then::Continue {
            attack.follow(&mut flight, cast);
            let _ = stream.write_all(&flight.take()).await;
        }
    }
    seen
}

/// The next record, header included; `None` when the client has left or is silent for too long.
async fn record<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Vec<u8>> {
    let mut record = vec![0; HEADER];
    timeout(SILENCE, stream.read_exact(&mut record)).await.ok()?.ok()?;
    let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(HEADER + length, 0);
    timeout(SILENCE, stream.read_exact(&mut record[HEADER..])).await.ok()?.ok()?;
    Some(record)
}

fn hear(seen: &mut Seen, flight: &mut Flight, record: &[u8]) {
    let (content_type, content) = match record[0] {
        APPLICATION => {
            let keys = usize::from(seen.finished);
            match flight.receive[keys].as_mut().and_then(|keys| keys.open(record)) {
                Some(opened) => opened,
                None => {
                    seen.unreadable += 1;
                    return;
                }
            }
        }
        CHANGE_CIPHER_SPEC => return,
        plain => (plain, record[HEADER..].to_vec()),
    };
    match content_type {
        HANDSHAKE => handshake(seen, flight, &content),
        ALERT => seen.alerts.extend(content.get(1)),
        _ => seen.application.extend(content),
    }
}

fn handshake(seen: &mut Seen, flight: &mut Flight, mut content: &[u8]) {
    while let Some((header, _)) = content.split_first_chunk::<4>() {
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let Some((message, rest)) = content.split_at_checked(4 + length) else { return };
        // Context, then a list with a length of three octets: four octets when it is empty.
        seen.certificate |= header[0] == CERTIFICATE && length > 4;
        seen.finished |= header[0] == FINISHED;
        flight.heard(message);
        content = rest;
    }
}
