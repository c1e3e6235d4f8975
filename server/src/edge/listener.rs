//! Listening sockets: one a shard on the same address, so that the kernel spreads connections over them; and
//! how many connections the process has descriptors for.

use std::{io, net::SocketAddr};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use super::limits::{ACCEPT_BACKLOG, Limits};

/// `count` sockets that listen on `addr`. With port 0 they share the port the first one is given.
///
/// # Errors
/// [`io::Error`]: the address is taken, or may not be listened on.
pub(super) fn listen(addr: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // SO_REUSEPORT would let a second server share the address in silence.
    drop(socket(addr, false)?);
    let first = socket(addr, true)?;
    let addr = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..count {
        all.push(socket(addr, true)?);
    }
    Ok(all)
}

fn socket(addr: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    if shared {
        // What is accepted has both from its listener (tcp(7), socket(7)). Without the one a CONNACK waits for
        // the client's delayed acknowledgement; the other finds dead peers of clients that asked for no
        // keep-alive in MQTT.
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.listen(ACCEPT_BACKLOG)?;
    }
    Ok(socket.into())
}

/// Takes as many descriptors as the system allows, and bounds connections so that some stay free: without
/// one the uplink log could not begin a segment, and devices that are connected would go unacknowledged.
pub(super) fn within_descriptors(limits: Limits) -> Limits {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` is no limit at all. Who may not raise it keeps what there is.
    let raised =
        current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let Some(descriptors) = (if raised { maximum } else { current }) else { return limits };
    let connections = connections(usize::try_from(descriptors).unwrap_or(usize::MAX), &limits);
    if connections < limits.connections {
        tracing::warn!(
            connections,
            descriptors,
            "fewer connections than configured: raise the limit of open files"
        );
    }
    Limits { connections, ..limits }
}

/// How many connections there may be with so many descriptors.
fn connections(descriptors: usize, limits: &Limits) -> usize {
    // With next to none a quarter is for devices: a server that serves nobody helps nobody.
    let most = descriptors.saturating_sub(limits.descriptors_kept).max(descriptors / 4);
    limits.connections.min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_files() {
        let limits = Limits { connections: 100_000, descriptors_kept: 600, ..Limits::default() };
        assert_eq!(connections(1_000_000, &limits), 100_000);
        assert_eq!(connections(65_536, &limits), 64_936);
        assert_eq!(connections(1024, &limits), 424);
        assert_eq!(connections(96, &limits), 24);
    }

    #[test]
    fn shards_share_one_port() {
        let all = listen(([127, 0, 0, 1], 0).into(), 3).unwrap();
        let ports: Vec<_> = all.iter().map(|one| one.local_addr().unwrap().port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[test]
    fn a_connection_sends_at_once_and_finds_a_dead_peer() {
        let listener = listen(([127, 0, 0, 1], 0).into(), 1).unwrap().remove(0);
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
    }

    #[test]
    fn an_address_another_server_listens_on_is_taken() {
        let others = listen(([127, 0, 0, 1], 0).into(), 1).unwrap();
        let taken = listen(others[0].local_addr().unwrap(), 1).map_err(|error| error.kind());
        assert_eq!(taken.map(|_| ()), Err(io::ErrorKind::AddrInUse));
    }
}
