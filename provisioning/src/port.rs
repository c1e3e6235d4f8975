//! The only file that opens a port: a serial line, or a socket for an emulated board.
//!
//! `/dev/ttyUSB0`, `tcp:HOST:PORT`, `unix:PATH`.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use muster_shared::Code;
use serialport::SerialPort;

use crate::fault::Fault;

/// Bits a second on a serial line.
pub const BAUD: u32 = 115_200;
/// How long one read waits for octets.
const READ: Duration = Duration::from_millis(20);
/// How long a write may block, and a connection may take.
const WRITE: Duration = Duration::from_secs(5);

/// Where a unit is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortName {
    /// A serial line.
    Serial(PathBuf),
    /// An emulated board's line on TCP.
    Tcp(String),
    /// An emulated board's line on a Unix socket.
    Unix(PathBuf),
}

impl FromStr for PortName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("tcp", address)) if address.contains(':') => Ok(Self::Tcp(address.to_owned())),
            Some(("tcp", _)) => Err(format!("{text:?} is not tcp:HOST:PORT")),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ if text.is_empty() => Err("the port's name is empty".to_owned()),
            _ => Ok(Self::Serial(text.into())),
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(path) => path.display().fmt(f),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a port is not open.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another program has it.
    #[error("{port} is held by {holder}")]
    Busy {
        /// Which.
        port: String,
        /// Program, process and user, as far as they can be seen.
        holder: String,
    },
    /// There is no such port, or nobody listens there.
    #[error("{port}: {why}")]
    Absent {
        /// Which.
        port: String,
        /// What the system says.
        why: String,
    },
    /// This user may not open it.
    #[error("{port}: this user may not open it")]
    Permission {
        /// Which.
        port: String,
    },
    /// Something else.
    #[error("{port}: {source}")]
    Io {
        /// Which.
        port: String,
        /// What the system says.
        source: io::Error,
    },
}

impl From<PortError> for Fault {
    fn from(error: PortError) -> Self {
        let fault = Fault::new(Code::StationPortInUse, &error);
        match error {
            PortError::Busy { .. } => fault,
            PortError::Absent { .. } => fault.what("port is not there").next("plug it in, or correct --port"),
            PortError::Permission { port } => fault
                .what("no permission for the port")
                .next(format!("CALL: add this user to the group that owns {port} (often dialout)")),
            PortError::Io { .. } => fault.what("port cannot be used").next("CALL"),
        }
    }
}

/// An open port.
pub struct Port {
    name: PortName,
    line: Line,
}

enum Line {
    Serial(Box<dyn SerialPort>),
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Port {
    /// Opens a port. A serial line is taken for this process alone.
    ///
    /// # Errors
    /// [`PortError`] tells busy, absent and forbidden apart.
    pub fn open(name: &PortName) -> Result<Self, PortError> {
        let port = || name.to_string();
        let sort = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => PortError::Permission { port: port() },
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => {
                PortError::Absent { port: port(), why: source.to_string() }
            }
            io::ErrorKind::ResourceBusy => PortError::Busy { port: port(), holder: "another program".into() },
            _ => PortError::Io { port: port(), source },
        };
        let line = match name {
            PortName::Serial(path) => Line::Serial(serial(path)?),
            PortName::Tcp(address) => {
                let found = address
                    .to_socket_addrs()
                    .map_err(|error| PortError::Absent { port: port(), why: error.to_string() })?;
                let stream = connect(found).map_err(sort)?;
                let set = stream
                    .set_read_timeout(Some(READ))
                    .and_then(|()| stream.set_write_timeout(Some(WRITE)))
                    .and_then(|()| stream.set_nodelay(true));
                set.map_err(sort)?;
                Line::Tcp(stream)
            }
            PortName::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(sort)?;
                let set = stream.set_read_timeout(Some(READ));
                set.and_then(|()| stream.set_write_timeout(Some(WRITE))).map_err(sort)?;
                Line::Unix(stream)
            }
        };
        Ok(Self { name: name.clone(), line })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &PortName {
        &self.name
    }

    /// Octets from the line; none when none came within a moment.
    ///
    /// # Errors
    /// When the line is gone: the board was unplugged, or the emulator ended.
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.line {
            Line::Serial(line) => line.read(room),
            Line::Tcp(line) => line.read(room).and_then(gone),
            Line::Unix(line) => line.read(room).and_then(gone),
        };
        match read {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(0)
            }
            other => other,
        }
    }

    /// Puts octets on the line.
    ///
    /// # Errors
    /// When the line is gone or does not take them.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match &mut self.line {
            Line::Serial(line) => line.write_all(octets).and_then(|()| line.flush()),
            Line::Tcp(line) => line.write_all(octets),
            Line::Unix(line) => line.write_all(octets),
        }
    }
}

/// A socket that reads nothing has been closed by the other side.
fn gone(read: usize) -> io::Result<usize> {
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
}

fn connect(addresses: impl Iterator<Item = std::net::SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, WRITE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn serial(path: &Path) -> Result<Box<dyn SerialPort>, PortError> {
    let port = || path.display().to_string();
    // What is no character device is no port; opening it as one gives only a number.
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_char_device() => {}
        Ok(_) => return Err(PortError::Absent { port: port(), why: "is no serial port".into() }),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(PortError::Permission { port: port() });
        }
        Err(error) => return Err(PortError::Absent { port: port(), why: error.to_string() }),
    }
    if let Some(holder) = holder(path) {
        return Err(PortError::Busy { port: port(), holder });
    }
    serialport::new(path.to_string_lossy(), BAUD).timeout(READ).open().map_err(|error| match error.kind() {
        serialport::ErrorKind::NoDevice if error.description.contains("busy") => {
            PortError::Busy { port: port(), holder: "another program".into() }
        }
        serialport::ErrorKind::NoDevice => PortError::Absent { port: port(), why: error.description },
        serialport::ErrorKind::Io(io::ErrorKind::PermissionDenied) => PortError::Permission { port: port() },
        serialport::ErrorKind::Io(io::ErrorKind::ResourceBusy) => {
            PortError::Busy { port: port(), holder: "another program".into() }
        }
        _ => PortError::Io { port: port(), source: error.into() },
    })
}

/// Who else has the device open: looks through `/proc`, so it sees what this user may see.
fn holder(path: &Path) -> Option<String> {
    let device = fs::canonicalize(path).ok()?;
    let me = std::process::id();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if id == me {
            continue;
        }
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let open =
            files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == device));
        if open {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let name = if name.trim().is_empty() { "a program" } else { name.trim() };
            let user = fs::metadata(process.path()).ok().and_then(|found| user(found.uid()));
            let user = user.map(|user| format!(", user {user}")).unwrap_or_default();
            return Some(format!("{name}, process {id}{user}"));
        }
    }
    None
}

/// The name of a user of this machine.
fn user(id: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let mut found = users.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    found.next()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixListener};

    use super::*;

    fn fault(name: &str) -> Fault {
        Port::open(&name.parse().unwrap()).err().expect("cannot be opened").into()
    }

    #[test]
    fn names() {
        assert_eq!("tcp:localhost:99".parse(), Ok(PortName::Tcp("localhost:99".into())));
        assert_eq!("unix:/tmp/x".parse(), Ok(PortName::Unix("/tmp/x".into())));
        assert_eq!("/dev/ttyUSB0".parse(), Ok(PortName::Serial("/dev/ttyUSB0".into())));
        for odd in ["", "tcp:99", "tcp:"] {
            assert!(odd.parse::<PortName>().is_err(), "{odd}");
        }
        for name in ["tcp:localhost:99", "unix:/tmp/x", "/dev/ttyUSB0"] {
            assert_eq!(name.parse::<PortName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn absent_is_told_from_busy() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        assert_eq!(fault(&path("ttyNone")).words(), "port is not there");
        assert_eq!(fault(&format!("unix:{}", path("none"))).words(), "port is not there");
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(fault(&path("file")).words(), "port is not there");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(fault(&format!("tcp:{closed}")).words(), "port is not there");
        assert_eq!(fault(&format!("tcp:{closed}")).code, Code::StationPortInUse);
    }

    #[test]
    fn users_have_names() {
        assert_eq!(user(0).as_deref(), Some("root"));
        assert_eq!(user(u32::MAX), None);
    }

    #[test]
    fn sockets_carry_octets_and_say_when_they_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("line");
        let listener = UnixListener::bind(&path).unwrap();
        let mut port = Port::open(&PortName::Unix(path)).unwrap();
        let (mut board, _) = listener.accept().unwrap();
        let mut room = [0; 8];
        assert_eq!(port.read(&mut room).unwrap(), 0, "silence is no error");
        port.write(b"abc").unwrap();
        board.read_exact(&mut room[..3]).unwrap();
        assert_eq!(&room[..3], b"abc");
        board.write_all(b"de").unwrap();
        assert_eq!(port.read(&mut room).unwrap(), 2);
        drop(board);
        assert!(port.read(&mut room).is_err());
    }
}
