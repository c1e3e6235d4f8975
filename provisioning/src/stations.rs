//! Stations that are added below a root after its ceremony: a second line, a year later.
//!
//! ```text
//! OUT/NAME/            what the station holds: keys, its root-signed record, the anchors its devices pin
//! OUT/transcript.txt   what was made, with every digest
//! ```
//!
//! The plan is a ceremony's, with the new stations alone. What the root has signed before is not on its folder, so
//! the records of the stations there are given; the server checks against those it has, too.

use std::{fmt::Write as _, fs, path::Path};

use muster_pki::{
    Passphrase, StationRecord,
    bundle::{BundleError, RootBundle, StationBundle},
    hierarchy, keyfile,
};
use muster_shared::Code;

use crate::{
    ceremony::{CeremonyPlan, in_one_step, refused, station_lines},
    fault::Fault,
    journal::hex,
    run::time_text,
};

/// What new stations are made from.
pub struct Given<'a> {
    /// The folder `root` of the ceremony.
    pub root: &'a Path,
    /// Opens it.
    pub root_passphrase: &'a Passphrase,
    /// `anchors.bin` of a station there is.
    pub anchors: &'a Path,
    /// The records of the stations there are.
    pub beside: &'a [std::path::PathBuf],
    /// Opens each of the new folders.
    pub station_passphrase: &'a Passphrase,
}

/// Makes the plan's stations in `out`, which must not be there yet; returns the transcript.
///
/// # Errors
/// A [`Fault`]; nothing is left behind then. M311 when the root's key does not open, M408 for a record that is
/// not this root's.
pub fn add(plan: &CeremonyPlan, from: &Given<'_>, out: &Path, now_ms: u64) -> Result<String, Fault> {
    let wrong =
        |why: &str| Fault::new(Code::UsageWrong, why).what("the plan of new stations cannot be carried out");
    if plan.hierarchy.stations.is_empty() {
        return Err(wrong("it names no [[station]]"));
    }
    if !plan.boards.is_empty() {
        return Err(
            wrong("it names a [[board]]").next("muster-factory vendor-page makes one for a root there is")
        );
    }
    let read = |path: &Path| {
        fs::read(path)
            .map_err(|error| Fault::new(Code::FileUnreadable, format!("{}: {error}", path.display())))
    };
    let anchors = read(from.anchors)?;
    let bundle = RootBundle::read(from.root, from.root_passphrase).map_err(|error: BundleError| {
        Fault::new(Code::KeyFileUnreadable, error).what("the root's key cannot be opened")
    })?;
    let root = bundle.root.certificate();
    let mut known = Vec::with_capacity(from.beside.len());
    for path in from.beside {
        let record = StationRecord::verify(&read(path)?, root);
        known.push(record.map_err(|error| {
            Fault::new(Code::StationRecordInvalid, format!("{}: {error}", path.display()))
        })?);
    }
    let now_s = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    let (_, transcript) = in_one_step(
        out,
        || {
            let made = hierarchy::add_stations(&bundle, &plan.hierarchy, &known, &anchors, now_s)
                .map_err(refused)?;
            let transcript = transcript(plan, &made, now_ms);
            Ok((made, transcript))
        },
        |(made, transcript), draft| {
            for station in made {
                station.write(&draft.join(station.record.station.as_str()), from.station_passphrase)?;
            }
            Ok(keyfile::write(&draft.join("transcript.txt"), transcript.as_bytes(), 0o644)?)
        },
    )?;
    Ok(transcript)
}

fn transcript(plan: &CeremonyPlan, made: &[StationBundle], now_ms: u64) -> String {
    let mut out = format!(
        "muster stations added · {} · muster-factory {}\nplan         {}\n",
        time_text(now_ms),
        env!("CARGO_PKG_VERSION"),
        hex(&plan.digest)
    );
    for station in made {
        if out.lines().count() == 2 {
            writeln!(out, "root digest  {}", hex(&station.root.key().digest()))
                .expect("a string takes any text");
        }
        for line in station_lines(&station.factory, &station.record, &station.record_file) {
            writeln!(out, "{line}").expect("a string takes any text");
        }
    }
    out
}
