//! The fleet at a look: what the first page shows, for programs too.

use axum::{Json, extract::State};
use jiff::{Timestamp, tz::TimeZone};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Doors, Path,
    auth::{Caller, Need},
    devices::{event, refused, seen},
    error::Problem,
    routes::{About, Routes},
    sessions::shown,
    time, view,
};
use crate::registry::{
    Scope,
    overview::{BUCKET_MS, Overview as Read},
};

/// `muster.overview/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// The schema's name.
    pub schema: String,
    /// The day it is about: from.
    pub from: String,
    /// To: now.
    pub to: String,
    /// Devices in the registry.
    pub devices: u64,
    /// Of those, connected now.
    pub online: u64,
    /// By state, in the order of a device's life; states without a device are left out.
    pub states: Vec<InState>,
    /// When the newest of the quarantined came to it.
    pub quarantined_at: Option<String>,
    /// Refusals of known devices, by their state.
    pub refused: Vec<Refused>,
    /// Refusals of devices the registry does not have.
    pub strangers: u64,
    /// Certificates in use that end within thirty days.
    pub ending_30d: u64,
    /// Certificates in use that end in each of the next twelve months.
    pub ends: Vec<Hour>,
    /// Stations nothing more is taken from.
    pub stations_stopped: Vec<Stopped>,
    /// Length of a bucket of `online_24h`.
    pub bucket_ms: u64,
    /// Devices connected: least, most and last of each bucket.
    pub online_24h: Vec<Online>,
    /// Connections of each hour.
    pub connections_24h: Vec<Hour>,
    /// Refusals of each hour, by code.
    pub refusals_24h: Vec<HourOf>,
    /// TLS handshakes of each bucket there was one in since the server's start: of all tenants, so told only to who
    /// sees every tenant.
    #[serde(default)]
    pub handshakes_24h: Vec<Handshakes>,
    /// What devices did last, newest first.
    pub activity: Vec<Activity>,
}

/// How long the handshakes of a bucket took.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Handshakes {
    /// Its beginning.
    pub at: String,
    /// How many there were.
    pub count: u64,
    /// Half of them took at most so long, milliseconds.
    pub p50_ms: f64,
    /// All but one in a hundred took at most so long, milliseconds.
    pub p99_ms: f64,
}

/// A session that began or ended, or a refusal.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Activity {
    /// Whose device; `null` where the registry does not have it.
    pub tenant: Option<String>,
    /// Which device.
    pub serial: Option<String>,
    /// What.
    #[serde(flatten)]
    pub event: view::Event,
}

/// Devices in one state.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct InState {
    /// The state.
    pub state: String,
    /// How many.
    pub devices: u64,
}

/// Refusals of the devices in one state.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// Their state.
    pub state: String,
    /// How many devices.
    pub devices: u64,
    /// How many refusals.
    pub refusals: u64,
    /// The newest.
    pub last_at: String,
}

/// A station that was stopped.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Stopped {
    /// Its name.
    pub station: String,
    /// Since when.
    pub at: String,
    /// Why.
    pub why: String,
}

/// How many were connected in a bucket.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Online {
    /// Its beginning.
    pub at: String,
    /// Least.
    pub min: u64,
    /// Most.
    pub max: u64,
    /// At its end.
    pub last: u64,
}

/// A count from an instant on: an hour's, a month's.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Hour {
    /// Its beginning.
    pub at: String,
    /// How many.
    pub count: u64,
}

/// A count of one hour and code.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HourOf {
    /// The hour's beginning.
    pub at: String,
    /// `M201`.
    pub code: String,
    /// How many.
    pub count: u64,
}

/// Lines of what devices did last.
const ACTIVITY: u32 = 10;
const HOUR_MS: u64 = 60 * 60 * 1000;
const MONTHS: i64 = 12;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/v1/overview", overview, About::new("The fleet at a look").answers::<Overview>("overview"))
        .get(
            "/v1/devices/{serial}/session",
            session,
            About::new("A device's live session: a list of one, or of none")
                .answers::<view::Page<view::Session>>("session.list")
                .refuses([Code::DeviceUnknown]),
        )
}

/// The device's live session: found without a look at the others.
pub(super) async fn session(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
) -> Result<Json<view::Page<view::Session>>, Problem> {
    caller.may(Need::Look)?;
    let target = seen(&caller, &serial)?;
    let detail = doors.registry.device(&target).await.map_err(|error| refused(error, &target))?;
    let live = doors.roster.is_online(detail.row.key);
    let items: Vec<_> = live.iter().map(|of| shown(of, &doors.registry.verdicts())).collect();
    let total = items.len() as u64;
    Ok(Json(view::Page::new("session", items, None, Some(total))))
}

pub(super) async fn overview(caller: Caller, State(doors): State<Doors>) -> Result<Json<Overview>, Problem> {
    caller.may(Need::Look)?;
    let read = doors.registry.overview(caller.scope().tenant()).await?;
    let online = super::status::online(&doors, caller.scope());
    let activity = doors.registry.activity(caller.scope(), ACTIVITY).await?;
    let activity = activity.into_iter().map(|of| {
        let (tenant, serial) = of.device.unzip();
        let (tenant, serial) = (tenant.map(|of| of.to_string()), serial.map(|of| of.to_string()));
        Activity { tenant, serial, event: event(&of.event) }
    });
    let stations = doors.registry.stations(caller.scope()).await?;
    let stopped = stations.iter().filter_map(|row| {
        let (at_ms, why) = row.stopped.as_ref()?;
        Some(Stopped { station: row.station.to_string(), at: time::from_ms(*at_ms), why: why.clone() })
    });
    let mut states = read.states.clone();
    states.sort();
    Ok(Json(Overview {
        schema: "muster.overview/1".to_owned(),
        from: time::from_ms(read.from_ms),
        to: time::from_ms(read.to_ms),
        devices: read.states.iter().map(|(_, n)| n).sum(),
        online,
        states: states
            .iter()
            .map(|(state, n)| InState { state: state.as_str().to_owned(), devices: *n })
            .collect(),
        quarantined_at: read.quarantined_ms.map(time::from_ms),
        refused: read
            .refused
            .iter()
            .map(|of| Refused {
                state: of.state.as_str().to_owned(),
                devices: of.devices,
                refusals: of.refusals,
                last_at: time::from_ms(of.last_at_ms),
            })
            .collect(),
        strangers: read.strangers,
        ending_30d: read.ending_30d,
        ends: months(&read),
        stations_stopped: stopped.collect(),
        bucket_ms: BUCKET_MS,
        online_24h: online_over(&read, online),
        activity: activity.collect(),
        connections_24h: connections(&read),
        refusals_24h: read
            .refusals
            .iter()
            .map(|of| HourOf { at: time::from_ms(of.at_ms), code: of.code.id().to_owned(), count: of.count })
            .collect(),
        handshakes_24h: match caller.scope() {
            Scope::Every => handshakes(&doors.facts.tally.handshakes, &read),
            _ => Vec::new(),
        },
    }))
}

fn handshakes(of: &crate::edge::handshakes::Handshakes, read: &Read) -> Vec<Handshakes> {
    let quarters = of.quarters(read.from_ms, read.to_ms);
    let told = quarters.into_iter().map(|(at_ms, taken)| Handshakes {
        at: time::from_ms(at_ms),
        count: taken.count(),
        p50_ms: taken.within_ms(500).unwrap_or_default(),
        p99_ms: taken.within_ms(990).unwrap_or_default(),
    });
    told.collect()
}

/// How many were connected, counted back from how many are: what ended in a bucket was there before it.
fn online_over(read: &Read, now: u64) -> Vec<Online> {
    let mut out = Vec::new();
    let mut last = now;
    let mut at_ms = read.to_ms / BUCKET_MS * BUCKET_MS;
    while at_ms >= read.from_ms {
        let of = read.sessions.iter().find(|of| of.at_ms == at_ms).copied().unwrap_or_default();
        let before = (last + of.ended).saturating_sub(of.began);
        out.push(Online { at: time::from_ms(at_ms), min: before.min(last), max: before.max(last), last });
        last = before;
        let Some(earlier) = at_ms.checked_sub(BUCKET_MS) else { break };
        at_ms = earlier;
    }
    out.reverse();
    out
}

/// The days' counts by calendar month (UTC), from this month on.
fn months(read: &Read) -> Vec<Hour> {
    let now = Timestamp::from_millisecond(i64::try_from(read.to_ms).unwrap_or(0)).unwrap_or(Timestamp::MIN);
    let this = now.to_zoned(TimeZone::UTC).date().first_of_month();
    let months = (0..=MONTHS).map(|n| this.saturating_add(jiff::Span::new().months(n)));
    let begins: Vec<i64> = months
        .filter_map(|day| day.to_zoned(TimeZone::UTC).ok())
        .map(|at| at.timestamp().as_second())
        .collect();
    let within = |span: &[i64]| {
        let of = read.ends.iter().filter(|(day_s, _)| (span[0]..span[1]).contains(day_s));
        of.map(|(_, n)| n).sum()
    };
    begins.windows(2).map(|span| Hour { at: time::from_s(span[0]), count: within(span) }).collect()
}

fn connections(read: &Read) -> Vec<Hour> {
    let mut hours = std::collections::BTreeMap::<u64, u64>::new();
    for of in read.sessions.iter().filter(|of| of.began > 0) {
        *hours.entry(of.at_ms / HOUR_MS * HOUR_MS).or_default() += of.began;
    }
    hours.into_iter().map(|(at_ms, count)| Hour { at: time::from_ms(at_ms), count }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::overview::SessionsIn;

    #[test]
    fn what_ends_is_counted_by_calendar_month() {
        // Seen on 2026-11-22: two days of that month, one of the next January, one after the twelfth month.
        let days = vec![(1_795_305_600, 2), (1_795_996_800, 1), (1_800_000_000, 5), (1_830_000_000, 9)];
        let read = Read { to_ms: 1_795_305_600_000, ends: days, ..Read::default() };
        let told: Vec<_> = months(&read).into_iter().map(|of| (of.at[..7].to_owned(), of.count)).collect();
        assert_eq!(told.len(), 12);
        assert_eq!(told[0], ("2026-11".to_owned(), 3));
        assert_eq!(told[2], ("2027-01".to_owned(), 5));
        assert_eq!(told.iter().map(|(_, n)| n).sum::<u64>(), 8);
    }

    #[test]
    fn who_was_connected_is_counted_back_from_who_is() {
        let read = Read {
            from_ms: 0,
            to_ms: 2 * BUCKET_MS + 1,
            sessions: vec![
                SessionsIn { at_ms: BUCKET_MS, began: 3, ended: 1 },
                SessionsIn { at_ms: 2 * BUCKET_MS, began: 0, ended: 2 },
            ],
            ..Read::default()
        };
        let told: Vec<_> = online_over(&read, 5).iter().map(|of| (of.min, of.max, of.last)).collect();
        assert_eq!(told, [(5, 5, 5), (5, 7, 7), (5, 7, 5)]);
        assert_eq!(connections(&read).iter().map(|of| of.count).sum::<u64>(), 3);
    }
}
