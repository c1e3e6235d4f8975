//! `muster batch …`: what stations hand over.

use std::{
    io::{Read as _, Write as _},
    path::Path,
};

use muster_shared::Code;

use super::{
    Done,
    args::{Batch, Narrow},
    client::{Client, read},
    device::{encode, pages},
    group::{self, BATCH},
    screen::{Screen, Style, Text},
    table::{self, About, Column, thousands},
    watch::{self, Watched},
    whole::Whole,
    words,
};
use crate::api::{
    error::Problem,
    view::{self, Import, Page},
};

/// Largest file sent, octets; the server's own limit is `https.body_max`.
const FILE_MAX: u64 = 1 << 30;

pub(super) fn run(verb: Batch, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Batch::List(narrow) => list(&narrow, client, screen),
        Batch::Import { file } => import(&file, client, screen),
        Batch::Suspend(hold) => group::hold(BATCH, "suspend", &hold, client, screen),
        Batch::Resume(hold) => group::hold(BATCH, "resume", &hold, client, screen),
        Batch::Quarantine(hold) => group::hold(BATCH, "quarantine", &hold, client, screen),
        Batch::Release(hold) => group::hold(BATCH, "release", &hold, client, screen),
        Batch::Revoke(revoke) => group::revoke(BATCH, "revoke", &revoke, client, screen),
        Batch::Show { batch } => show(&batch, client, screen),
        Batch::Export { batch, sequence, out } => {
            let which = sequence.map(|no| format!("?sequence={no}")).unwrap_or_default();
            let octets = client.get_raw(&format!("/v1/batches/{}/manifest{which}", encode(&batch)))?;
            deliver(&octets, out.as_deref(), screen)
        }
        Batch::Verify { batch } => verify(&batch, client, screen),
    }
}

const COLUMNS: &[Column<view::Batch>] = &[
    Column { head: "BATCH", wide: false, cell: |of, _| Text::plain(&of.batch) },
    Column { head: "PRODUCT", wide: false, cell: |of, _| Text::plain(&of.product) },
    Column { head: "DEVICES", wide: false, cell: |of, _| Text::plain(thousands(of.devices)) },
    Column { head: "ACTIVE", wide: false, cell: |of, _| Text::plain(thousands(of.active)) },
    Column {
        head: "MADE",
        wide: true,
        cell: |of, _| Text::plain(of.made.map_or("no manifest".to_owned(), thousands)),
    },
    Column {
        head: "SEC/UNIT",
        wide: true,
        cell: |of, _| Text::plain(of.s_per_unit.map_or("no manifest".to_owned(), |s| format!("{s:.1}"))),
    },
    Column { head: "CLOSED", wide: false, cell: |of, _| Text::plain(words::instant(&of.closed_at)) },
    Column { head: "STATION", wide: true, cell: |of, _| Text::plain(&of.station) },
    Column { head: "TENANT", wide: true, cell: |of, _| Text::plain(&of.tenant) },
    Column {
        head: "IMPORTED",
        wide: true,
        cell: |of, _| Text::plain(of.imported_at.as_deref().map_or("no manifest".to_owned(), words::instant)),
    },
    Column {
        head: "IMPORTED-BY",
        wide: true,
        cell: |of, _| Text::plain(of.imported_by.as_deref().unwrap_or("no manifest")),
    },
    Column {
        head: "MANIFEST",
        wide: false,
        // Only a manifest whose signature was checked is ever listed.
        cell: |of, screen| {
            let Some(digest) = &of.manifest_digest else { return Text::plain("no manifest") };
            let mark = screen.glyph("✓", "ok");
            Text::plain(format!("{mark} {} · {}", of.station, words::short(digest)))
        },
    },
];

const LIST: Whole<view::Batch> = Whole {
    path: "/v1/batches",
    noun: "batch",
    columns: COLUMNS,
    name: |of| format!("{}/{}", of.station, of.batch),
    empty: "no batches yet. A batch appears when its manifest is imported: muster batch import FILE",
};

fn list(narrow: &Narrow, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    if narrow.filter.is_some() || narrow.sort.is_some() {
        return LIST.run(narrow, client, screen);
    }
    // In the order they came the server has them page by page.
    if narrow.watch {
        let watched = Watched {
            path: LIST.path,
            query: "",
            after: narrow.after.as_deref(),
            limit: narrow.limit,
            narrow: None,
            columns: COLUMNS,
            name: LIST.name,
        };
        return watch::run(&watched, client, screen);
    }
    let document = pages(client, LIST.path, "", narrow.after.clone(), narrow.limit)?;
    let page: Page<view::Batch> = read(&document)?;
    let about = About {
        noun: LIST.noun,
        total: page.total,
        filter: None,
        next: page.next.as_deref(),
        empty: LIST.empty,
    };
    table::print(screen, &document, &page.items, COLUMNS, &about);
    Ok(Done::Well)
}

/// Octets to a new file, or to standard output as they are.
pub(super) fn deliver(octets: &[u8], out: Option<&Path>, screen: &Screen) -> Result<Done, Problem> {
    let unwritable = |place: String, error: std::io::Error| {
        Problem::new(Code::FileUnreadable)
            .what("the file cannot be written")
            .at(place)
            .because(error.to_string())
            .next("give a path where nothing is yet: --out FILE")
    };
    match out {
        Some(path) => {
            let place = || path.display().to_string();
            std::fs::File::create_new(path)
                .and_then(|mut file| file.write_all(octets))
                .map_err(|error| unwritable(place(), error))?;
            screen.footer(format!("{} octets in {}", thousands(octets.len() as u64), path.display()));
        }
        None => std::io::stdout()
            .lock()
            .write_all(octets)
            .map_err(|error| unwritable("standard output".to_owned(), error))?,
    }
    Ok(Done::Well)
}

fn show(batch: &str, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let document = client.get(&format!("/v1/batches/{}", encode(batch)))?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let of: view::BatchDetail = read(&document)?;
    screen.pieces(&[
        Text::new(&of.batch, Style::Bold),
        Text::plain(format!(" · {} · product {} · station {}", of.tenant, of.product, of.station)),
    ]);
    let line = |label: &str, said: String| screen.line(format!("  {label:<12} {said}"));
    line("made", format!("{}, closed {}", thousands(of.made), words::instant(&of.closed_at)));
    let seen = format!("{}, of which {} have connected", thousands(of.registered), thousands(of.first_seen));
    line("registered", seen);
    let states: Vec<_> =
        of.states.iter().map(|of| format!("{} {}", thousands(of.devices), of.state)).collect();
    line("states", if states.is_empty() { "none".to_owned() } else { states.join(" · ") });
    let serials = of.serial_first.zip(of.serial_last);
    line("serials", serials.map_or("none".to_owned(), |(first, last)| format!("{first} to {last}")));
    let gaps: Vec<_> = of.gaps.iter().take(5).map(|gap| format!("{} to {}", gap.first, gap.last)).collect();
    let more = if of.gaps.len() > gaps.len() { " …" } else { "" };
    line(
        "gaps",
        match of.missing {
            0 => "none".to_owned(),
            missing => format!("{}: {}{more}", thousands(missing), gaps.join(", ")),
        },
    );
    line("duplicates", format!("{} rows were not taken", thousands(of.refused)));
    line("unannounced", format!("{} devices are in no manifest of it", thousands(of.unannounced)));
    let over = format!("station has made {} of {}", thousands(of.station_devices), thousands(of.quota));
    line("quota", if of.over_quota > 0 { format!("{over}: {} too many", of.over_quota) } else { over });
    line("range", format!("{} to {}", of.range.first, of.range.last));
    for manifest in &of.manifests {
        line(
            "manifest",
            format!(
                "no. {} · {} · {} devices · imported {} by {}",
                manifest.sequence,
                words::short(&manifest.digest),
                thousands(manifest.devices),
                words::instant(&manifest.imported_at),
                manifest.imported_by
            ),
        );
    }
    screen.footer(format!("muster batch verify {0} · muster device list --filter batch:{0}", of.batch));
    Ok(Done::Well)
}

fn verify(batch: &str, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let document = client.get(&format!("/v1/batches/{}/verify", encode(batch)))?;
    let found: view::BatchVerdict = read(&document)?;
    let done = if found.intact { Done::Well } else { Done::AnswerIsNo };
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(done);
    }
    let mark = if found.intact { screen.glyph("✓", "ok") } else { screen.glyph("✕", "x") };
    screen.line(format!(
        "{mark} batch {}: {} manifests hold, with {} devices",
        found.batch,
        thousands(found.manifests),
        thousands(found.rows)
    ));
    for fault in &found.faults {
        screen.line(format!("  {fault}"));
    }
    for row in &found.missing {
        screen.line(format!("  {}: {}", row.serial, row.why));
    }
    Ok(done)
}

fn import(file: &Path, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let document = client.post_file("/v1/batches", &slurp(file)?).map_err(|mut problem| {
        // The server names the line; the person knows the file by its path.
        problem.place = Some(match problem.place.take() {
            Some(place) => format!("{} · {place}", file.display()),
            None => file.display().to_string(),
        });
        problem
    })?;
    let import: Import = read(&document)?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
    } else {
        let mark =
            if import.refused.is_empty() { screen.glyph("✓", "ok") } else { screen.glyph("▲", "!") };
        screen.line(format!(
            "{mark} batch {} of station {}: {} registered, {} known already, {} refused",
            import.batch,
            import.station,
            thousands(import.registered),
            thousands(import.already),
            thousands(import.refused.len() as u64)
        ));
    }
    for row in &import.refused {
        let code = row.code.parse().unwrap_or(Code::SerialTaken);
        let place = format!(
            "{} line {} · certificate {}",
            file.display(),
            row.line,
            words::short(&row.certificate_id)
        );
        screen.error(&Problem::new(code).what(&row.why).at(place).serial(&row.serial));
    }
    if import.registered > 0 {
        screen.footer(format!("muster device list --filter batch:{}", import.batch));
    }
    Ok(if import.refused.is_empty() { Done::Well } else { Done::SomeFailed })
}

/// Reads a file whole, or says why not.
pub(super) fn slurp(path: &Path) -> Result<Vec<u8>, Problem> {
    let unreadable = |why: String| {
        Problem::new(Code::FileUnreadable)
            .what(format!("{} cannot be read", path.display()))
            .at(path.display().to_string())
            .because(why)
    };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut octets = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut octets).map_err(|error| unreadable(error.to_string()))?;
    if octets.len() as u64 > FILE_MAX {
        return Err(unreadable(format!("it is larger than {FILE_MAX} octets")));
    }
    Ok(octets)
}
