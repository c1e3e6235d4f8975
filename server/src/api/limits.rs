//! How much may be asked of the API, with the source of each bound. What an operator sets is in the section
//! `[https]` of the configuration, shown by `muster config` and on the page's settings.

/// What an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests of one credential in a second, averaged over [`Limits::requests_burst`]: an operator's script in
    /// a loop stays below it, and ten of them leave the registry room for devices.
    pub requests_per_s: u32,
    /// Requests of one credential at once after a pause: two seconds' worth, which is a page with all of its
    /// parts many times over.
    pub requests_burst: u32,
    /// Event streams of one credential: a browser's tabs and a few programs.
    pub streams_each: usize,
    /// Event streams of the server: each is a connection, of which there are 512.
    pub streams_max: usize,
    /// Largest JSON document or form, octets: a twin's state, the largest one taken, is 16 KiB, and its JSON may
    /// escape each octet. Files have `https.body_max`.
    pub json_max: usize,
    /// Failed sign-ins of one address, or of one name, in five minutes: a person mistypes a few times.
    pub sign_in_failures_max: u32,
}

/// Most event streams of a server an operator may allow: each holds a connection and a place in the log.
pub const STREAMS_MAX: usize = 65_536;
/// Smallest bound of a JSON document, octets: a decision with its reason fits.
pub const JSON_MAX_LEAST: usize = 4 * 1024;
/// Largest bound of a JSON document, octets: it is held in memory whole.
pub const JSON_MAX_MOST: usize = 16 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_s: 200,
            requests_burst: 400,
            streams_each: 16,
            streams_max: 256,
            json_max: 64 * 1024,
            sign_in_failures_max: 10,
        }
    }
}
