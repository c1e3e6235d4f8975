//! `muster-factory`: key ceremony, station, batches, manifests.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use muster_pki::{
    CaCertificate,
    bundle::{BundleError, StationBundle},
    keyfile::{self, FileError},
};
use muster_provisioning::{
    batch,
    ceremony::{self, Passphrases},
    fault::Fault,
    journal::Journal,
    order::{self, RawOrder},
    run::{Job, Shift},
    screen::{Manner, Screen},
    secret, sign,
    station::{Material, Outcome, Patience},
    stations,
};
use muster_shared::Code;

mod args;

use args::{Act, AddStations, BatchAct, Ceremony, Cli, ManifestAct, Run, Station};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match act(cli) {
        Ok(status) => ExitCode::from(status),
        Err(fault) => {
            let text = if json { fault.json() } else { fault.to_string() };
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::from(fault.status())
        }
    }
}

fn act(cli: Cli) -> Result<u8, Fault> {
    match cli.act {
        Act::Ceremony(args) => perform(&args, cli.json),
        Act::SignAuthority(args) => {
            let passphrase = secret::passphrase(args.passphrase_file.as_ref(), "the root", false)?;
            let signed = sign::sign(&args.request, &args.key, &args.root, &passphrase, &args.out, now_ms())?;
            let key_id = hex(&signed.key_id());
            say(
                cli.json,
                &serde_json::json!({
                    "schema": "muster.factory.sign-authority/1",
                    "purpose": signed.purpose().word(),
                    "subject": signed.name(),
                    "key_id": key_id,
                    "out": args.out,
                }),
                &format!(
                    "signed {} · key {key_id} · {}\nnext: put the root away; on the server: \
                     muster ca rotate {} --certificate {}",
                    signed.name(),
                    args.out.display(),
                    signed.purpose(),
                    args.out.display(),
                ),
            )
        }
        Act::AddStations(args) => add_stations(&args, cli.json),
        Act::Run(args) => run(*args, cli.json),
        Act::Batch { act: BatchAct::Close { station, batch, out } } => {
            let (bundle, mut journal) = open(&station)?;
            let closed = batch::close(&bundle, &mut journal, batch.as_ref(), &out)?;
            let again = if closed.again { " (closed before: the same manifest)" } else { "" };
            say(
                cli.json,
                &serde_json::json!({
                    "schema": "muster.factory.batch/1",
                    "batch": closed.batch.as_str(),
                    "sequence": closed.sequence,
                    "devices": closed.devices,
                    "digest": hex(&closed.digest),
                    "again": closed.again,
                    "out": out,
                }),
                &format!(
                    "batch {} closed{again} · {} devices · manifest {} of {} · {}",
                    closed.batch,
                    closed.devices,
                    closed.sequence,
                    bundle.record.station,
                    out.display(),
                ),
            )
        }
        Act::Manifest { act: ManifestAct::Verify { file, station_record, root } } => {
            let verified = batch::verify(&file, &station_record, &root)?;
            let header = &verified.header;
            say(
                cli.json,
                &serde_json::json!({
                    "schema": "muster.factory.manifest/1",
                    "tenant": header.tenant.as_str(),
                    "station": header.station.as_str(),
                    "batch": header.batch.as_str(),
                    "product": header.product,
                    "sequence": header.sequence,
                    "previous": header.previous.map(|digest| hex(&digest)),
                    "devices": verified.rows.len(),
                    "digest": hex(&verified.digest),
                }),
                &format!(
                    "{} holds · batch {} · {} devices · manifest {} of {}/{}",
                    file.display(),
                    header.batch,
                    verified.rows.len(),
                    header.sequence,
                    header.tenant,
                    header.station,
                ),
            )
        }
        Act::VendorPage { root, hardware, out } => {
            let unreadable =
                |error: String| Fault::new(Code::FileUnreadable, format!("{}: {error}", root.display()));
            let pem = std::fs::read(&root).map_err(|error| unreadable(error.to_string()))?;
            let der =
                keyfile::certificate_from_pem(&pem).ok_or_else(|| unreadable("no certificate".into()))?;
            let ca = CaCertificate::root(&der).map_err(|error| unreadable(error.to_string()))?;
            let page = ceremony::vendor_page(ca.key().digest(), &hardware)?;
            keyfile::write(&out, &page, 0o644).map_err(|error| Fault::new(Code::FileUnreadable, error))?;
            say(
                cli.json,
                &serde_json::json!({
                    "schema": "muster.factory.vendor-page/1",
                    "hardware": hardware,
                    "root_digest": hex(&ca.key().digest()),
                    "out": out,
                }),
                &format!("vendor page for {hardware} · root {} · {}", hex(&ca.key().digest()), out.display()),
            )
        }
    }
}

fn perform(args: &Ceremony, json: bool) -> Result<u8, Fault> {
    let (Some(path), Some(out)) = (&args.plan, &args.out) else {
        let written = write!(io::stdout(), "{}", ceremony::SAMPLE);
        return written.map(|()| 0).map_err(|error| Fault::new(Code::Fault, error));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Fault::new(Code::FileUnreadable, format!("{}: {error}", path.display())))?;
    let plan = ceremony::parse(&text, &path.display().to_string())?;
    let secret = |own: &Option<PathBuf>, what| {
        secret::passphrase(own.as_ref().or(args.passphrase_file.as_ref()), what, true)
    };
    let passphrases = Passphrases {
        root: secret(&args.root_passphrase_file, "the root, to be put away")?,
        server: secret(&args.server_passphrase_file, "the server")?,
        station: secret(&args.station_passphrase_file, "the stations")?,
    };
    let made = ceremony::perform(&plan, &passphrases, out, now_ms())?;
    say(
        json,
        &serde_json::json!({
            "schema": "muster.factory.ceremony/1",
            "out": made.out,
            "root_digest": hex(&made.root_digest),
            "stations": plan.hierarchy.stations.iter().map(|station| station.station.as_str()).collect::<Vec<_>>(),
        }),
        &format!("{}\nput away {}", made.transcript.trim_end(), made.out.join("root").display()),
    )
}

fn add_stations(args: &AddStations, json: bool) -> Result<u8, Fault> {
    let text = std::fs::read_to_string(&args.plan)
        .map_err(|error| Fault::new(Code::FileUnreadable, format!("{}: {error}", args.plan.display())))?;
    let plan = ceremony::parse(&text, &args.plan.display().to_string())?;
    let secret = |own: &Option<PathBuf>, what, new| {
        secret::passphrase(own.as_ref().or(args.passphrase_file.as_ref()), what, new)
    };
    let from = stations::Given {
        root: &args.root,
        root_passphrase: &secret(&args.root_passphrase_file, "the root", false)?,
        anchors: &args.anchors,
        beside: &args.beside,
        station_passphrase: &secret(&args.station_passphrase_file, "the new stations", true)?,
    };
    let transcript = stations::add(&plan, &from, &args.out, now_ms())?;
    let names: Vec<_> = plan.hierarchy.stations.iter().map(|station| station.station.as_str()).collect();
    let records = names.iter().map(|name| {
        format!("muster ca trust {} --reason …", args.out.join(name).join("station.record").display())
    });
    say(
        json,
        &serde_json::json!({ "schema": "muster.factory.add-stations/1", "out": args.out, "stations": names }),
        &format!(
            "{}\nput away the root; on the server, before a manifest of them comes: {}",
            transcript.trim_end(),
            records.collect::<Vec<_>>().join("; ")
        ),
    )
}

fn run(args: Run, json: bool) -> Result<u8, Fault> {
    let mut raw = RawOrder {
        server_name: args.server_name,
        keep_alive_s: args.keep_alive_s,
        telemetry_s: args.telemetry_s,
        retry_s_max: args.retry_s_max,
        hardware: args.hardware,
        firmware_digest: args.firmware_digest,
        ..RawOrder::default()
    };
    if let Some((host, port)) = args.endpoint.as_deref().map(order::endpoint).transpose()? {
        (raw.host, raw.port) = (Some(host), Some(port));
    }
    if let Some(path) = &args.order {
        raw = raw.over(RawOrder::read(path)?);
    }
    let order = raw.valid()?;
    if !muster_pki::manifest::is_product(&args.product) {
        return Err(Fault::new(Code::UsageWrong, "product is not 1 to 64 octets of text"));
    }
    let (bundle, mut journal) = open(&args.station)?;
    let material = Material {
        order,
        issuer: bundle.factory.certificate().der().to_vec(),
        anchors: bundle.anchors.clone(),
    };
    let patience = Patience::default();
    let tries = u64::from(args.wait_s.max(1)) * 1000 / patience.hello_ms;
    let mut shift = Shift {
        bundle: &bundle,
        journal: &mut journal,
        material,
        patience: Patience { hello_tries: u32::try_from(tries).unwrap_or(u32::MAX), ..patience },
        screen: Screen::new(Manner::choose(json), "P1"),
    };
    let job =
        Job { batch: args.batch, product: args.product, serial: args.serial, device_id: args.device_id };
    match shift.unit(&job, &args.port, &mut io::stdout())? {
        Outcome::Pass { .. } => Ok(0),
        Outcome::Fail(failure) => {
            let serial = failure.subject.map_or("unknown".to_owned(), |subject| subject.serial.to_string());
            let place = format!(
                "station {} port {} · {serial} · step {} · {}",
                bundle.record.station,
                args.port,
                failure.step.word(),
                failure.detail
            );
            Err(Fault::new(failure.code, place))
        }
    }
}

fn open(args: &Station) -> Result<(StationBundle, Journal), Fault> {
    let passphrase = secret::passphrase(args.passphrase_file.as_ref(), "the station's keys", false)?;
    let bundle = StationBundle::read(&args.station, &passphrase).map_err(|error| match error {
        BundleError::File(FileError::WrongPassphrase(_)) => Fault::new(Code::KeyFileUnreadable, error),
        BundleError::File(_) => Fault::new(Code::FileUnreadable, error),
        BundleError::Station { .. } => Fault::new(Code::StationRecordInvalid, error),
        BundleError::Ca { .. } | BundleError::Request { .. } => Fault::new(Code::IssuerUnknown, error),
    })?;
    let journal = Journal::open(&args.journal, &bundle.record.tenant, &bundle.record.station);
    let journal = journal.map_err(muster_provisioning::run::disk)?;
    if journal.cut() > 0 {
        let _ = writeln!(
            io::stderr(),
            "warning: {} octets of an unfinished record were cut off {}",
            journal.cut(),
            args.journal.display()
        );
    }
    Ok((bundle, journal))
}

fn say(json: bool, document: &serde_json::Value, text: &str) -> Result<u8, Fault> {
    let written = if json { writeln!(io::stdout(), "{document}") } else { writeln!(io::stdout(), "{text}") };
    written.map(|()| 0).map_err(|error| Fault::new(Code::Fault, format!("standard output: {error}")))
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}
