//! A disk that is really full: the server's data directory on a small tmpfs of its own, in a mount namespace of
//! its own, so that it is gone with the server's process however that ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::Command,
};

use crate::rig::{Place, SERVE, Server};

/// Becomes `$3…` with what is in `$1` on a small disk of its own.
const ON_SMALL_DISK: &str = "cp -a \"$1\" \"$2\" && mount -t tmpfs -o \"$0\" tmpfs \"$1\" && cp -a \"$2/.\" \"$1\" && shift 2 && exec \"$@\"";

/// As root, and as anybody else where user namespaces are allowed.
const NAMESPACES: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];

fn unshare(namespace: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
    command.args(namespace);
    command
}

/// How this machine lets a process mount, if it does.
fn namespace(place: &Place, options: &str) -> Option<&'static [&'static str]> {
    NAMESPACES.into_iter().find(|namespace| {
        let mut probe = unshare(namespace);
        let probe = probe.args(["mount", "-t", "tmpfs", "-o", options, "tmpfs"]).arg(place.data()).output();
        probe.is_ok_and(|done| done.status.success())
    })
}

/// The server's disk, from outside.
pub(crate) struct Disk {
    root: PathBuf,
    ballast: PathBuf,
}

impl Disk {
    fn of(server: &Server) -> Self {
        let data = server.place().data();
        let seen = data.strip_prefix("/").unwrap();
        let root = PathBuf::from(format!("/proc/{}/root", server.pid())).join(seen);
        Self { ballast: root.join("ballast"), root }
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) {
        let mut ballast = OpenOptions::new().append(true).create(true).open(&self.ballast).unwrap();
        for size in [1 << 20, 4096, 1] {
            let octets = vec![0; size];
            let full = loop {
                if let Err(error) = ballast.write_all(&octets) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    /// Gives it back.
    pub(crate) fn free(&self) {
        fs::remove_file(&self.ballast).unwrap();
    }

    /// Ends the server and puts what its disk held where its data directory is.
    pub(crate) fn kept(&self, end: impl FnOnce() -> Place) -> Place {
        // The disk stays for as long as somebody holds it.
        let held = File::open(&self.root).unwrap();
        let place = end();
        fs::remove_dir_all(place.data()).unwrap();
        let from = format!("/proc/{}/fd/{}/.", std::process::id(), held.as_raw_fd());
        let copied = Command::new("cp").arg("-a").arg(from).arg(place.data()).status().unwrap();
        assert!(copied.success());
        place
    }
}

/// A server on a small disk of its own, of `size` as tmpfs counts it; `None`, and said why, where this machine
/// lets nobody mount.
pub(crate) fn start(place: Place, size: &str) -> Option<(Server, Disk)> {
    let options = format!("size={size},mode=0700");
    let Some(namespace) = namespace(&place, &options) else {
        eprintln!(
            "\n*** NO SMALL DISK: this machine lets nobody mount in a namespace of his own.\n\
             *** A full disk is tested by a limit of the server's file sizes alone.\n"
        );
        return None;
    };
    let serve = place.command(SERVE);
    let mut command = unshare(namespace);
    command.args(["sh", "-c", ON_SMALL_DISK, &options]).arg(place.data()).arg(place.dir.path().join("copy"));
    command.arg(serve.get_program()).args(serve.get_args());
    let server = Server::start_by(place, command);
    let disk = Disk::of(&server);
    Some((server, disk))
}
