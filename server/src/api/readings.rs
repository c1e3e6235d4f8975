//! What a device's sensors said: charts as numbers.

use axum::{Json, extract::State};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Doors, Path, Query,
    auth::{Caller, Need},
    devices::{refused, seen},
    error::Problem,
    routes::{About, Routes},
    time, view,
};
use crate::{
    registry::now_ms,
    uplink::history::{Chart, HistoryError, Range, RangeError, chart::BUCKETS_MAX},
};

/// Buckets when nobody says.
const BUCKETS: u32 = 300;
/// The range when nobody says, milliseconds.
const RANGE_MS: u64 = 24 * 3_600_000;
/// Most sensors asked for by name.
const SENSORS_MAX: usize = 64;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.get(
        "/v1/devices/{serial}/readings",
        readings,
        About::new("What a device's sensors said: least, greatest and last of each bucket")
            .query::<Asked>()
            .answers::<view::Readings>("readings")
            .refuses([Code::DeviceUnknown]),
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// So long until now: `1h`, `24h`, `7d`, `30d`.
    range: Option<String>,
    /// From this instant on; with `to`.
    from: Option<String>,
    /// Up to this instant.
    to: Option<String>,
    /// Most buckets, 1 to 1200.
    buckets: Option<u32>,
    /// Only these sensors, with commas between.
    sensor: Option<String>,
}

impl Asked {
    fn range(&self) -> Result<Range, Problem> {
        let wrong = |why: String| {
            Problem::new(Code::UsageWrong)
                .what("this range has no chart")
                .because(why)
                .next(format!("range=24h, or from=2026-11-20T00:00:00Z&to=…; buckets up to {BUCKETS_MAX}"))
        };
        let instant = |text: &String| {
            let at = time::to_ms(text).and_then(|at| u64::try_from(at).ok());
            at.ok_or_else(|| wrong(format!("{text:?} is no instant since 1970")))
        };
        let length =
            |text: &String| span_ms(text).ok_or_else(|| wrong(format!("{text:?} is no length of time")));
        let to = self.to.as_ref().map_or_else(|| Ok(now_ms() + 1), instant)?;
        let from = match (&self.from, &self.range) {
            (Some(_), Some(_)) => return Err(wrong("it has both a range and a from".to_owned())),
            (Some(from), None) => instant(from)?,
            (None, Some(range)) => to.saturating_sub(length(range)?),
            (None, None) => to.saturating_sub(RANGE_MS),
        };
        Range::new(from, to, self.buckets.unwrap_or(BUCKETS))
            .map_err(|error: RangeError| wrong(error.to_string()))
    }

    fn sensors(&self) -> Result<Vec<String>, Problem> {
        let names = self.sensor.iter().flat_map(|names| names.split(','));
        let names: Vec<_> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.len() > SENSORS_MAX {
            return Err(Problem::new(Code::UsageWrong).what(format!("more than {SENSORS_MAX} sensors")));
        }
        Ok(names)
    }
}

/// `90s`, `15m`, `24h`, `7d`.
fn span_ms(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

async fn readings(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<view::Readings>, Problem> {
    caller.may(Need::Look)?;
    let target = seen(&caller, &serial)?;
    let (range, sensors) = (asked.range()?, asked.sensors()?);
    let row = doors.registry.device(&target).await.map_err(|error| refused(error, &target))?.row;
    let charts = doors.history.chart(&row.tenant, &row.device_id, &range, &sensors).await;
    let charts = charts.map_err(|error: HistoryError| {
        tracing::error!(%error, "a chart cannot be made");
        Problem::new(Code::Fault).what("the history of readings cannot be read")
    })?;
    Ok(Json(view::Readings {
        schema: "muster.readings/1".to_owned(),
        serial: row.serial.to_string(),
        tenant: row.tenant.to_string(),
        from: time::from_ms(range.from_ms()),
        to: time::from_ms(range.to_ms()),
        bucket_ms: range.bucket_ms(),
        sensors: charts.iter().map(chart).collect(),
    }))
}

fn chart(chart: &Chart) -> view::SensorChart {
    view::SensorChart {
        sensor: chart.sensor.clone(),
        interval_ms: chart.interval_ms,
        latest: chart.latest.0,
        latest_at: time::from_ms(chart.latest.1),
        buckets: chart
            .buckets
            .iter()
            .map(|of| view::Bucket { at: time::from_ms(of.at_ms), min: of.min, max: of.max, last: of.last })
            .collect(),
        gaps: chart
            .gaps
            .iter()
            .map(|(from, to)| view::Silence { from: time::from_ms(*from), to: time::from_ms(*to) })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_length_or_two_instants() {
        let asked = |range: Option<&str>, from: Option<&str>, to: Option<&str>, buckets| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            Asked { range: text(range), from: text(from), to: text(to), buckets, sensor: None }.range()
        };
        let day = asked(None, None, None, None).unwrap();
        assert_eq!((day.to_ms() - day.from_ms(), day.bucket_ms()), (RANGE_MS, 288_000));
        let hour = asked(Some("1h"), None, None, Some(1200)).unwrap();
        assert_eq!(hour.bucket_ms(), 3000);
        let (from, to) = ("2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z");
        assert_eq!(asked(None, Some(from), Some(to), Some(1)).unwrap().bucket_ms(), RANGE_MS);
        for wrong in [
            asked(Some("1h"), Some(from), None, None),
            asked(Some("soon"), None, None, None),
            asked(Some(""), None, None, None),
            asked(Some("0h"), None, None, None),
            asked(Some("32d"), None, None, None),
            asked(None, Some(to), Some(from), None),
            asked(None, Some("yesterday"), None, None),
            asked(None, None, None, Some(0)),
            asked(None, None, None, Some(1201)),
        ] {
            assert_eq!(wrong.unwrap_err().code, Code::UsageWrong);
        }
    }
}
