//! Which devices there are: filtered, in an order, page after page.
//!
//! ```text
//! filter ─► conditions ─┬─ one that few devices meet? ─► its index drives, the few are sorted
//!                       └─ none ─► the order's index drives, the conditions are looked at on the way
//! ```
//!
//! First the numbers of the devices of a page are found, in the narrow rows of `device` alone; then those
//! devices are read. Every filter and every order has an index. How many devices meet a condition is counted
//! to [`FEW`] and no further, so a page costs the same however many devices there are, unless two conditions
//! each hold for many and together for almost none.
//!
//! Totals are added up from the tally where only states and batches are asked for, counted where few devices
//! are looked at anyway, and otherwise a lower bound that says so: [`Page::exact`].

use muster_shared::Tenant;

use self::{
    condition::{Against, Way, condition, driver, ways, words},
    cursor::{Cursor, Key},
};
use super::{
    DeviceState, Inner,
    database::{Connection, QueryBuilder, uint},
    error::RegistryError,
    filter::{Filter, Is, Term},
    group::KeyId,
    held, now_ms,
    query::{DeviceRow, PAGE_MAX, Page, rows},
};

mod condition;
mod cursor;
#[cfg(test)]
mod tests;
mod urgent;

pub use cursor::{Order, Sort};

/// Devices that are few: as many are looked at one by one and sorted in some 20 ms.
const FEW: i64 = 20_000;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Only this tenant's; `None` is every tenant's. Whose devices somebody may see, beside what they ask for.
    pub tenant: Option<Tenant>,
    /// Which.
    pub filter: Filter,
    /// In which order.
    pub order: Order,
    /// After this cursor: the `next` of the page before, of the same order.
    pub after: Option<String>,
    /// Most devices, up to [`PAGE_MAX`].
    pub limit: u32,
}

/// How many devices are in a state.
pub type States = Vec<(DeviceState, u64)>;

/// A listing's terms, ready to be put into statements.
struct Asked {
    terms: Vec<Term>,
    order: Order,
    against: Against,
}

impl Asked {
    fn new(inner: &Inner, listing: &Listing) -> Self {
        let own = listing.tenant.clone().map(|tenant| Term { not: false, is: Is::Tenant(tenant) });
        let terms = own.into_iter().chain(listing.filter.terms.iter().map(positive)).collect();
        let against = Against { now_ms: now_ms(), held: inner.verdicts.holding() };
        Self { terms, order: listing.order, against }
    }

    /// `WHERE` all of the terms, the one that drives first.
    fn conditions(&self, query: &mut QueryBuilder, driving: Option<usize>) {
        query.push(" WHERE 1 = 1");
        for (at, term) in self.terms.iter().enumerate() {
            query.push(" AND ");
            if driving == Some(at) {
                driver(query, term, &self.against);
            } else {
                condition(query, term, &self.against);
            }
        }
    }
}

/// What is said with a "not" and can be said without.
fn positive(term: &Term) -> Term {
    let is = match (&term.is, term.not) {
        (Is::State(states), true) => {
            Is::State(DeviceState::ALL.into_iter().filter(|state| !states.contains(state)).collect())
        }
        (Is::Online(online), true) => Is::Online(!online),
        _ => return term.clone(),
    };
    Term { not: false, is }
}

/// A page of devices.
pub(super) async fn list(inner: &Inner, listing: &Listing) -> Result<Page<DeviceRow>, RegistryError> {
    let limit = listing.limit.clamp(1, PAGE_MAX) as usize;
    let asked = Asked::new(inner, listing);
    let after = listing.after.as_deref().map(|text| Cursor::read(text, listing.order)).transpose()?;
    let mut connection = inner.database.readers().acquire().await?;
    let driving = driving(inner, &mut connection, &asked).await?;
    let mut query = page_query(inner, "", &asked, driving, after.as_ref(), limit + 1);
    let found = query.build().fetch_all(&mut *connection).await?;
    let mut keys = Vec::with_capacity(found.len());
    for row in &found {
        keys.push(Cursor::of(row, listing.order)?);
    }
    let more = keys.len() > limit;
    keys.truncate(limit);
    let next = keys.last().filter(|_| more).map(Cursor::write);
    let ids: Vec<i64> = keys.iter().map(|key| key.id).collect();
    let items = rows(inner, &mut connection, &ids).await?;
    let (total, exact) = if after.is_none() && !more {
        (items.len() as u64, true)
    } else {
        let (counted, exact) = total(inner, &mut connection, &asked, driving).await?;
        (counted.max(items.len() as u64 + u64::from(more)), exact)
    };
    Ok(Page { items, next, total, exact })
}

/// The term that fewest devices meet, if they are few.
async fn driving(
    inner: &Inner,
    connection: &mut Connection,
    asked: &Asked,
) -> Result<Option<usize>, RegistryError> {
    let mut best: Option<(usize, i64)> = None;
    for (at, term) in asked.terms.iter().enumerate() {
        let mut sum = 0;
        for mut way in ways(inner, term, &asked.against, FEW + 1) {
            let (count,): (i64,) = way.build_query_as().fetch_one(&mut *connection).await?;
            sum += count;
        }
        if Way::of(term, &asked.against).is_some() && sum <= FEW && best.is_none_or(|(_, few)| sum < few) {
            best = Some((at, sum));
        }
    }
    Ok(best.map(|(at, _)| at))
}

/// `FROM device`, by the index that drives.
fn from(inner: &Inner, asked: &Asked, driving: Option<usize>) -> String {
    let way = driving.map(|at| Way::of(&asked.terms[at], &asked.against));
    match way {
        Some(Some(Way::Index(index))) => format!(" FROM device{}", inner.database.by(index)),
        // A set of numbers: the rows are found by them.
        Some(_) => " FROM device".to_owned(),
        None => format!(" FROM device{}", inner.database.by(asked.order.sort.index())),
    }
}

/// The statement that finds a page's devices. `explain` goes before it.
fn page_query(
    inner: &Inner,
    explain: &str,
    asked: &Asked,
    driving: Option<usize>,
    after: Option<&Cursor>,
    limit: usize,
) -> QueryBuilder {
    let order = asked.order;
    if order.sort == Sort::Attention && !asked.against.held.is_nobody() {
        return urgent::page_query(inner, explain, asked, driving, after, limit);
    }
    let keys = order.sort.keys().join(", ");
    let mut query = QueryBuilder::new(format!("{explain}SELECT {keys}"));
    query.push(from(inner, asked, driving));
    asked.conditions(&mut query, driving);
    if let Some(cursor) = after {
        query.push(" AND ");
        behind(&mut query, &keys, order, cursor);
    }
    in_order(&mut query, &keys, order, limit);
    query
}

/// Behind a place in the order of these columns.
fn behind(query: &mut QueryBuilder, keys: &str, order: Order, cursor: &Cursor) {
    query.push(format!("({keys}) {} (", if order.falls() { "<" } else { ">" }));
    for key in &cursor.keys {
        match key {
            Key::Number(number) => query.push_bind(*number),
            Key::Text(text) => query.push_bind(text.clone()),
        };
        query.push(", ");
    }
    query.push_bind(cursor.id).push(")");
}

/// `ORDER BY … LIMIT …` of these columns.
fn in_order(query: &mut QueryBuilder, keys: &str, order: Order, limit: usize) {
    let way = if order.falls() { " DESC" } else { "" };
    let by: Vec<_> = keys.split(", ").map(|key| format!("{key}{way}")).collect();
    query.push(format!(" ORDER BY {} LIMIT ", by.join(", "))).push_bind(limit as i64);
}

/// How many match, and whether that is all.
async fn total(
    inner: &Inner,
    connection: &mut Connection,
    asked: &Asked,
    driving: Option<usize>,
) -> Result<(u64, bool), RegistryError> {
    let tallied = |term: &Term| {
        matches!(term.is, Is::State(_) | Is::Tenant(_) | Is::Batch(_) | Is::Station(_) | Is::Product(_))
    };
    if asked.terms.iter().all(tallied) {
        let states = tally(connection, &asked.terms, &asked.against.held.cas).await?;
        return Ok((states.iter().map(|(_, count)| count).sum(), true));
    }
    let (mut query, all) = match driving {
        Some(_) => {
            let mut query = QueryBuilder::new("SELECT count(*)");
            query.push(from(inner, asked, driving));
            asked.conditions(&mut query, driving);
            (query, true)
        }
        None => {
            let all: u64 = tally(connection, &[], &[]).await?.iter().map(|(_, count)| count).sum();
            let mut query = QueryBuilder::new("SELECT count(*) FROM (SELECT device.*");
            query.push(from(inner, asked, None)).push(" LIMIT ").push_bind(FEW).push(") AS device");
            asked.conditions(&mut query, None);
            (query, all <= FEW as u64)
        }
    };
    let (count,): (i64,) = query.build_query_as().fetch_one(&mut *connection).await?;
    Ok((uint(count), all))
}

/// Devices by the state that is in force, added up from the tally; counted while a CA is withdrawn, which the
/// tally does not know of.
async fn tally(connection: &mut Connection, terms: &[Term], cas: &[KeyId]) -> Result<States, RegistryError> {
    let (from, devices) =
        if cas.is_empty() { ("tally AS device", "device.devices") } else { ("device", "1") };
    let mut query =
        QueryBuilder::new("SELECT summed.state, CAST(sum(summed.devices) AS BIGINT) FROM (SELECT ");
    held::in_force(&mut query, "made.held", cas);
    query.push(format!(
        " AS state, {devices} AS devices FROM {from}
         JOIN batch AS made ON made.id = device.batch JOIN station AS at ON at.id = made.station WHERE 1 = 1"
    ));
    for term in terms {
        query.push(if term.not { " AND NOT (" } else { " AND (" });
        match &term.is {
            Is::Tenant(tenant) => query.push("at.tenant = ").push_bind(tenant.as_str().to_owned()),
            Is::Batch(batch) => query.push("made.name = ").push_bind(batch.as_str().to_owned()),
            Is::Station(station) => query.push("at.name = ").push_bind(station.as_str().to_owned()),
            Is::Product(product) => query.push("made.product = ").push_bind(product.clone()),
            _ => query.push(if term.not { "1 = 0" } else { "1 = 1" }),
        };
        query.push(")");
    }
    query.push(") AS summed WHERE 1 = 1");
    for term in terms {
        if let Is::State(states) = &term.is {
            query.push(if term.not { " AND NOT " } else { " AND " });
            query.push(format!("summed.state IN {}", words(states)));
        }
    }
    query.push(" GROUP BY summed.state");
    let rows: Vec<(String, i64)> = query.build_query_as().fetch_all(connection).await?;
    rows.into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| Ok((super::database::parse(&state, "a device's state")?, uint(count))))
        .collect()
}

/// Devices by the state that is in force: all, or those of a tenant, a batch, a station or a product.
pub(super) async fn by_state(
    inner: &Inner,
    connection: &mut Connection,
    whose: impl IntoIterator<Item = Is>,
) -> Result<States, RegistryError> {
    let terms: Vec<Term> = whose.into_iter().map(|is| Term { not: false, is }).collect();
    tally(connection, &terms, &inner.verdicts.holding().cas).await
}

/// What a summary of a fleet shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Devices by state, in the order of a device's life; every state is there.
    pub states: States,
    /// Devices that are connected, as far as is written down.
    pub online: u64,
    /// What needs somebody, worst first, with the filter that lists it. Counted to 20 000.
    pub needs: Vec<Need>,
}

/// Devices that need somebody for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Which devices.
    pub filter: Filter,
    /// How many.
    pub count: u64,
    /// Whether those are all of them.
    pub exact: bool,
}

/// What needs somebody, worst first.
const NEEDS: [&str; 4] = [
    "state:quarantined",
    "refused:>0 -state:quarantined,revoked,decommissioned",
    "expires:<30d -state:revoked,decommissioned",
    "online:no seen:>7d state:active",
];

/// A fleet at a glance.
pub(super) async fn summary(inner: &Inner, tenant: Option<&Tenant>) -> Result<Summary, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    let counted = by_state(inner, &mut connection, tenant.cloned().map(Is::Tenant)).await?;
    let count = |state| counted.iter().find(|(of, _)| *of == state).map_or(0, |(_, count)| *count);
    let states = DeviceState::ALL.map(|state| (state, count(state))).to_vec();
    let mut needs = Vec::new();
    for text in NEEDS {
        let filter: Filter =
            text.parse().map_err(|error| RegistryError::Damaged(format!("a summary's filter: {error}")))?;
        let (count, exact) = counting(inner, &mut connection, tenant, &filter).await?;
        if count > 0 {
            needs.push(Need { filter, count, exact });
        }
    }
    let online = Filter::default().and(Is::Online(true));
    let (online, _) = counting(inner, &mut connection, tenant, &online).await?;
    Ok(Summary { states, online, needs })
}

/// How many devices match, without reading one.
pub(super) async fn count(
    inner: &Inner,
    tenant: Option<&Tenant>,
    filter: &Filter,
) -> Result<(u64, bool), RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    counting(inner, &mut connection, tenant, filter).await
}

async fn counting(
    inner: &Inner,
    connection: &mut Connection,
    tenant: Option<&Tenant>,
    filter: &Filter,
) -> Result<(u64, bool), RegistryError> {
    let listing = Listing { tenant: tenant.cloned(), filter: filter.clone(), ..Listing::default() };
    let asked = Asked::new(inner, &listing);
    let driving = driving(inner, connection, &asked).await?;
    total(inner, connection, &asked, driving).await
}
