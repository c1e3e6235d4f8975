//! What every device is called, in some forty octets for each: names as text in one piece of memory, and
//! tables of device numbers that find them there.
//!
//! ```text
//! text of a device   tenant (2, a number) | length of id | length of serial, 0: the same as the id | id | serial
//! ```

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::Arc,
};

use muster_shared::{DeviceId, SerialNumber, Tenant};
use parking_lot::Mutex;

use super::verdict::{DeviceKey, DeviceName};

/// Names that are kept as they are handed out: those of the devices that talk.
const RECENT: usize = 4096;

type Kept = Mutex<Option<(DeviceKey, Arc<DeviceName>)>>;

pub(super) struct Names {
    text: Vec<u8>,
    /// Where the text of each device begins.
    at: Vec<u32>,
    /// The registry's row of each device: larger for a larger key, but for those in `odd`.
    rows: Vec<i64>,
    odd: HashMap<i64, DeviceKey>,
    tenants: Vec<Tenant>,
    tenant_numbers: HashMap<Tenant, u16>,
    by_id: Table,
    /// Devices whose serial is another text than their id.
    by_serial: Table,
    /// Devices that are in the tables; those put before [`Names::settle`] are not yet.
    tabled: u32,
    /// Put them there one by one.
    settled: bool,
    hasher: RandomState,
    recent: Box<[Kept]>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            at: Vec::new(),
            rows: Vec::new(),
            odd: HashMap::new(),
            tenants: Vec::new(),
            tenant_numbers: HashMap::new(),
            by_id: Table::default(),
            by_serial: Table::default(),
            tabled: 0,
            settled: true,
            hasher: RandomState::new(),
            recent: (0..RECENT).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Names {
    /// With room for so many devices, which nobody asks for by name before [`Names::settle`].
    pub(super) fn gathering(devices: usize) -> Self {
        let mut names = Self { settled: false, ..Self::default() };
        names.at.reserve(devices);
        names.rows.reserve(devices);
        names.grow(devices);
        names
    }

    /// Every device is found by its names from here on. They go into the tables together: each is at a place
    /// of its own far from the last, and a processor waits for many such places at once if it may.
    pub(super) fn settle(&mut self) {
        for device in self.tabled..self.at.len() as u32 {
            self.table(DeviceKey(device));
        }
        self.settled = true;
    }

    pub(super) fn len(&self) -> usize {
        self.at.len()
    }

    /// The device of a row.
    pub(super) fn by_row(&self, row: i64) -> Option<DeviceKey> {
        let at = self.place(row);
        match self.rows.get(at) {
            Some(of) if *of == row => Some(DeviceKey(at as u32)),
            _ => self.odd.get(&row).copied(),
        }
    }

    /// Where the first row stands that is not below this one; one in `odd` repeats the value before it.
    fn place(&self, row: i64) -> usize {
        // Rows are given one after another: where none was left out, they stand at their distance from the first.
        let of_first = self.rows.first().and_then(|first| usize::try_from(row.checked_sub(*first)?).ok());
        if let Some(guess) = of_first
            && let Some([before, at]) = self.rows.get(guess.saturating_sub(1)..=guess)
            && *before < row
            && row <= *at
        {
            return guess;
        }
        match self.rows.last() {
            Some(last) if *last < row => self.rows.len(),
            _ => self.rows.partition_point(|of| *of < row),
        }
    }

    /// The row of a device.
    pub(super) fn row(&self, device: DeviceKey) -> Option<i64> {
        let row = *self.rows.get(device.0 as usize)?;
        if self.odd.is_empty() {
            return Some(row);
        }
        self.odd.iter().find(|(_, odd)| **odd == device).map_or(Some(row), |(row, _)| Some(*row))
    }

    /// The device with this id.
    pub(super) fn by_id(&self, tenant: &Tenant, id: &str) -> Option<DeviceKey> {
        debug_assert!(self.settled, "names that are still gathered");
        let tenant = *self.tenant_numbers.get(tenant)?;
        let hash = self.hash(tenant, id);
        self.by_id.find(hash, |device| self.parts(device).0 == tenant && self.parts(device).1 == id)
    }

    /// The device with this serial.
    pub(super) fn by_serial(&self, tenant: &Tenant, serial: &str) -> Option<DeviceKey> {
        let number = *self.tenant_numbers.get(tenant)?;
        let same = self.by_id(tenant, serial).filter(|device| self.parts(*device).2 == serial);
        let hash = self.hash(number, serial);
        same.or_else(|| {
            self.by_serial
                .find(hash, |device| self.parts(device).0 == number && self.parts(device).2 == serial)
        })
    }

    /// What a device is called.
    ///
    /// # Panics
    /// For a key that was never given out.
    pub(super) fn name(&self, device: DeviceKey) -> Arc<DeviceName> {
        let mut kept = self.recent[device.0 as usize % RECENT].lock();
        if let Some((_, name)) = kept.as_ref().filter(|(of, _)| *of == device) {
            return name.clone();
        }
        let (tenant, id, serial) = self.parts(device);
        let name = Arc::new(DeviceName {
            tenant: self.tenants[usize::from(tenant)].clone(),
            device_id: DeviceId::new(id).expect("it was one when it was put"),
            serial: SerialNumber::new(serial).expect("it was one when it was put"),
        });
        *kept = Some((device, name.clone()));
        name
    }

    /// Takes in a device that is not there yet.
    pub(super) fn put(
        &mut self,
        row: i64,
        tenant: &Tenant,
        id: &DeviceId,
        serial: &SerialNumber,
    ) -> DeviceKey {
        let device = DeviceKey(u32::try_from(self.at.len()).expect("fewer than 2^32 devices"));
        let tenant = self.tenant(tenant);
        let (id, serial) = (id.as_str(), serial.as_str());
        let same = id == serial;
        self.at.push(u32::try_from(self.text.len()).expect("names of fewer than 2^32 octets"));
        self.text.extend_from_slice(&tenant.to_le_bytes());
        let length = |text: &str| u8::try_from(text.len()).expect("an id has at most 48 octets");
        self.text.extend_from_slice(&[length(id), if same { 0 } else { length(serial) }]);
        self.text.extend_from_slice(id.as_bytes());
        if !same {
            self.text.extend_from_slice(serial.as_bytes());
        }
        match self.rows.last() {
            Some(last) if *last >= row => {
                self.odd.insert(row, device);
                // Keeps the order, and names no row of its own.
                self.rows.push(*last);
            }
            _ => self.rows.push(row),
        }
        if self.settled {
            self.table(device);
        }
        device
    }

    /// Puts a device into the tables, where it is the next.
    fn table(&mut self, device: DeviceKey) {
        self.grow(1);
        let (tenant, id, serial) = self.parts(device);
        let hash = self.hash(tenant, id);
        let other = (serial != id).then(|| self.hash(tenant, serial));
        self.by_id.put(hash, device);
        if let Some(hash) = other {
            self.by_serial.put(hash, device);
        }
        self.tabled += 1;
    }

    fn tenant(&mut self, tenant: &Tenant) -> u16 {
        if let Some(number) = self.tenant_numbers.get(tenant) {
            return *number;
        }
        let number = u16::try_from(self.tenants.len()).expect("fewer than 65 536 tenants");
        self.tenants.push(tenant.clone());
        self.tenant_numbers.insert(tenant.clone(), number);
        number
    }

    /// Tenant, id and serial of a device.
    fn parts(&self, device: DeviceKey) -> (u16, &str, &str) {
        let at = self.at[device.0 as usize] as usize;
        let [low, high, id, serial] = self.text[at..at + 4] else { unreachable!("four octets") };
        let (id, serial) = (usize::from(id), usize::from(serial));
        let text = |from: usize, len: usize| {
            std::str::from_utf8(&self.text[from..from + len]).expect("it was text when it was put")
        };
        let (id, behind) = (text(at + 4, id), at + 4 + id);
        (u16::from_le_bytes([low, high]), id, if serial == 0 { id } else { text(behind, serial) })
    }

    fn hash(&self, tenant: u16, text: &str) -> u64 {
        self.hasher.hash_one((tenant, text))
    }

    /// Makes room in the tables for so many more.
    fn grow(&mut self, more: usize) {
        for (serials, mut table) in
            [(false, std::mem::take(&mut self.by_id)), (true, std::mem::take(&mut self.by_serial))]
        {
            // Those with a serial of their own are few, or all.
            let wanted = if serials && more > 1 { table.len } else { table.len + more };
            if let Some(mut larger) = table.larger(wanted) {
                for device in table.devices() {
                    let (tenant, id, serial) = self.parts(device);
                    larger.put(self.hash(tenant, if serials { serial } else { id }), device);
                }
                table = larger;
            }
            if serials { self.by_serial = table } else { self.by_id = table }
        }
    }
}

/// Device numbers by a hash of something of theirs: open addressing, three quarters full at most.
#[derive(Default)]
struct Table {
    /// A power of two of them, or none.
    slots: Vec<u32>,
    len: usize,
}

const FREE: u32 = u32::MAX;

impl Table {
    fn find(&self, hash: u64, is_it: impl Fn(DeviceKey) -> bool) -> Option<DeviceKey> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                FREE => return None,
                device if is_it(DeviceKey(device)) => return Some(DeviceKey(device)),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// There is room.
    fn put(&mut self, hash: u64, device: DeviceKey) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != FREE {
            at = (at + 1) & mask;
        }
        self.slots[at] = device.0;
        self.len += 1;
    }

    /// An empty one with room for so many, where this one has not.
    fn larger(&self, wanted: usize) -> Option<Self> {
        let needed = (wanted * 4 / 3 + 1).next_power_of_two().max(16);
        (needed > self.slots.len()).then(|| Self { slots: vec![FREE; needed], len: 0 })
    }

    fn devices(&self) -> impl Iterator<Item = DeviceKey> {
        self.slots.iter().filter(|slot| **slot != FREE).map(|slot| DeviceKey(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_each_of_its_names() {
        let mut names = Names::gathering(3000);
        let tenants: [Tenant; 2] = ["acme".parse().unwrap(), "other".parse().unwrap()];
        for n in 0..6000_i64 {
            if n == 4000 {
                names.settle();
            }
            let tenant = &tenants[(n % 2) as usize];
            let id: DeviceId = format!("MU-{:06}", n / 2).parse().unwrap();
            let serial = if n % 3 == 0 { format!("S-{n}") } else { id.to_string() };
            // Rows in order, but for one in a hundred.
            let row = if n % 100 == 99 { -n } else { n * 3 + 1 };
            let key = names.put(row, tenant, &id, &serial.parse().unwrap());
            assert_eq!(key, DeviceKey(n as u32));
        }
        for n in 0..6000_i64 {
            let (tenant, key) = (&tenants[(n % 2) as usize], DeviceKey(n as u32));
            let id = format!("MU-{:06}", n / 2);
            let serial = if n % 3 == 0 { format!("S-{n}") } else { id.clone() };
            let row = if n % 100 == 99 { -n } else { n * 3 + 1 };
            assert_eq!(names.by_id(tenant, &id), Some(key));
            assert_eq!(names.by_serial(tenant, &serial), Some(key));
            assert_eq!(names.by_row(row), Some(key), "{n}");
            assert_eq!(names.row(key), Some(row), "{n}");
            let name = names.name(key);
            assert_eq!((name.device_id.as_str(), name.serial.as_str()), (&*id, &*serial));
            assert_eq!(&name.tenant, tenant);
            if n % 3 == 0 {
                assert_eq!(names.by_serial(tenant, &id), None, "its serial is another");
            }
        }
        assert_eq!(names.by_id(&tenants[0], "MU-999999"), None);
        assert_eq!(names.by_row(2), None);
    }
}
