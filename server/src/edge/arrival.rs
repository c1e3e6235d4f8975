//! A connection between accept and its handshake: whose it is, and when its turn comes.

use std::{io, net::SocketAddr, rc::Rc};

use futures_util::FutureExt as _;
use muster_shared::Code;
use tokio::{io::Interest, net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};
use tracing::debug;

use super::{
    admission::Visit,
    connection::{self, Connection},
    proxy::{self, Origin},
    shard::Shard,
};
use crate::registry::{Claimed, now_ms};

/// A connection's place among the handshakes. Dropped when its own is over.
pub(super) struct Permit {
    _place: OwnedSemaphorePermit,
    _visit: Visit,
}

/// Takes in a connection that was just accepted, up to where it is known whose it is. `None`: it is closed.
pub(super) async fn receive(
    shard: &Rc<Shard>,
    mut stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
) -> Option<Box<Connection>> {
    let client = client(shard, &mut stream, peer).await.ok()?;
    let node = &shard.node;
    let Some(visit) = node.admission.arrive(client.ip()) else {
        node.tally.addresses_busy.add();
        node.facts.refused(&Claimed::Nobody, Code::AddressBusy, now_ms(), Some(client));
        return None;
    };
    if !visit.turn(&shard.line, || has_gone(&stream)).await {
        return None;
    }
    connection::open(shard, stream, client, Permit { _place: place, _visit: visit }).await
}

/// Who is at the other end: behind a balancer, whom it names.
async fn client(shard: &Shard, stream: &mut TcpStream, peer: SocketAddr) -> Result<SocketAddr, ()> {
    let node = &shard.node;
    if !node.limits.balancers.iter().any(|balancer| balancer.contains(peer.ip())) {
        return Ok(peer);
    }
    let refused = |code| {
        node.facts.refused(&Claimed::Nobody, code, now_ms(), Some(peer));
        Err(())
    };
    // On the heap: whoever comes without a balancer carries no room for it.
    match timeout(node.limits.handshake, Box::pin(proxy::read(stream))).await {
        Ok(Ok(Origin::Client(client))) => Ok(client),
        Ok(Ok(Origin::Balancer)) => Ok(peer),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            debug!(%error, %peer, "a balancer does not say whose connection it is");
            node.tally.headers_missing.add();
            refused(Code::ProxyHeader)
        }
        // It has gone: a check whether somebody listens.
        Ok(Err(_)) => Err(()),
        Err(_) => refused(Code::HandshakeTimeout),
    }
}

/// Has the client closed while it waited? Its handshake would be for nobody.
fn has_gone(stream: &TcpStream) -> bool {
    match stream.ready(Interest::READABLE).now_or_never() {
        Some(Ok(ready)) => ready.is_read_closed(),
        Some(Err(_)) => true,
        None => false,
    }
}
