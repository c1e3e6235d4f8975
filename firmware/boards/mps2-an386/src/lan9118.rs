//! The Ethernet controller: SMSC LAN9118, in programmed I/O (data sheet LAN9118 rev. 1.5).
//!
//! The controller's interrupt is active low until IRQ_CFG says otherwise, so it is unmasked after that.
//! The handler only masks and wakes; [`run`] moves packets between FIFOs and channel, and unmasks.
//! An emulated network looks at its queues when the processor leaves its sleep; after each transmission
//! the driver therefore wakes itself at doubling intervals until the answer must have come.

use core::{future::poll_fn, task::Poll};

use embassy_futures::select::select;
use embassy_net_driver_channel::{self as channel, driver::LinkState};
use embassy_sync::waitqueue::AtomicWaker;
use embassy_time::{Duration, Instant, Timer};

use crate::chip::{Interrupt, LAN9118};

/// Largest Ethernet frame without its check sequence, octets (IEEE 802.3 §3.2.7: 14 + 1500).
pub(crate) const MTU: usize = 1514;
/// Packets in each direction between driver and stack; a TCP window of 4 KiB is three segments.
pub(crate) const QUEUE: usize = 4;

/// What the driver shares with the stack.
pub(crate) type State = channel::State<MTU, QUEUE, QUEUE>;
/// The driver's end of it.
pub(crate) type Runner = channel::Runner<'static, MTU>;

// Direct registers, §5.3.
const RX_DATA: usize = 0x00;
const TX_DATA: usize = 0x20;
const RX_STATUS: usize = 0x40;
const TX_STATUS: usize = 0x48;
const IRQ_CFG: usize = 0x54;
const INT_STS: usize = 0x58;
const INT_EN: usize = 0x5c;
const BYTE_TEST: usize = 0x64;
const FIFO_INT: usize = 0x68;
const TX_CFG: usize = 0x70;
const HW_CFG: usize = 0x74;
const RX_DP_CTL: usize = 0x78;
const RX_FIFO_INF: usize = 0x7c;
const TX_FIFO_INF: usize = 0x80;
const PMT_CTRL: usize = 0x84;
const MAC_CMD: usize = 0xa4;
const MAC_DATA: usize = 0xa8;

// MAC registers, §5.4.
const MAC_CR: u32 = 1;
const MAC_ADDRH: u32 = 2;
const MAC_ADDRL: u32 = 3;
const MAC_MII_ACC: u32 = 6;
const MAC_MII_DATA: u32 = 7;

// PHY registers, §5.5.
const PHY_CONTROL: u32 = 0;
const PHY_STATUS: u32 = 1;
const PHY_INTERRUPT_SOURCE: u32 = 29;
const PHY_INTERRUPT_MASK: u32 = 30;

const BYTE_TEST_VALUE: u32 = 0x8765_4321;
/// IRQ enabled, active high, push-pull.
const IRQ_ON_HIGH_PUSH_PULL: u32 = 0x111;
const RX_STATUS_LEVEL: u32 = 1 << 3;
const PHY_INTERRUPT: u32 = 1 << 18;
const BUSY: u32 = 1 << 31;

/// Polls of a register before the part counts as absent: far more than any wait the data sheet names.
const PATIENCE: u32 = 100_000;
const KICK_FIRST: Duration = Duration::from_millis(1);
const KICK_LAST: Duration = Duration::from_millis(512);

static WOKEN: AtomicWaker = AtomicWaker::new();

/// Something arrived, or the link changed.
pub(crate) extern "C" fn on_interrupt() {
    Interrupt::Ethernet.mask();
    WOKEN.wake();
}

/// The controller, started.
pub(crate) struct Controller(());

/// Why the controller cannot be used.
#[derive(Debug)]
pub(crate) enum Absent {
    /// It does not answer with its test pattern, or never becomes ready.
    Silent,
    /// Its MAC or PHY stays busy.
    Busy,
}

impl Controller {
    /// Resets and starts the controller; gives it and its hardware address.
    pub(crate) fn start() -> Result<(Self, [u8; 6]), Absent> {
        let until =
            |ready: &dyn Fn() -> bool| (0..PATIENCE).any(|_| ready()).then_some(()).ok_or(Absent::Silent);
        until(&|| LAN9118.read(BYTE_TEST) == BYTE_TEST_VALUE)?;
        LAN9118.write(HW_CFG, 1);
        until(&|| LAN9118.read(HW_CFG) & 1 == 0)?;
        until(&|| LAN9118.read(PMT_CTRL) & 1 != 0)?;
        // 5 KiB of transmit FIFO, and "must be one".
        LAN9118.write(HW_CFG, 5 << 16 | 1 << 20);
        // Interrupt at the first received packet.
        LAN9118.write(FIFO_INT, 0);
        LAN9118.write(INT_EN, 0);
        LAN9118.write(INT_STS, u32::MAX);

        let [a, b, c, d] = mac_read(MAC_ADDRL)?.to_le_bytes();
        let [e, f, ..] = mac_read(MAC_ADDRH)?.to_le_bytes();
        let mut address = [a, b, c, d, e, f];
        if address == [0xff; 6] {
            // No EEPROM: a locally administered address (IEEE 802 §8.2).
            address = [0x02, 0x4d, 0x53, 0x54, 0x00, 0x01];
            mac_write(MAC_ADDRL, u32::from_le_bytes([0x02, 0x4d, 0x53, 0x54]))?;
            mac_write(MAC_ADDRH, 0x0100)?;
        }

        // Negotiate; interrupt when that ends or the link goes.
        phy_write(PHY_CONTROL, 0x1200)?;
        phy_write(PHY_INTERRUPT_MASK, 1 << 6 | 1 << 4)?;
        // Full duplex, transmitter and receiver on.
        mac_write(MAC_CR, 1 << 20 | 1 << 3 | 1 << 2)?;
        LAN9118.write(TX_CFG, 1 << 1);
        LAN9118.write(IRQ_CFG, IRQ_ON_HIGH_PUSH_PULL);
        LAN9118.write(INT_EN, RX_STATUS_LEVEL | PHY_INTERRUPT);
        Ok((Self(()), address))
    }

    /// Is there a packet?
    fn received(&self) -> bool {
        (LAN9118.read(RX_FIFO_INF) >> 16) & 0xff != 0
    }

    /// Takes the next packet out of the FIFO; its length, or 0 when it was damaged or too long.
    fn receive(&mut self, packet: &mut [u8]) -> usize {
        let status = LAN9118.read(RX_STATUS);
        // The length counts the check sequence; the FIFO holds whole words.
        let octets = (status >> 16 & 0x3fff) as usize;
        let len = octets.saturating_sub(4);
        let words = octets.div_ceil(4);
        if status & 1 << 15 != 0 || len > packet.len() {
            discard(words);
            return 0;
        }
        let (whole, rest) = packet[..len].as_chunks_mut::<4>();
        let taken = whole.len() + usize::from(!rest.is_empty());
        for word in whole {
            *word = LAN9118.read(RX_DATA).to_le_bytes();
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&LAN9118.read(RX_DATA).to_le_bytes()[..rest.len()]);
        }
        for _ in taken..words {
            LAN9118.read(RX_DATA);
        }
        len
    }

    /// Is there room for the largest packet and its two command words?
    fn can_transmit(&self) -> bool {
        LAN9118.read(TX_FIFO_INF) & 0xffff >= (MTU as u32).next_multiple_of(4) + 8
    }

    /// Hands one packet to the transmitter.
    fn transmit(&mut self, packet: &[u8]) {
        let len = packet.len() as u32 & 0x7ff;
        // Command A: first and last segment, its length. Command B: the packet's length.
        LAN9118.write(TX_DATA, 1 << 13 | 1 << 12 | len);
        LAN9118.write(TX_DATA, len);
        let (whole, rest) = packet.as_chunks::<4>();
        for word in whole {
            LAN9118.write(TX_DATA, u32::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 4];
            word[..rest.len()].copy_from_slice(rest);
            LAN9118.write(TX_DATA, u32::from_le_bytes(word));
        }
        // Nobody asks how it went, but a full status FIFO would stop the transmitter.
        while (LAN9118.read(TX_FIFO_INF) >> 16) & 0xff != 0 {
            LAN9118.read(TX_STATUS);
        }
    }

    /// Clears what has interrupted; the link's state when that may have changed.
    fn acknowledge(&mut self) -> Option<LinkState> {
        let causes = LAN9118.read(INT_STS);
        if causes & PHY_INTERRUPT != 0 {
            let _ = phy_read(PHY_INTERRUPT_SOURCE);
        }
        LAN9118.write(INT_STS, causes);
        (causes & PHY_INTERRUPT != 0).then(|| self.link())
    }

    fn link(&self) -> LinkState {
        // The bit latches low: the first reading is history.
        let _ = phy_read(PHY_STATUS);
        match phy_read(PHY_STATUS) {
            Ok(status) if status & 1 << 2 != 0 => LinkState::Up,
            _ => LinkState::Down,
        }
    }
}

/// Moves packets, for ever.
pub(crate) async fn run(mut controller: Controller, mut runner: Runner) -> ! {
    runner.set_link_state(controller.link());
    let mut kick: Option<(Instant, Duration)> = None;
    loop {
        if let Some(link) = controller.acknowledge() {
            runner.set_link_state(link);
        }
        while controller.received()
            && let Some(buffer) = runner.try_rx_buf()
        {
            match controller.receive(buffer) {
                0 => {}
                len => runner.rx_done(len),
            }
        }
        while controller.can_transmit()
            && let Some(packet) = runner.try_tx_buf()
        {
            controller.transmit(packet);
            runner.tx_done();
            kick = Some((Instant::now() + KICK_FIRST, KICK_FIRST));
        }
        select(something_to_do(&controller, &mut runner), at(kick.map(|(at, _)| at))).await;
        kick = kick.and_then(|(at, wait)| next_kick(at, wait));
    }
}

/// Ready when a packet can move: received with room in the channel, or to be sent with room in the FIFO.
async fn something_to_do(controller: &Controller, runner: &mut Runner) {
    let mut slept = false;
    poll_fn(|cx| {
        WOKEN.register(cx.waker());
        let sendable = runner.poll_tx_buf(cx).is_ready() && controller.can_transmit();
        let receivable = controller.received();
        // While packets wait in the FIFO for room in the channel, the room wakes, not the interrupt.
        let takeable = receivable && runner.poll_rx_buf(cx).is_ready();
        if sendable || takeable || slept {
            return Poll::Ready(());
        }
        slept = true;
        if !receivable {
            Interrupt::Ethernet.unmask();
        }
        Poll::Pending
    })
    .await;
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => Timer::at(when).await,
        None => core::future::pending().await,
    }
}

fn next_kick(at: Instant, wait: Duration) -> Option<(Instant, Duration)> {
    let now = Instant::now();
    if now < at {
        return Some((at, wait));
    }
    let wait = wait * 2;
    (wait <= KICK_LAST).then(|| (now + wait, wait))
}

fn discard(words: usize) {
    if words < 4 {
        // Fast forward needs four words in the FIFO (§3.13.1.1).
        for _ in 0..words {
            LAN9118.read(RX_DATA);
        }
        return;
    }
    LAN9118.write(RX_DP_CTL, BUSY);
    let _ = (0..PATIENCE).any(|_| LAN9118.read(RX_DP_CTL) & BUSY == 0);
}

fn mac_idle() -> Result<(), Absent> {
    (0..PATIENCE).any(|_| LAN9118.read(MAC_CMD) & BUSY == 0).then_some(()).ok_or(Absent::Busy)
}

fn mac_read(register: u32) -> Result<u32, Absent> {
    mac_idle()?;
    LAN9118.write(MAC_CMD, BUSY | 1 << 30 | register);
    mac_idle()?;
    Ok(LAN9118.read(MAC_DATA))
}

fn mac_write(register: u32, value: u32) -> Result<(), Absent> {
    mac_idle()?;
    LAN9118.write(MAC_DATA, value);
    LAN9118.write(MAC_CMD, BUSY | register);
    mac_idle()
}

fn mii(register: u32, write: bool) -> Result<(), Absent> {
    // The internal PHY has address 1.
    mac_write(MAC_MII_ACC, 1 << 11 | register << 6 | u32::from(write) << 1 | 1)?;
    for _ in 0..PATIENCE {
        if mac_read(MAC_MII_ACC)? & 1 == 0 {
            return Ok(());
        }
    }
    Err(Absent::Busy)
}

fn phy_read(register: u32) -> Result<u32, Absent> {
    mii(register, false)?;
    mac_read(MAC_MII_DATA)
}

fn phy_write(register: u32, value: u32) -> Result<(), Absent> {
    mac_write(MAC_MII_DATA, value)?;
    mii(register, true)
}
