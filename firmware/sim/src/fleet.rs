//! Devices spread over a few threads, each with a runtime of its own.

use std::{io, thread};

use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
};

use crate::device::{Config, Device};

/// Threads that devices live on. Dropping it pulls every plug and joins the threads.
pub struct Fleet {
    threads: Vec<Thread>,
    next: usize,
}

struct Thread {
    // Dropped before the join: its end is what ends the thread.
    orders: Option<mpsc::UnboundedSender<Order>>,
    joined: Option<thread::JoinHandle<()>>,
}

struct Order {
    config: Config,
    spawned: oneshot::Sender<Device>,
}

impl Fleet {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = (0..threads.max(1)).map(Thread::start).collect::<io::Result<_>>()?;
        Ok(Self { threads, next: 0 })
    }

    /// Switches a device on, on the thread whose turn it is.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] when that thread is gone.
    pub async fn spawn(&mut self, config: Config) -> io::Result<Device> {
        let (spawned, device) = oneshot::channel();
        let thread = &self.threads[self.next];
        self.next = (self.next + 1) % self.threads.len();
        if let Some(orders) = &thread.orders {
            // A closed channel also closes `spawned`, which is where it is noticed.
            let _ = orders.send(Order { config, spawned });
        }
        device.await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Thread {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, mut received) = mpsc::unbounded_channel::<Order>();
        let joined = thread::Builder::new().name(format!("fleet-{number}")).spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                while let Some(order) = received.recv().await {
                    // If nobody waits any more, the device is dropped: its plug is pulled.
                    let _ = order.spawned.send(Device::spawn(order.config));
                }
            });
        })?;
        Ok(Self { orders: Some(orders), joined: Some(joined) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(joined) = self.joined.take() {
            // A panic on the thread was reported there; a device's own panics end only that device.
            let _ = joined.join();
        }
    }
}
