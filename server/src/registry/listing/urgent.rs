//! The order of attention while groups hold devices.
//!
//! The index has the urgency of a device's own state, which is wrong for those that a group holds in a graver one.
//! So there are two walks, each to a page's end, and the page is what comes first of both:
//!
//! ```text
//! whom no group changes ─► along the index, as ever ─┐
//! whom one may change ───► computed and sorted ──────┴─► the page
//! ```
//!
//! What this costs beside the index grows with how many devices groups hold, not with how many there are. Where a
//! term of the filter drives, its few devices are computed and sorted alone.

use super::{Asked, Inner, QueryBuilder, behind, cursor::Cursor, from, held, in_order};

/// The columns both walks select.
const KEYS: &str = "urgency, changed_back, id";

/// The statement that finds a page's devices. `explain` goes before it.
pub(super) fn page_query(
    inner: &Inner,
    explain: &str,
    asked: &Asked,
    driving: Option<usize>,
    after: Option<&Cursor>,
    limit: usize,
) -> QueryBuilder {
    let mut query = QueryBuilder::new(format!("{explain}SELECT {KEYS} FROM ("));
    match driving {
        Some(_) => walk(&mut query, inner, asked, driving, after, limit, Walk::Every),
        None => {
            query.push("SELECT * FROM (");
            walk(&mut query, inner, asked, None, after, limit, Walk::Unchanged);
            query.push(") AS own UNION ALL SELECT * FROM (");
            walk(&mut query, inner, asked, None, after, limit, Walk::Changed);
            query.push(") AS grouped");
        }
    }
    query.push(") AS page");
    in_order(&mut query, KEYS, asked.order, limit);
    query
}

/// Whose rows a walk takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// All that the filter finds.
    Every,
    /// Whom no group changes.
    Unchanged,
    /// Whom one may change.
    Changed,
}

fn walk(
    query: &mut QueryBuilder,
    inner: &Inner,
    asked: &Asked,
    driving: Option<usize>,
    after: Option<&Cursor>,
    limit: usize,
    walk: Walk,
) {
    let cas = &asked.against.held.cas;
    query.push(format!("SELECT {KEYS} FROM (SELECT "));
    match walk {
        Walk::Unchanged => {
            query.push("device.urgency");
        }
        Walk::Every | Walk::Changed => held::urgency(query, cas),
    }
    query.push(" AS urgency, device.changed_back AS changed_back, device.id AS id");
    match walk {
        // By what finds the groups' rows, never along the whole order.
        Walk::Changed => query.push(" FROM device"),
        Walk::Every | Walk::Unchanged => query.push(from(inner, asked, driving)),
    };
    asked.conditions(query, driving);
    match walk {
        Walk::Every => {}
        Walk::Unchanged => {
            query.push(" AND NOT ");
            held::changed_by_group(query, cas);
        }
        Walk::Changed => {
            query.push(" AND ");
            held::changed_by_group(query, cas);
        }
    }
    query.push(") AS walked");
    if let Some(cursor) = after {
        query.push(" WHERE ");
        behind(query, KEYS, asked.order, cursor);
    }
    in_order(query, KEYS, asked.order, limit);
}
