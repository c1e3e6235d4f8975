//! What the device takes of a board's memory.

use muster_firmware::{Resources, testing::TestPlatform};

/// Measured on the host, where pointers are twice as long as on a board.
#[test]
fn the_device_stays_within_its_budget() {
    let resources = size_of::<Resources>();
    let (platform, _station) = TestPlatform::flashed();
    let mut room = Box::new(Resources::new());
    let device = size_of_val(&muster_firmware::run(platform, &mut room));
    println!("resources {resources}, future {device} octets");
    assert!(resources <= 24 * 1024, "buffers: {resources} octets");
    assert!(device <= 16 * 1024, "future: {device} octets");
}
