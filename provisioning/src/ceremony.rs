//! The key ceremony: one reviewed TOML file becomes keys, certificates, records and a transcript.
//!
//! ```text
//! OUT/root/             root and station CA with their keys: to be put away
//! OUT/server/           what `muster serve` holds
//! OUT/stations/NAME/    what each station holds
//! OUT/flasher/          root-digest.txt, and a vendor page for each kind of board
//! OUT/transcript.txt    what was made, with every digest
//! ```
//!
//! Everything is made beside `OUT` and moved there in one step: a ceremony is whole or did not happen.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use muster_pki::{
    Ca, Passphrase,
    bundle::BundleError,
    hierarchy::{Hierarchy, HierarchyError, Plan, StationPlan},
    keyfile,
    station::{SerialRange, StationRecord},
};
use muster_shared::{
    CertificateId, Code, SerialNumber, StationId, Tenant,
    vendor::{HARDWARE_MAX, VendorPage},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{fault::Fault, journal::hex, run::time_text};

/// An annotated plan; a test parses it.
pub const SAMPLE: &str = include_str!("ceremony.sample.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    owner: String,
    #[serde(default)]
    station: Vec<RawStation>,
    #[serde(default)]
    board: Vec<RawBoard>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStation {
    name: StationId,
    tenant: Tenant,
    first_serial: SerialNumber,
    last_serial: SerialNumber,
    quota: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBoard {
    hardware: String,
}

/// What a ceremony is to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CeremonyPlan {
    /// CAs and stations.
    pub hierarchy: Plan,
    /// Kinds of boards that get a vendor page.
    pub boards: Vec<String>,
    /// SHA-256 of the file, for the transcript.
    pub digest: [u8; 32],
}

/// Three folders, three passphrases; they may be the same.
pub struct Passphrases {
    /// Opens `root/`.
    pub root: Passphrase,
    /// Opens `server/`.
    pub server: Passphrase,
    /// Opens each of `stations/`.
    pub station: Passphrase,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Where.
    pub out: PathBuf,
    /// SHA-256 of the root's SubjectPublicKeyInfo: what the flasher writes.
    pub root_digest: [u8; 32],
    /// The transcript, as it stands in `transcript.txt`.
    pub transcript: String,
}

/// Reads a plan.
///
/// # Errors
/// A [`Fault`] that names what is wrong and where.
pub fn parse(text: &str, name: &str) -> Result<CeremonyPlan, Fault> {
    let wrong = |place: String| {
        Fault::new(Code::UsageWrong, format!("{name}: {place}"))
            .next("muster-factory ceremony --sample shows a plan")
    };
    let raw: RawPlan = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let mut stations = Vec::new();
    for station in raw.station {
        let serials = SerialRange::new(&station.first_serial, &station.last_serial)
            .map_err(|error| wrong(format!("station {}: {error}", station.name)))?;
        stations.push(StationPlan {
            quota: station.quota.unwrap_or(serials.count()),
            station: station.name,
            tenant: station.tenant,
            serials,
        });
    }
    let boards: Vec<String> = raw.board.into_iter().map(|board| board.hardware).collect();
    let fits = |name: &String| {
        (1..=HARDWARE_MAX).contains(&name.len())
            && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_".contains(&octet))
    };
    if let Some(odd) = boards.iter().find(|name| !fits(name)) {
        return Err(wrong(format!(
            "board {odd:?}: a hardware id is 1 to {HARDWARE_MAX} letters, digits, - or _"
        )));
    }
    let hierarchy = Plan { owner: raw.owner, stations };
    Ok(CeremonyPlan { hierarchy, boards, digest: Sha256::digest(text.as_bytes()).into() })
}

/// Makes everything the plan names, in `out`, which must not be there yet.
///
/// # Errors
/// A [`Fault`]; nothing is left behind then.
pub fn perform(
    plan: &CeremonyPlan,
    passphrases: &Passphrases,
    out: &Path,
    now_ms: u64,
) -> Result<Made, Fault> {
    let now_s = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    let (hierarchy, transcript) = in_one_step(
        out,
        || {
            let hierarchy = Hierarchy::create(&plan.hierarchy, now_s).map_err(refused)?;
            let transcript = transcript(plan, &hierarchy, now_ms);
            Ok((hierarchy, transcript))
        },
        |(hierarchy, transcript), draft| write(plan, hierarchy, passphrases, transcript, draft),
    )?;
    Ok(Made { out: out.to_owned(), root_digest: hierarchy.root_digest(), transcript })
}

/// Makes something and writes it into the folder `out`, which must not be there yet: beside it first, and moved
/// there as a whole.
pub(crate) fn in_one_step<T>(
    out: &Path,
    make: impl FnOnce() -> Result<T, Fault>,
    write: impl FnOnce(&T, &Path) -> Result<(), BundleError>,
) -> Result<T, Fault> {
    let there =
        |place: String| Fault::new(Code::FileUnreadable, place).what("the ceremony's folder cannot be made");
    if out.symlink_metadata().is_ok() {
        return Err(there(format!("{} is there already", out.display()))
            .next("give a new --out; a ceremony replaces nothing"));
    }
    let above = out.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let io = |error: std::io::Error| there(format!("{}: {error}", above.display()));
    let made = make()?;
    let draft = tempfile::Builder::new().prefix(".ceremony-").tempdir_in(above).map_err(io)?;
    write(&made, draft.path()).map_err(|error| there(error.to_string()))?;
    fs::rename(draft.path(), out).map_err(io)?;
    // The folder has its name now; there is nothing left to clean up.
    let _ = draft.keep();
    fs::File::open(above).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(made)
}

/// The vendor page of a board that obeys this root.
///
/// # Errors
/// A [`Fault`] when the hardware id is too long.
pub fn vendor_page(root_digest: [u8; 32], hardware: &str) -> Result<Vec<u8>, Fault> {
    let name = hardware.try_into().map_err(|_| {
        Fault::new(Code::UsageWrong, format!("hardware id {hardware:?} is longer than {HARDWARE_MAX} octets"))
    });
    Ok(VendorPage { root_digest, hardware: name? }.to_bytes().to_vec())
}

fn write(
    plan: &CeremonyPlan,
    hierarchy: &Hierarchy,
    passphrases: &Passphrases,
    transcript: &str,
    dir: &Path,
) -> Result<(), BundleError> {
    hierarchy.root_bundle().write(&dir.join("root"), &passphrases.root)?;
    hierarchy.server_bundle().write(&dir.join("server"), &passphrases.server)?;
    keyfile::make_folder(&dir.join("stations"))?;
    for keys in &hierarchy.stations {
        let name = &keys.record.station;
        let bundle = hierarchy.station_bundle(name).expect("one of its own stations");
        bundle.write(&dir.join("stations").join(name.as_str()), &passphrases.station)?;
    }
    let flasher = dir.join("flasher");
    keyfile::make_folder(&flasher)?;
    let digest = hierarchy.root_digest();
    keyfile::write(&flasher.join("root-digest.txt"), format!("{}\n", hex(&digest)).as_bytes(), 0o644)?;
    for hardware in &plan.boards {
        let page = vendor_page(digest, hardware).expect("checked with the plan");
        keyfile::write(&flasher.join(format!("{hardware}.vendor.bin")), &page, 0o644)?;
    }
    keyfile::write(&dir.join("transcript.txt"), transcript.as_bytes(), 0o644)?;
    Ok(())
}

fn transcript(plan: &CeremonyPlan, hierarchy: &Hierarchy, now_ms: u64) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("a string takes any text");
    line(format!(
        "muster key ceremony · {} · muster-factory {}",
        time_text(now_ms),
        env!("CARGO_PKG_VERSION")
    ));
    line(format!("plan         {}", hex(&plan.digest)));
    line(format!("root digest  {}", hex(&hierarchy.root_digest())));
    line(String::new());
    let all = [
        &hierarchy.root,
        &hierarchy.station,
        &hierarchy.broker,
        &hierarchy.operational,
        &hierarchy.https,
        &hierarchy.service,
        &hierarchy.operator,
    ];
    for one in all {
        line(ca_line(one));
    }
    for keys in &hierarchy.stations {
        station_lines(&keys.factory, &keys.record, &keys.record_file).into_iter().for_each(&mut line);
    }
    line(String::new());
    line(format!("anchors      {}", hex(&Sha256::digest(&hierarchy.anchors))));
    out
}

fn ca_line(ca: &Ca) -> String {
    let certificate = ca.certificate();
    let id = CertificateId(Sha256::digest(certificate.der()).into());
    format!(
        "{:<12} {:<28} certificate {id}  key {}",
        certificate.purpose(),
        certificate.name(),
        hex(&certificate.key().digest()),
    )
}

/// What a transcript says of a station.
pub(crate) fn station_lines(factory: &Ca, record: &StationRecord, record_file: &[u8]) -> [String; 5] {
    [
        String::new(),
        format!(
            "station      {} · tenant {} · serials {} · quota {}",
            record.station, record.tenant, record.serials, record.quota
        ),
        ca_line(factory),
        format!("manifest key {}", hex(&record.manifest_key.digest())),
        format!("record       {}", hex(&Sha256::digest(record_file))),
    ]
}

/// The plan, as it stands, is not carried out.
pub(crate) fn refused(error: HierarchyError) -> Fault {
    let code = match error {
        HierarchyError::Owner(_) | HierarchyError::Overlap(..) | HierarchyError::Quota(..) => {
            Code::UsageWrong
        }
        _ => Code::Fault,
    };
    Fault::new(code, error)
        .what("the ceremony's plan cannot be carried out")
        .next("correct the plan, have it reviewed again")
}
