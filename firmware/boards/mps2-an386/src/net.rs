//! TCP over DHCP-configured IPv4: embassy-net on the LAN9118.
//!
//! There is one socket, and it outlives the connections made of it: dropping a connection closes it, and
//! the stack still sends what was written and the FIN.

use embassy_executor::Spawner;
use embassy_net::{Config, Ipv4Address, Stack, StackResources, dns::DnsQueryType, tcp, tcp::TcpSocket};
use embassy_net_driver_channel::{self as channel, driver::HardwareAddress};
use embassy_time::{Duration, with_timeout};
use embedded_io_async::{ErrorType, Read, Write};
use muster_firmware::platform::{NetError, Network};
use static_cell::{ConstStaticCell, StaticCell};

use crate::lan9118::{self, Absent, Controller, MTU};

/// Receive window: a TLS record as the server is asked to make it (`TLS_FRAGMENT_MAX`) fits with its overhead.
const RECEIVE: usize = 4608;
/// Send window: one record of the device's transmit buffer fits.
const TRANSMIT: usize = 2304;
/// How long link and address are waited for before the network counts as absent.
const ADDRESS_WITHIN: Duration = Duration::from_secs(8);
/// Sent octets nobody acknowledges for so long end the connection.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a connection being closed may hold up the next one.
const LINGER: Duration = Duration::from_millis(500);

/// The board's network.
pub(crate) struct Tcp {
    stack: Stack<'static>,
    socket: TcpSocket<'static>,
}

/// An open connection.
pub(crate) struct Connection<'a>(&'a mut TcpSocket<'static>);

/// Starts controller and stack. `seed` decides ports and sequence numbers.
pub(crate) fn start(spawner: Spawner, seed: u64) -> Result<Tcp, Absent> {
    static CHANNEL: ConstStaticCell<lan9118::State> = ConstStaticCell::new(lan9118::State::new());
    // DHCP, DNS and TCP.
    static SOCKETS: StaticCell<StackResources<3>> = StaticCell::new();
    static RECEIVED: ConstStaticCell<[u8; RECEIVE]> = ConstStaticCell::new([0; RECEIVE]);
    static TO_SEND: ConstStaticCell<[u8; TRANSMIT]> = ConstStaticCell::new([0; TRANSMIT]);

    let (controller, address) = Controller::start()?;
    let (runner, device) = channel::new(CHANNEL.take(), HardwareAddress::Ethernet(address));
    let sockets = SOCKETS.init(StackResources::new());
    let (stack, stack_runner) = embassy_net::new(device, Config::dhcpv4(Default::default()), sockets, seed);
    spawner.spawn(drive_controller(controller, runner).expect("spawned once"));
    spawner.spawn(drive_stack(stack_runner).expect("spawned once"));

    let mut socket = TcpSocket::new(stack, RECEIVED.take(), TO_SEND.take());
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(SILENCE_MAX));
    Ok(Tcp { stack, socket })
}

#[embassy_executor::task]
async fn drive_controller(controller: Controller, runner: lan9118::Runner) -> ! {
    lan9118::run(controller, runner).await
}

#[embassy_executor::task]
async fn drive_stack(mut runner: embassy_net::Runner<'static, channel::Device<'static, MTU>>) -> ! {
    runner.run().await
}

impl Tcp {
    async fn resolve(&self, host: &str) -> Result<Ipv4Address, NetError> {
        if let Ok(address) = host.parse() {
            return Ok(address);
        }
        let found = self.stack.dns_query(host, DnsQueryType::A).await.map_err(|_| NetError::Name)?;
        match found.first() {
            Some(&embassy_net::IpAddress::Ipv4(address)) => Ok(address),
            None => Err(NetError::Name),
        }
    }

    /// Makes the socket free of the connection before.
    async fn settle(&mut self) {
        if self.socket.state() != tcp::State::Closed {
            let _ = with_timeout(LINGER, self.socket.flush()).await;
            self.socket.abort();
            let _ = with_timeout(LINGER, self.socket.flush()).await;
        }
    }
}

impl Network for Tcp {
    type Socket<'a> = Connection<'a>;

    async fn connect<'a>(&'a mut self, host: &'a str, port: u16) -> Result<Connection<'a>, NetError> {
        with_timeout(ADDRESS_WITHIN, self.stack.wait_config_up()).await.map_err(|_| NetError::Link)?;
        let address = self.resolve(host).await?;
        self.settle().await;
        match self.socket.connect((address, port)).await {
            Ok(()) => Ok(Connection(&mut self.socket)),
            Err(tcp::ConnectError::NoRoute) => Err(NetError::Link),
            Err(_) => Err(NetError::Unreachable),
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl ErrorType for Connection<'_> {
    type Error = tcp::Error;
}

impl Read for Connection<'_> {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, tcp::Error> {
        self.0.read(buffer).await
    }
}

impl Write for Connection<'_> {
    async fn write(&mut self, octets: &[u8]) -> Result<usize, tcp::Error> {
        self.0.write(octets).await
    }

    /// What was written is on its way; waiting until it is acknowledged would cost a round trip each time.
    async fn flush(&mut self) -> Result<(), tcp::Error> {
        Ok(())
    }
}
