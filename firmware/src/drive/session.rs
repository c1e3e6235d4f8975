//! One connection, from TCP to its end.

use core::pin::pin;

use embassy_futures::select::{Either, select};
use embedded_io_async::{Read, Write};
use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use muster_shared::{
    Code,
    limits::TOPIC_MAX,
    telemetry::TelemetryBatch,
    topic::{Kind, Topic},
};

use super::{Life, within};
use crate::{
    agent, command,
    command::Command,
    credentials,
    log::Cause,
    mqtt::{self, Client, Decoder, Event, MqttError, Refusal},
    outbox,
    platform::{Clock, NetError, Network, Platform},
    store::{Record, Store},
    tls::{self, Identity, Time, TlsError, Trust, Wire},
};

/// TCP must be up within this, and TLS within as much again.
const CONNECT_MS: u64 = 30_000;
/// What is written must have left within this.
const WRITE_MS: u64 = 20_000;

/// Room for one connection.
pub(super) struct Rooms {
    tls: tls::Buffers,
    chunk: [u8; 512],
    packets: Decoder,
    pub(super) out: [u8; mqtt::PACKET_OUT],
    pub(super) message: [u8; outbox::ROOM],
}

impl Rooms {
    pub(super) const fn new() -> Self {
        Self {
            tls: tls::Buffers::new(),
            chunk: [0; 512],
            packets: Decoder::new(),
            out: [0; mqtt::PACKET_OUT],
            message: [0; outbox::ROOM],
        }
    }
}

impl From<TlsError> for Cause {
    fn from(error: TlsError) -> Self {
        let cause = Cause::of(error.code());
        match error {
            TlsError::Distrusted(why) => cause.detail(format_args!("{why}")),
            TlsError::Alert(number) | TlsError::Aborted(number) => cause.during("tls").alert(number),
            TlsError::Failed | TlsError::Lost | TlsError::Closed => cause,
        }
    }
}

impl From<MqttError> for Cause {
    fn from(error: MqttError) -> Self {
        match error {
            MqttError::Silent => Cause::of(Code::ConnectionLost).detail(format_args!("{error}")),
            MqttError::Malformed | MqttError::OutOfPlace | MqttError::TooLong | MqttError::NoRoom => {
                Cause::of(Code::PacketOutOfPlace).detail(format_args!("{error}"))
            }
        }
    }
}

impl From<Refusal> for Cause {
    fn from(refusal: Refusal) -> Self {
        // Met in an MQTT packet, whatever phase the table has for it.
        Cause::of(refusal.code).during(if refusal.code == Code::TopicNotIts { "acl" } else { "mqtt" })
    }
}

impl<P: Platform> Life<'_, P> {
    /// Connects, and stays until it ends. Why it ended.
    pub(super) async fn connect(
        &mut self,
        network: &mut P::Network,
        rooms: &mut Rooms,
        slot: usize,
    ) -> Cause {
        let credential = match credentials::slots(&mut self.store).await {
            Ok(slots) => match slots.get(slot) {
                Some(&slot) => credentials::load(&mut self.store, slot).await,
                None => Ok(None),
            },
            Err(e) => Err(e),
        };
        let Ok(Some(credential)) = credential else { return Cause::of(Code::StoreDamaged) };

        let (host, port) = (self.config.endpoint.host, self.config.endpoint.port);
        let socket = match within(&self.clock, CONNECT_MS, pin!(network.connect(host, port))).await {
            Some(Ok(socket)) => socket,
            Some(Err(NetError::Link)) => return Cause::of(Code::NetLink),
            Some(Err(NetError::Name)) => return Cause::of(Code::NetName).detail(format_args!("{host}")),
            Some(Err(NetError::Unreachable)) | None => {
                return Cause::of(Code::NetUnreachable).detail(format_args!("{host}:{port}"));
            }
        };
        let wire = Wire::new(socket);
        let identity = Identity { certificate: &credential.certificate, key: &credential.key };
        let trust = Trust {
            anchors: &self.config.anchors,
            server_name: self.config.endpoint.server_name,
            time: Time::Floor(self.config.floor),
        };
        let shaken = {
            let handshake = pin!(tls::connect(&wire, &mut self.rng, &identity, &trust, &mut rooms.tls));
            within(&self.clock, CONNECT_MS, handshake).await
        };
        let mut checked = match shaken {
            Some(Ok(checked)) => checked,
            Some(Err(error)) => return in_handshake(error),
            None => return Cause::of(Code::TlsFailed).detail(format_args!("no answer in time")),
        };
        drop(credential);
        self.raise_floor(checked.validity().0).await;

        let (reader, writer) = checked.split();
        let Rooms { chunk, packets, out, message, .. } = rooms;
        packets.clear();
        self.report.begin();
        let mut session = Session {
            life: self,
            writer,
            packets,
            out,
            message,
            client: None,
            accepted: false,
            telemetry: None,
            hold_until_ms: 0,
            command: None,
        };
        let cause = session.run(reader, chunk).await;
        // Where the server is still there it is told; where it is not, nobody waits for it.
        let clock = self.clock.clone();
        let _ = within(&clock, 1000, pin!(checked.close())).await;
        cause
    }

    /// The broker CA signed the certificate no earlier than it became valid: nor is it earlier now.
    async fn raise_floor(&mut self, seconds: u64) {
        if seconds > self.config.floor {
            self.config.floor = seconds;
            // Where it cannot be kept it holds until power-off.
            let _ = self.store.put(Record::Floor, &seconds.to_le_bytes()).await;
        }
    }
}

/// Before the handshake is over, a lost connection is a failed handshake.
fn in_handshake(error: TlsError) -> Cause {
    match error {
        TlsError::Lost | TlsError::Closed => Cause::of(Code::TlsFailed).detail(format_args!("{error}")),
        other => other.into(),
    }
}

/// An authenticated connection with its MQTT session.
struct Session<'s, 'a, 'w, P: Platform, S> {
    life: &'s mut Life<'a, P>,
    writer: tls::Writer<'w, S>,
    packets: &'s mut Decoder,
    out: &'s mut [u8; mqtt::PACKET_OUT],
    message: &'s mut [u8; outbox::ROOM],
    client: Option<Client>,
    accepted: bool,
    /// Packet id and number of the message under way.
    telemetry: Option<(u16, u64)>,
    /// The server asked for patience.
    hold_until_ms: u64,
    command: Option<Command>,
}

/// What a read gives back: itself, its room, and what came.
type Came<'r, 'w, S> = (tls::Reader<'w, S>, &'r mut [u8], Result<usize, TlsError>);

async fn next<'r, 'w, S: Read>(mut reader: tls::Reader<'w, S>, room: &'r mut [u8]) -> Came<'r, 'w, S> {
    let came = reader.read(room).await;
    (reader, room, came)
}

impl<P: Platform, S: Read + Write> Session<'_, '_, '_, P, S> {
    async fn run(&mut self, reader: tls::Reader<'_, S>, chunk: &mut [u8]) -> Cause {
        if let Err(cause) = self.open().await {
            return cause;
        }
        // The one read: polled here only, and never dropped before the connection is.
        let mut reading = pin!(next(reader, chunk));
        loop {
            let due = self.due_ms();
            let clock = self.life.clock.clone();
            if let Either::First((reader, chunk, came)) =
                select(reading.as_mut(), pin!(clock.wait_until(due))).await
            {
                let handled = match came {
                    Ok(n) => self.arrived(&chunk[..n]).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(cause) = handled {
                    return cause;
                }
                reading.set(next(reader, chunk));
            }
            if let Err(cause) = self.work().await {
                return cause;
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.life.clock.now_ms()
    }

    fn due_ms(&mut self) -> u64 {
        let now = self.now_ms();
        let sample = match self.life.agent.next_sample_ms() {
            at if at <= now => now,
            at => at,
        };
        let client = self.client.as_ref().map_or(u64::MAX, Client::due_ms);
        let held = if self.hold_until_ms > now { self.hold_until_ms } else { u64::MAX };
        sample.min(client).min(held)
    }

    async fn open(&mut self) -> Result<(), Cause> {
        let now = self.now_ms();
        let Life { config, store, .. } = &mut *self.life;
        let id = config.subject.device_id.as_str();
        // Without the token it has confirmed, the server would take this device for a copy of itself.
        let Ok(token) = store.get(Record::Continuity).await else {
            return Err(Cause::of(Code::StoreDamaged));
        };
        let token = token.and_then(|octets| core::str::from_utf8(octets).ok());
        let (client, octets) = Client::open(id, config.endpoint.keep_alive_s, token, now, self.out)?;
        self.client = Some(client);
        send(&self.life.clock, &mut self.writer, octets).await
    }

    /// Octets from the server, packet by packet.
    async fn arrived(&mut self, mut octets: &[u8]) -> Result<(), Cause> {
        while !octets.is_empty() {
            octets = &octets[self.packets.push(octets)..];
            while let Some(packet) = self.packets.packet()? {
                let len = packet.len();
                let client = self.client.as_mut().ok_or(MqttError::OutOfPlace)?;
                let event = client.receive(packet)?;
                let reply = match event {
                    Event::Message { topic, payload, id } => {
                        let subject = &self.life.config.subject;
                        if let Some(command) =
                            Command::read(&subject.tenant, &subject.device_id, topic, payload)
                        {
                            take(&mut self.life.log, &mut self.command, command);
                        }
                        id
                    }
                    Event::Accepted { continuity } => {
                        if let Some(token) = continuity {
                            // Before anything else of this session: the next one begins with it.
                            keep(&mut self.life.store, &mut self.life.log, token).await;
                        }
                        self.accepted();
                        self.packets.consume(len);
                        self.subscribe().await?;
                        continue;
                    }
                    Event::Closed(refusal) => return Err(refusal.into()),
                    Event::Subscribed(Err(refusal)) => {
                        let lines = self.life.agent.note(&refusal.into());
                        self.life.log.all(lines);
                        None
                    }
                    Event::Acknowledged { id, outcome } => {
                        self.packets.consume(len);
                        self.acknowledged(id, outcome).await;
                        continue;
                    }
                    Event::Subscribed(Ok(())) | Event::Quiet => None,
                };
                self.packets.consume(len);
                if let Some(id) = reply {
                    let now = self.now_ms();
                    let client = self.client.as_mut().ok_or(MqttError::OutOfPlace)?;
                    let octets = client.acknowledge(id, now, self.out)?;
                    send(&self.life.clock, &mut self.writer, octets).await?;
                }
            }
        }
        Ok(())
    }

    fn accepted(&mut self) {
        self.accepted = true;
        let now = self.now_ms();
        let line = self.life.agent.accepted(now);
        self.life.log.all(line);
        let (endpoint, subject) = (&self.life.config.endpoint, &self.life.config.subject);
        self.life.log.line(format_args!(
            "muster mqtt connected {}:{} as {}/{}",
            endpoint.host, endpoint.port, subject.tenant, subject.device_id
        ));
    }

    /// Its own prefix; the server delivers of it what a device may read.
    async fn subscribe(&mut self) -> Result<(), Cause> {
        let subject = &self.life.config.subject;
        let mut filter = heapless::String::<TOPIC_MAX>::new();
        let fits = core::fmt::Write::write_fmt(
            &mut filter,
            format_args!("{}/{}/command/+/request", subject.tenant, subject.device_id),
        );
        if fits.is_err() {
            return Ok(());
        }
        let now = self.now_ms();
        let client = self.client.as_mut().ok_or(MqttError::OutOfPlace)?;
        let octets = client.subscribe(&[&filter], now, self.out)?;
        send(&self.life.clock, &mut self.writer, octets).await
    }

    async fn acknowledged(&mut self, id: u16, outcome: Result<(), Refusal>) {
        if let Some((topic, code)) = self.command.as_mut().and_then(|command| command.settled(id, outcome)) {
            let lines = self.life.agent.note(&Cause::of(code).during("acl").detail(format_args!("{topic}")));
            self.life.log.all(lines);
        }
        if self.life.report.settled(id) {
            match outcome {
                Ok(()) => self.life.log.line(format_args!("muster twin reported")),
                Err(refusal) => {
                    let lines = self.life.agent.note(&refusal.into());
                    self.life.log.all(lines);
                }
            }
            return;
        }
        let Some((_, seq)) = self.telemetry.take_if(|(ours, _)| *ours == id) else { return };
        match outcome {
            Ok(()) => {
                // Only now: until the server has it, flash has it.
                let removed = outbox::remove(self.life.store.flash(), self.message).await;
                self.life.log.line(format_args!("muster telemetry {seq} acked"));
                if removed.is_err() {
                    self.life.log.line(format_args!("muster outbox failed | sent again after a reset"));
                }
            }
            Err(refusal) => {
                let lines = self.life.agent.note(&refusal.into());
                self.life.log.all(lines);
                match refusal.code {
                    // Will not be better next time.
                    Code::TopicNotIts | Code::PacketTooLarge | Code::PacketMalformed => {
                        let _ = outbox::remove(self.life.store.flash(), self.message).await;
                    }
                    code => {
                        let patience_ms = self.life.agent.patience_ms(code, &mut self.life.rng);
                        self.hold_until_ms = self.now_ms() + patience_ms;
                    }
                }
            }
        }
    }

    /// What time and room allow now.
    async fn work(&mut self) -> Result<(), Cause> {
        let now = self.now_ms();
        if let agent::Command::Sample = self.life.agent.next(now) {
            self.life.sample(self.out, self.message).await;
        }
        let client = self.client.as_mut().ok_or(MqttError::OutOfPlace)?;
        if let Some(octets) = client.tick(now, self.out)? {
            send(&self.life.clock, &mut self.writer, octets).await?;
        }
        self.send_command().await?;
        self.send_telemetry().await?;
        self.send_report().await
    }

    async fn send_command(&mut self) -> Result<(), Cause> {
        let now = self.now_ms();
        let client = self.client.as_mut().ok_or(MqttError::OutOfPlace)?;
        let Some(command) = self.command.as_mut().filter(|_| client.has_room()) else { return Ok(()) };
        let subject = &self.life.config.subject;
        let Some(due) = command.due(&subject.tenant, &subject.device_id) else { return Ok(()) };
        let last = due.last;
        if !last {
            self.life.log.line(format_args!("muster command {} publish {}", command.id, due.topic));
        }
        let (id, octets) = client.publish(&due.topic, due.payload, now, self.out)?;
        if last {
            self.command = None;
        } else {
            command.sent(id);
        }
        send(&self.life.clock, &mut self.writer, octets).await
    }

    async fn send_telemetry(&mut self) -> Result<(), Cause> {
        let now = self.now_ms();
        let client = self.client.as_mut().ok_or(MqttError::OutOfPlace)?;
        if self.telemetry.is_some() || now < self.hold_until_ms || !client.has_room() {
            return Ok(());
        }
        let message = match outbox::oldest(self.life.store.flash(), self.message).await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            Err(_) => {
                self.hold_until_ms = now + 60_000;
                return Ok(());
            }
        };
        let subject = &self.life.config.subject;
        let topic = Topic::of(&subject.tenant, &subject.device_id, Kind::Telemetry { stream: "board" });
        let Ok(topic) = topic.text() else { return Ok(()) };
        let seq = TelemetryBatch::name(message).map_or(0, |(_, seq)| seq);
        let (id, octets) = client.publish(&topic, message, now, self.out)?;
        self.telemetry = Some((id, seq));
        send(&self.life.clock, &mut self.writer, octets).await
    }

    /// What the device says of itself. After telemetry, and beside it: neither waits for the other.
    async fn send_report(&mut self) -> Result<(), Cause> {
        let now = self.now_ms();
        let client = self.client.as_mut().ok_or(MqttError::OutOfPlace)?;
        if now < self.hold_until_ms || !client.has_room() {
            return Ok(());
        }
        let Some(document) = self.life.report.take() else { return Ok(()) };
        let subject = &self.life.config.subject;
        let topic = Topic::of(&subject.tenant, &subject.device_id, Kind::TwinReported);
        let Ok(topic) = topic.text() else { return Ok(()) };
        let (id, octets) = match client.publish_kept(&topic, document.as_bytes(), now, self.out) {
            // What so small a server cannot take is not worth the session.
            Err(MqttError::TooLong) => return Ok(()),
            sent => sent?,
        };
        self.life.report.sent(id);
        send(&self.life.clock, &mut self.writer, octets).await
    }
}

/// Keeps the continuity token for the next CONNECT. Where it cannot, the one before is shown again.
async fn keep<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    log: &mut super::Log<impl core::fmt::Write>,
    token: &str,
) {
    if store.put(Record::Continuity, token.as_bytes()).await.is_err() {
        log.line(format_args!("muster store failed | continuity token not kept"));
    }
}

fn take<L: core::fmt::Write>(log: &mut super::Log<L>, place: &mut Option<Command>, command: Command) {
    match place {
        Some(_) => log.line(format_args!("muster command {} busy | dropped", command.id)),
        None => {
            if command.topic().is_none() {
                log.line(format_args!("muster command {} unknown | refused", command.id));
            }
            *place = Some(command);
        }
    }
}

async fn send<S: Write>(
    clock: &impl Clock,
    writer: &mut tls::Writer<'_, S>,
    octets: &[u8],
) -> Result<(), Cause> {
    match within(clock, WRITE_MS, pin!(writer.write(octets))).await {
        Some(sent) => sent.map_err(Cause::from),
        None => Err(TlsError::Lost.into()),
    }
}

const _: () = assert!(command::DIAGNOSTIC.len() + TOPIC_MAX + 16 < mqtt::PACKET_OUT);
