//! Listening sockets: one a shard on the same address, so that the kernel spreads connections over them.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::limits::ACCEPT_BACKLOG;

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
        socket.listen(ACCEPT_BACKLOG)?;
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_one_port() {
        let all = listen(([127, 0, 0, 1], 0).into(), 3).unwrap();
        let ports: Vec<_> = all.iter().map(|one| one.local_addr().unwrap().port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[test]
    fn an_address_another_server_listens_on_is_taken() {
        let others = listen(([127, 0, 0, 1], 0).into(), 1).unwrap();
        let taken = listen(others[0].local_addr().unwrap(), 1).map_err(|error| error.kind());
        assert_eq!(taken.map(|_| ()), Err(io::ErrorKind::AddrInUse));
    }
}
