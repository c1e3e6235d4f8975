//! What a term of a filter is in SQL: looked at on a row, or as what finds the rows.

use muster_pki::profile::NO_END_S;

use crate::registry::{
    DeviceState, Inner,
    database::{QueryBuilder, int},
    filter::{Age, Compare, Is, Term},
    group::Hold,
    held::{self, Held},
};

/// What terms are read against.
#[derive(Debug, Clone)]
pub(super) struct Against {
    /// Unix milliseconds.
    pub(super) now_ms: u64,
    /// What groups hold devices in.
    pub(super) held: Held,
}

/// How a term finds devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By an index of `device`.
    Index(&'static str),
    /// By a set of their numbers, out of indexes of its own.
    Set,
}

impl Way {
    /// `None` for what can only be looked at on a row.
    pub(super) fn of(term: &Term, against: &Against) -> Option<Self> {
        if term.not {
            return None;
        }
        match &term.is {
            Is::State(of) if !against.held.is_nobody() && holds(of) => Some(Self::Set),
            Is::State(_) => Some(Self::Index("device_state")),
            Is::Batch(_) | Is::Station(_) | Is::Product(_) => Some(Self::Index("device_batch")),
            Is::Tenant(_) | Is::Tag(_) | Is::Group(_) | Is::Text(_) => Some(Self::Set),
            Is::Online(true) => Some(Self::Index("device_online")),
            Is::Online(false) | Is::Firmware(None) => None,
            Is::Seen(_) => Some(Self::Index("device_heard")),
            Is::Expires(_) => Some(Self::Index("device_expires")),
            Is::Refused(..) => Some(Self::Index("device_refused")),
            Is::Firmware(Some(_)) => Some(Self::Index("device_firmware")),
            Is::Serial(_) => Some(Self::Index("device_find_serial")),
        }
    }
}

/// Statements that count the devices a term holds for, each to `most`; their sum is at least their number.
pub(super) fn ways(inner: &Inner, term: &Term, against: &Against, most: i64) -> Vec<QueryBuilder> {
    let bounded = |fill: &dyn Fn(&mut QueryBuilder)| {
        let mut query = QueryBuilder::new("SELECT count(*) FROM (SELECT 1 AS one FROM ");
        fill(&mut query);
        query.push(" LIMIT ").push_bind(most).push(") AS few");
        query
    };
    match (Way::of(term, against), &term.is) {
        (None, _) => Vec::new(),
        (Some(Way::Index(index)), _) => vec![bounded(&|query| {
            query.push(format!("device{} WHERE ", inner.database.by(index)));
            condition(query, term, against);
        })],
        (Some(Way::Set), Is::State(of)) => {
            let parts = StateIn::ALL.into_iter().filter(|part| part.applies(of, against));
            parts.map(|part| bounded(&|query| part.rows(query, of, against))).collect()
        }
        (Some(Way::Set), Is::Text(text)) => {
            let parts = [TextIn::Serial, TextIn::Id, TextIn::Number, TextIn::Certificate];
            let parts = parts.into_iter().filter(|part| part.applies(text));
            parts.map(|part| bounded(&|query| part.rows(query, text))).collect()
        }
        (Some(Way::Set), Is::Tag(word)) => vec![bounded(&|query| labelled(query, "tag", word))],
        (Some(Way::Set), Is::Group(word)) => vec![bounded(&|query| labelled(query, "group", word))],
        (Some(Way::Set), _) => vec![bounded(&|query| {
            query.push("device WHERE ");
            condition(query, term, against);
        })],
    }
}

/// The term as what finds the rows.
pub(super) fn driver(query: &mut QueryBuilder, term: &Term, against: &Against) {
    match &term.is {
        Is::Tenant(tenant) => {
            query.push("device.id IN (SELECT own.id FROM device AS own WHERE own.tenant = ");
            query.push_bind(tenant.as_str().to_owned()).push(")");
        }
        Is::Tag(word) => {
            query.push("device.id IN (SELECT label.device FROM ");
            labelled(query, "tag", word);
            query.push(")");
        }
        Is::Group(word) => {
            query.push("device.id IN (SELECT label.device FROM ");
            labelled(query, "group", word);
            query.push(")");
        }
        Is::Text(text) => {
            query.push("device.id IN (");
            let parts = [TextIn::Serial, TextIn::Id, TextIn::Number, TextIn::Certificate];
            for (at, part) in parts.into_iter().filter(|part| part.applies(text)).enumerate() {
                query.push(if at > 0 { " UNION SELECT " } else { "SELECT " }).push(part.id()).push(" FROM ");
                part.rows(query, text);
            }
            query.push(")");
        }
        Is::State(of) if Way::of(term, against) == Some(Way::Set) => {
            query.push("device.id IN (");
            let parts = StateIn::ALL.into_iter().filter(|part| part.applies(of, against));
            for (at, part) in parts.enumerate() {
                query.push(if at > 0 { " UNION SELECT " } else { "SELECT " }).push(part.id()).push(" FROM ");
                part.rows(query, of, against);
            }
            query.push(") AND ");
            condition(query, term, against);
        }
        _ => condition(query, term, against),
    }
}

/// The term, looked at on a row of `device`.
pub(super) fn condition(query: &mut QueryBuilder, term: &Term, against: &Against) {
    let now_ms = against.now_ms;
    query.push(if term.not { "NOT (" } else { "(" });
    match &term.is {
        Is::State(of) => in_state(query, of, against),
        Is::Tenant(tenant) => {
            query.push("device.tenant = ").push_bind(tenant.as_str().to_owned());
        }
        Is::Batch(batch) => made(query, "made.name", batch.as_str()),
        Is::Station(station) => made(query, "at.name", station.as_str()),
        Is::Product(product) => made(query, "made.product", product),
        Is::Tag(word) => has_label(query, "tag", word),
        Is::Group(word) => has_label(query, "group", word),
        Is::Online(true) => {
            query.push("device.online = 1");
        }
        Is::Online(false) => {
            query.push("device.online = 0");
        }
        Is::Seen(age) => seen(query, *age, now_ms),
        Is::Expires(age) => expires(query, *age, now_ms),
        Is::Refused(compare, count) => {
            query.push(format!("device.refused {} ", sign(*compare))).push_bind(int(*count));
        }
        Is::Firmware(None) => {
            query.push("device.firmware = ''");
        }
        Is::Firmware(Some((compare, version))) => {
            query.push(format!("device.firmware <> '' AND device.firmware_key {} ", sign(*compare)));
            query.push_bind(version.key());
        }
        Is::Serial(begin) => begins(query, "lower(device.serial)", begin),
        Is::Text(text) => {
            begins(query, "lower(device.serial)", text);
            query.push(" OR ");
            begins(query, "lower(device.device_id)", text);
            if TextIn::Number.applies(text) {
                query.push(format!(" OR {} = ", number_of("device"))).push_bind(number(text).to_owned());
            }
            if let Some((from, to)) = octets(text) {
                query.push(" OR device.certificate >= ").push_bind(from);
                query.push(" AND device.certificate <= ").push_bind(to);
            }
        }
    }
    query.push(")");
}

/// Is there one among these that a group can hold a device in?
fn holds(states: &[DeviceState]) -> bool {
    states.iter().any(|state| Hold::of(*state).is_some())
}

/// These states as a list of words.
pub(super) fn words(states: &[DeviceState]) -> String {
    // Words of ours: no input is in them. None at all is a state no device is in.
    let words: Vec<_> = states.iter().map(|state| format!("'{}'", state.as_str())).collect();
    if words.is_empty() { "('')".to_owned() } else { format!("({})", words.join(", ")) }
}

/// The state in force for the row is one of these.
fn in_state(query: &mut QueryBuilder, states: &[DeviceState], against: &Against) {
    let words = words(states);
    if against.held.is_nobody() || !holds(states) {
        // Whom nobody can be held in is in it by himself.
        query.push(format!("device.state IN {words}"));
        if against.held.is_nobody() {
            return;
        }
        query.push(" AND ");
    }
    held::in_force(query, held::OF_DEVICE, &against.held.cas);
    query.push(format!(" IN {words}"));
}

/// Where devices in a state are looked for while groups hold some, each with its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StateIn {
    Own,
    Batch,
    Authority,
}

impl StateIn {
    const ALL: [Self; 3] = [Self::Own, Self::Batch, Self::Authority];

    fn applies(self, states: &[DeviceState], against: &Against) -> bool {
        match self {
            Self::Own => true,
            Self::Batch => against.held.batches,
            Self::Authority => !against.held.cas.is_empty() && states.contains(&DeviceState::Revoked),
        }
    }

    /// The device's number in what [`Self::rows`] selects from.
    fn id(self) -> &'static str {
        if self == Self::Authority { "found.device" } else { "found.id" }
    }

    /// `table WHERE …`.
    fn rows(self, query: &mut QueryBuilder, states: &[DeviceState], against: &Against) {
        let words = words(states);
        match self {
            Self::Own => {
                query.push(format!("device AS found WHERE found.state IN {words}"));
            }
            Self::Batch => {
                // Said for the index, which has those that are held alone.
                query.push(format!(
                    "device AS found WHERE found.batch IN
                     (SELECT made.id FROM batch AS made WHERE made.held <> '' AND made.held IN {words})"
                ));
            }
            Self::Authority => {
                query.push("certificate AS found WHERE found.issuer_key_id IN ");
                held::push_cas(query, &against.held.cas);
            }
        }
    }
}

fn made(query: &mut QueryBuilder, column: &str, value: &str) {
    query.push("device.batch IN (SELECT made.id FROM batch AS made");
    if column.starts_with("at.") {
        query.push(" JOIN station AS at ON at.id = made.station");
    }
    query.push(format!(" WHERE {column} = ")).push_bind(value.to_owned()).push(")");
}

fn labelled(query: &mut QueryBuilder, kind: &'static str, word: &str) {
    query.push(format!("label WHERE label.kind = '{kind}' AND label.word = ")).push_bind(word.to_owned());
}

fn has_label(query: &mut QueryBuilder, kind: &'static str, word: &str) {
    query.push(format!(
        "EXISTS (SELECT 1 FROM label WHERE label.device = device.id AND label.kind = '{kind}' AND label.word = "
    ));
    query.push_bind(word.to_owned()).push(")");
}

fn seen(query: &mut QueryBuilder, age: Age, now_ms: u64) {
    let before = |seconds: u64| int(now_ms.saturating_sub(seconds.saturating_mul(1000)));
    match age {
        Age::Never => {
            query.push("device.heard_ms = 0");
        }
        Age::Less(seconds) => {
            query.push("device.heard_ms > ").push_bind(before(seconds).max(0));
        }
        Age::More(seconds) => {
            query.push("device.heard_ms > 0 AND device.heard_ms < ").push_bind(before(seconds));
        }
    }
}

fn expires(query: &mut QueryBuilder, age: Age, now_ms: u64) {
    let at = |seconds: u64| int(now_ms / 1000).saturating_add(int(seconds));
    match age {
        Age::Never => {
            query.push("device.expires_s >= ").push_bind(NO_END_S);
        }
        Age::Less(seconds) => {
            query.push("device.expires_s > 0 AND device.expires_s < ").push_bind(at(seconds));
        }
        Age::More(seconds) => {
            query.push("device.expires_s > ").push_bind(at(seconds));
        }
    }
}

fn sign(compare: Compare) -> &'static str {
    match compare {
        Compare::Less => "<",
        Compare::LessOrEqual => "<=",
        Compare::Equal => "=",
        Compare::MoreOrEqual => ">=",
        Compare::More => ">",
    }
}

/// A lower-cased column begins with the text: a range of its index.
fn begins(query: &mut QueryBuilder, column: &str, text: &str) {
    query.push(format!("({column} >= ")).push_bind(text.to_owned());
    // The last character there is: no serial has it.
    query.push(format!(" AND {column} < ")).push_bind(format!("{text}\u{10ffff}")).push(")");
}

/// Where a text is looked for, each with its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextIn {
    Serial,
    Id,
    Number,
    Certificate,
}

impl TextIn {
    fn applies(self, text: &str) -> bool {
        match self {
            Self::Serial | Self::Id => true,
            Self::Number => !number(text).is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()),
            Self::Certificate => octets(text).is_some(),
        }
    }

    /// The device's number in what [`Self::rows`] selects from.
    fn id(self) -> &'static str {
        if self == Self::Certificate { "found.device" } else { "found.id" }
    }

    /// `table WHERE …`.
    fn rows(self, query: &mut QueryBuilder, text: &str) {
        match self {
            Self::Serial => {
                query.push("device AS found WHERE ");
                begins(query, "lower(found.serial)", text);
            }
            Self::Id => {
                query.push("device AS found WHERE ");
                begins(query, "lower(found.device_id)", text);
            }
            Self::Number => {
                query.push(format!("device AS found WHERE {} = ", number_of("found")));
                query.push_bind(number(text).to_owned());
            }
            Self::Certificate => {
                let (from, to) = octets(text).unwrap_or_default();
                query.push("certificate AS found WHERE found.id >= ").push_bind(from);
                query.push(" AND found.id <= ").push_bind(to);
            }
        }
    }
}

/// The number a serial ends in, without its zeros, as its index has it.
fn number_of(table: &str) -> String {
    format!("ltrim(substr({table}.serial, length(rtrim({table}.serial, '0123456789')) + 1), '0')")
}

fn number(text: &str) -> &str {
    text.trim_start_matches('0')
}

/// The first and the last digest that begin with these hexadecimal digits: eight of them at least, since fewer
/// are rather a serial's.
fn octets(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    const DIGITS: usize = 64;
    if !(8..=DIGITS).contains(&text.len()) || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return None;
    }
    let filled = |with: &str| hex::decode(format!("{text}{}", with.repeat(DIGITS - text.len()))).ok();
    Some((filled("0")?, filled("f")?))
}
