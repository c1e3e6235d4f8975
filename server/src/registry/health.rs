//! Whether the registry can be written, as its last writes found it; and what a failure of its database is.
//!
//! Who asks is told what is known, without a question to the database: a probe costs nothing and is answered
//! at once, whatever the database does. Trouble that a write met is looked after by [`super::recovery`], which tries
//! again until it is over.

use std::{error::Error, io};

use muster_shared::Code;
use parking_lot::Mutex;

use super::error::RegistryError;

/// What stands in the way of writing.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Code>>);

impl Health {
    /// Something was committed.
    pub(super) fn works(&self) {
        *self.0.lock() = None;
    }

    /// Something failed. What is one request's own fault says nothing about the database.
    pub(super) fn failed(&self, error: &RegistryError) {
        let code = error.code();
        if matches!(code, Code::NotStored | Code::RegistryBusy | Code::RegistryUnreachable) {
            *self.0.lock() = Some(code);
        }
    }

    pub(super) fn trouble(&self) -> Option<Code> {
        *self.0.lock()
    }

    /// In words for who asks how the node is.
    pub(super) fn words(&self) -> Option<&'static str> {
        self.trouble().map(|code| match code {
            Code::NotStored => "the disk of the registry is full, or fails",
            code => code.words(),
        })
    }
}

/// What a failure of the database is: its disk, another program's lock, no answer; or a fault in this program.
pub(super) fn code_of(failure: &(dyn Error + Send + Sync + 'static)) -> Code {
    if let Some(error) = failure.downcast_ref::<io::Error>() {
        return of_io(error.kind());
    }
    match failure.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Database(error)) => error.code().map_or(Code::Fault, |code| of_database(&code)),
        Some(sqlx::Error::Io(error)) => of_io(error.kind()),
        Some(sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_)) => {
            Code::RegistryUnreachable
        }
        _ => Code::Fault,
    }
}

/// Whether a file cannot be written for want of room, or because its disk takes nothing any more.
pub(crate) fn is_full(error: &io::Error) -> bool {
    of_io(error.kind()) == Code::NotStored
}

fn of_io(kind: io::ErrorKind) -> Code {
    use io::ErrorKind as Kind;
    match kind {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge | Kind::ReadOnlyFilesystem => {
            Code::NotStored
        }
        Kind::ConnectionRefused
        | Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::NotConnected
        | Kind::BrokenPipe
        | Kind::TimedOut
        | Kind::UnexpectedEof
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        // A socket of the file system, when nobody listens there any more.
        | Kind::NotFound => Code::RegistryUnreachable,
        _ => Code::Fault,
    }
}

/// By SQLSTATE, which has five places (PostgreSQL's appendix A), or by SQLite's result code, whose low octet is
/// the kind (sqlite.org/rescode.html).
fn of_database(code: &str) -> Code {
    if code.len() == 5 {
        return match code {
            "53100" | "58030" => Code::NotStored,
            "55P03" | "40001" | "40P01" => Code::RegistryBusy,
            "53300" => Code::RegistryUnreachable,
            _ if code.starts_with("08") || code.starts_with("57P") => Code::RegistryUnreachable,
            _ => Code::Fault,
        };
    }
    match code.parse::<u32>().map(|code| code & 0xff) {
        // BUSY, LOCKED.
        Ok(5 | 6) => Code::RegistryBusy,
        // READONLY, IOERR, FULL, CANTOPEN.
        Ok(8 | 10 | 13 | 14) => Code::NotStored,
        _ => Code::Fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_a_lock_and_silence_are_told_apart() {
        for (code, said) in [
            ("13", Code::NotStored),
            ("778", Code::NotStored),
            ("53100", Code::NotStored),
            ("5", Code::RegistryBusy),
            ("517", Code::RegistryBusy),
            ("262", Code::RegistryBusy),
            ("55P03", Code::RegistryBusy),
            ("57P01", Code::RegistryUnreachable),
            ("08006", Code::RegistryUnreachable),
            ("787", Code::Fault),
            ("23505", Code::Fault),
            ("", Code::Fault),
        ] {
            assert_eq!(of_database(code), said, "{code}");
        }
        let of = |kind: io::ErrorKind| RegistryError::from(io::Error::from(kind)).code();
        assert_eq!(of(io::ErrorKind::StorageFull), Code::NotStored);
        assert_eq!(of(io::ErrorKind::ConnectionRefused), Code::RegistryUnreachable);
        assert_eq!(of(io::ErrorKind::PermissionDenied), Code::Fault);
        assert_eq!(RegistryError::from(sqlx::Error::PoolTimedOut).code(), Code::RegistryUnreachable);
        assert_eq!(RegistryError::from(sqlx::Error::RowNotFound).code(), Code::Fault);
    }

    #[test]
    fn trouble_lasts_until_something_is_committed() {
        let health = Health::default();
        health.failed(&RegistryError::from(sqlx::Error::RowNotFound));
        assert_eq!(health.trouble(), None, "one request's own");
        health.failed(&RegistryError::from(sqlx::Error::PoolTimedOut));
        assert_eq!(health.trouble(), Some(Code::RegistryUnreachable));
        health.works();
        assert_eq!(health.trouble(), None);
    }
}
