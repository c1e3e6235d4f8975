//! What a server says, message by message, in whatever order it is told.
//!
//! A [`Flight`] keeps the transcript and the keys as an honest server would, so that a flight which breaks one
//! rule keeps all the others: the client meets the broken rule and not a failed checksum before it.

use aws_lc_rs::{
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    rand::SystemRandom,
};
use rcgen::SigningKey;

use super::record::{APPLICATION, HANDSHAKE, Keys, Secret, derive, expand, hash, mac, plain};

/// `server_hello`.
pub const SERVER_HELLO: u8 = 2;
/// `new_session_ticket`.
pub const NEW_SESSION_TICKET: u8 = 4;
/// `encrypted_extensions`.
pub const ENCRYPTED_EXTENSIONS: u8 = 8;
/// `certificate`.
pub const CERTIFICATE: u8 = 11;
/// `certificate_request`.
pub const CERTIFICATE_REQUEST: u8 = 13;
/// `certificate_verify`.
pub const CERTIFICATE_VERIFY: u8 = 15;
/// `finished`.
pub const FINISHED: u8 = 20;
/// `key_update`.
pub const KEY_UPDATE: u8 = 24;

/// `ecdsa_secp256r1_sha256`, the scheme devices are promised.
pub const ECDSA_P256: u16 = 0x0403;
/// Context of a server's CertificateVerify (RFC 8446 §4.4.3).
pub const SERVER_CONTEXT: &str = "TLS 1.3, server CertificateVerify";
/// Context of a client's CertificateVerify.
pub const CLIENT_CONTEXT: &str = "TLS 1.3, client CertificateVerify";

/// What a ClientHello says that a server must know.
#[derive(Debug, Clone)]
pub struct ClientHello {
    /// The message, header included, as it enters the transcript.
    pub message: Vec<u8>,
    /// Echoed by an honest server.
    pub session_id: Vec<u8>,
    /// The client's P-256 point, uncompressed.
    pub share: Vec<u8>,
}

impl ClientHello {
    /// Reads a ClientHello; `None` when it is none or offers no P-256 share.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let mut rest = message.strip_prefix(&[1])?.get(3..)?.get(34..)?;
        let session_id = take(&mut rest, 1)?.to_vec();
        take(&mut rest, 2)?;
        take(&mut rest, 1)?;
        let mut extensions = take(&mut rest, 2)?;
        while let Some((kind, after)) = extensions.split_first_chunk::<2>() {
            extensions = after;
            let mut body = take(&mut extensions, 2)?;
            if *kind != [0, 51] {
                continue;
            }
            let mut shares = take(&mut body, 2)?;
            while let Some((group, after)) = shares.split_first_chunk::<2>() {
                shares = after;
                let share = take(&mut shares, 2)?;
                if *group == [0, 23] {
                    return Some(Self { message: message.to_vec(), session_id, share: share.to_vec() });
                }
            }
        }
        None
    }
}

/// The parts of a ServerHello, for one that lies in some of them.
#[derive(Debug, Clone)]
pub struct Hello {
    /// `random`; one fixed value makes the message a HelloRetryRequest (RFC 8446 §4.1.3).
    pub random: [u8; 32],
    /// `cipher_suite`.
    pub suite: u16,
    /// `supported_versions`; `None` leaves the extension out.
    pub version: Option<u16>,
    /// The named group of the key share.
    pub group: u16,
    /// The key share; `None` leaves the extension out.
    pub share: Option<Vec<u8>>,
    /// Further extensions, encoded.
    pub extensions: Vec<u8>,
}

/// The server's side of one handshake: what it has said, and how to say more.
pub struct Flight {
    /// The client's first message.
    pub client: ClientHello,
    /// Every handshake message so far, from both sides.
    transcript: Vec<u8>,
    key: Option<EphemeralPrivateKey>,
    point: Vec<u8>,
    handshake_secret: Secret,
    client_traffic: Secret,
    server_traffic: Secret,
    /// Protects what the server sends, once there are keys.
    pub send: Option<Keys>,
    /// Opens what the client sends: handshake keys, then application keys.
    pub receive: [Option<Keys>; 2],
    /// Changes each message before it enters the transcript and the wire, so that both sides hash the same.
    pub tamper: Option<Tamper>,
    framing: Framing,
    wire: Vec<u8>,
}

/// Changes a handshake message, header included.
pub type Tamper = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// How messages become records.
enum Framing {
    /// A record each.
    Apart,
    /// All of them in one record, when it is done.
    Together(Vec<u8>),
    /// Records of this many octets, whatever the messages' borders.
    Cut(usize),
}

impl Flight {
    /// Begins after the client's first message.
    #[must_use]
    pub fn new(client: ClientHello) -> Self {
        let key = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())
            .expect("the generator of the host works");
        let point = key.compute_public_key().expect("a generated key has a public half").as_ref().to_vec();
        Self {
            transcript: client.message.clone(),
            client,
            key: Some(key),
            point,
            handshake_secret: [0; 32],
            client_traffic: [0; 32],
            server_traffic: [0; 32],
            send: None,
            receive: [None, None],
            tamper: None,
            framing: Framing::Apart,
            wire: Vec::new(),
        }
    }

    /// Takes what is to be sent.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire)
    }

    /// The transcript's hash so far.
    #[must_use]
    pub fn transcript(&self) -> Secret {
        hash(&self.transcript)
    }

    /// Everything an honest server says up to Finished.
    pub fn good(&mut self, chain: &[Vec<u8>], signer: &impl SigningKey) {
        self.hello();
        self.encrypted_extensions();
        self.certificate_request();
        self.certificate(chain);
        self.certificate_verify(signer);
        self.finished();
    }

    /// ServerHello, EncryptedExtensions and CertificateRequest: what comes before any authentication.
    pub fn opening(&mut self) {
        self.hello();
        self.encrypted_extensions();
        self.certificate_request();
    }

    /// An honest ServerHello; protection begins after it.
    pub fn hello(&mut self) {
        self.hello_with(|_| ());
    }

    /// A ServerHello with some parts changed. The keys are those of the honest one.
    pub fn hello_with(&mut self, change: impl FnOnce(&mut Hello)) {
        let mut hello = Hello {
            random: hash(&self.point),
            suite: 0x1301,
            version: Some(0x0304),
            group: 0x0017,
            share: Some(self.point.clone()),
            extensions: Vec::new(),
        };
        change(&mut hello);
        let mut body = vec![3, 3];
        body.extend_from_slice(&hello.random);
        body.extend(counted(1, &self.client.session_id));
        body.extend_from_slice(&hello.suite.to_be_bytes());
        body.push(0);
        let mut extensions = hello.extensions;
        if let Some(version) = hello.version {
            extensions.extend(extension(43, &version.to_be_bytes()));
        }
        if let Some(share) = hello.share {
            let entry = [&hello.group.to_be_bytes()[..], &counted(2, &share)].concat();
            extensions.extend(extension(51, &entry));
        }
        body.extend(counted(2, &extensions));
        self.message(SERVER_HELLO, &body);
        self.agree();
    }

    /// EncryptedExtensions with nothing in it.
    pub fn encrypted_extensions(&mut self) {
        self.message(ENCRYPTED_EXTENSIONS, &[0, 0]);
    }

    /// CertificateRequest for ECDSA P-256.
    pub fn certificate_request(&mut self) {
        let schemes = extension(13, &counted(2, &ECDSA_P256.to_be_bytes()));
        self.message(CERTIFICATE_REQUEST, &[vec![0], counted(2, &schemes)].concat());
    }

    /// Certificate with these entries, none of which has an extension.
    pub fn certificate(&mut self, chain: &[Vec<u8>]) {
        let entries: Vec<u8> =
            chain.iter().flat_map(|certificate| [counted(3, certificate), vec![0, 0]].concat()).collect();
        self.message(CERTIFICATE, &[vec![0], counted(3, &entries)].concat());
    }

    /// CertificateVerify over the transcript so far.
    pub fn certificate_verify(&mut self, signer: &impl SigningKey) {
        let transcript = self.transcript();
        self.certificate_verify_as(ECDSA_P256, SERVER_CONTEXT, &transcript, signer);
    }

    /// CertificateVerify with a scheme, a context and a transcript of choice.
    pub fn certificate_verify_as(
        &mut self,
        scheme: u16,
        context: &str,
        transcript: &Secret,
        signer: &impl SigningKey,
    ) {
        let signed = [&[0x20; 64][..], context.as_bytes(), &[0], transcript].concat();
        let signature = signer.sign(&signed).expect("a key in memory signs");
        self.message(CERTIFICATE_VERIFY, &[&scheme.to_be_bytes()[..], &counted(2, &signature)].concat());
    }

    /// Finished; application keys follow.
    pub fn finished(&mut self) {
        let mac = self.finished_mac();
        self.finished_with(&mac);
    }

    /// Finished with a verify_data of choice; application keys follow all the same.
    pub fn finished_with(&mut self, verify_data: &[u8]) {
        self.message(FINISHED, verify_data);
        self.flush();
        self.application_keys();
    }

    /// What an honest Finished would carry here.
    #[must_use]
    pub fn finished_mac(&self) -> Secret {
        let key = expand(&self.server_traffic, "finished", &[], 32);
        mac(&key, &self.transcript())
    }

    /// A handshake message, honest or not, in the transcript and on the wire.
    pub fn message(&mut self, kind: u8, body: &[u8]) {
        let mut message = [&[kind][..], &counted(3, body)].concat();
        if let Some(tamper) = &mut self.tamper {
            tamper(&mut message);
        }
        self.raw_message(&message);
    }

    /// Octets that pass for a handshake message, in the transcript and on the wire.
    pub fn raw_message(&mut self, message: &[u8]) {
        self.transcript.extend_from_slice(message);
        match &mut self.framing {
            Framing::Apart => self.record(HANDSHAKE, message),
            Framing::Together(all) => all.extend_from_slice(message),
            Framing::Cut(length) => {
                let length = *length;
                for part in message.chunks(length) {
                    self.record(HANDSHAKE, part);
                }
            }
        }
    }

    /// A handshake message in a record without protection, though there may be keys.
    pub fn plain_message(&mut self, kind: u8, body: &[u8]) {
        let message = [&[kind][..], &counted(3, body)].concat();
        self.transcript.extend_from_slice(&message);
        self.raw(&plain(HANDSHAKE, &message));
    }

    /// A record, protected if there are keys.
    pub fn record(&mut self, content_type: u8, content: &[u8]) {
        let record = match &mut self.send {
            Some(keys) => keys.seal(content_type, content),
            None => plain(content_type, content),
        };
        self.wire.extend(record);
    }

    /// A protected record around an inner plaintext given whole.
    pub fn inner(&mut self, inner: &[u8]) {
        if let Some(keys) = &mut self.send {
            let record = keys.seal_inner(inner.to_vec());
            self.wire.extend(record);
        }
    }

    /// A record of application data.
    pub fn application(&mut self, content: &[u8]) {
        self.record(APPLICATION, content);
    }

    /// Octets on the wire as they are.
    pub fn raw(&mut self, octets: &[u8]) {
        self.wire.extend_from_slice(octets);
    }

    /// All messages of `say` in one record.
    pub fn together(&mut self, say: impl FnOnce(&mut Self)) {
        self.framing = Framing::Together(Vec::new());
        say(self);
        self.flush();
        self.framing = Framing::Apart;
    }

    /// The messages of `say` cut into records of `length` octets.
    pub fn cut(&mut self, length: usize, say: impl FnOnce(&mut Self)) {
        self.framing = Framing::Cut(length);
        say(self);
        self.framing = Framing::Apart;
    }

    /// Hears a handshake message of the client.
    pub fn heard(&mut self, message: &[u8]) {
        self.transcript.extend_from_slice(message);
    }

    /// Derives the handshake keys (RFC 8446 §7.1) from the transcript as it stands.
    fn agree(&mut self) {
        let Some(key) = self.key.take() else { return };
        let theirs = UnparsedPublicKey::new(&ECDH_P256, &self.client.share);
        let shared = agree_ephemeral(key, theirs, (), |shared| Ok(shared.to_vec()));
        let early = mac(&[0; 32], &[0; 32]);
        self.handshake_secret = mac(&derive(&early, "derived", &hash(&[])), &shared.unwrap_or_default());
        let transcript = self.transcript();
        self.client_traffic = derive(&self.handshake_secret, "c hs traffic", &transcript);
        self.server_traffic = derive(&self.handshake_secret, "s hs traffic", &transcript);
        self.send = Some(Keys::new(&self.server_traffic));
        self.receive[0] = Some(Keys::new(&self.client_traffic));
    }

    fn application_keys(&mut self) {
        let master = mac(&derive(&self.handshake_secret, "derived", &hash(&[])), &[0; 32]);
        let transcript = self.transcript();
        self.send = Some(Keys::new(&derive(&master, "s ap traffic", &transcript)));
        self.receive[1] = Some(Keys::new(&derive(&master, "c ap traffic", &transcript)));
    }

    fn flush(&mut self) {
        if let Framing::Together(all) = &mut self.framing {
            let all = std::mem::take(all);
            if !all.is_empty() {
                self.record(HANDSHAKE, &all);
            }
        }
    }
}

/// An extension, encoded.
#[must_use]
pub fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &counted(2, body)].concat()
}

/// `octets` after their length in `width` octets.
#[must_use]
pub fn counted(width: usize, octets: &[u8]) -> Vec<u8> {
    let length = octets.len().to_be_bytes();
    [&length[length.len() - width..], octets].concat()
}

/// Takes a vector with a length of `width` octets off `rest`.
fn take<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(width)?;
    let length = length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
    let (taken, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}
