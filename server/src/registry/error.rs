//! Why the registry did not do it, and which [`Code`] says so.

use std::{io, path::PathBuf};

use muster_shared::{BatchId, Code, SerialNumber, StationId, Tenant};

use super::{
    device::{Act, TransitionError},
    group::Group,
    health,
};

/// Why the registry refused, or failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No device has this serial.
    #[error("no device {0}")]
    DeviceUnknown(String),
    /// Several tenants have a device of this serial.
    #[error("serial {serial} is in tenants {}; say which: TENANT/{serial}", list(tenants))]
    Ambiguous {
        /// The serial asked for.
        serial: SerialNumber,
        /// Where it was found.
        tenants: Vec<Tenant>,
    },
    /// The transition table has no such step.
    #[error("{serial}: {error}")]
    Transition {
        /// The device.
        serial: SerialNumber,
        /// Names both states.
        #[source]
        error: TransitionError,
    },
    /// The table has no such step for the group.
    #[error("{group}: {error}")]
    GroupTransition {
        /// The group.
        group: Box<Group>,
        /// Names both states.
        #[source]
        error: TransitionError,
    },
    /// There is no such act for this kind of group.
    #[error("{group} cannot be {}", act.participle())]
    GroupAct {
        /// The group.
        group: Box<Group>,
        /// What was asked.
        act: Act,
    },
    /// No such group.
    #[error("no {0}")]
    GroupUnknown(Box<Group>),
    /// No such batch.
    #[error("no batch {0}")]
    BatchUnknown(String),
    /// Several stations have a batch of this name.
    #[error("batch {batch} is of stations {}; say which: STATION/{batch}", list(stations))]
    BatchAmbiguous {
        /// The name asked for.
        batch: BatchId,
        /// Where it was found.
        stations: Vec<StationId>,
    },
    /// The device is not as it was seen.
    #[error("{serial} has changed since: it was at {seen}, it is at {now}")]
    Changed {
        /// The device.
        serial: SerialNumber,
        /// The audit row of the change that was seen.
        seen: u64,
        /// The audit row of its last change.
        now: u64,
    },
    /// An operator, or a group, is not as it was seen.
    #[error("{what} has changed since: it was at {seen}, it is at {now}")]
    Overtaken {
        /// Which.
        what: String,
        /// The version that was seen.
        seen: u64,
        /// The version it is of.
        now: u64,
    },
    /// The device is out of use for ever: nothing more is set for it.
    #[error("device {serial} is out of use for ever")]
    OutOfUse {
        /// The device.
        serial: SerialNumber,
        /// M302 or M209: how it came to that.
        code: Code,
    },
    /// The device cannot take another's place.
    #[error("{successor} cannot take its place: {why}")]
    SuccessorUnfit {
        /// The device that was to be the successor.
        successor: SerialNumber,
        /// What stands in the way.
        why: String,
    },
    /// Nothing is sent to the device: it may not talk now.
    #[error("device {serial} may not talk: {}", code.words())]
    MayNotTalk {
        /// The device.
        serial: SerialNumber,
        /// Why: its state's code, or its groups'.
        code: Code,
    },
    /// No such command.
    #[error("no command {0}")]
    CommandUnknown(String),
    /// An act that needs a reason came without one.
    #[error("{0} needs a reason")]
    ReasonMissing(&'static str),
    /// A value is malformed or too long.
    #[error("{what}: {why}")]
    Value {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing was imported.
    #[error("{what}")]
    Manifest {
        /// M401 to M406, or M3xx for a certificate in it.
        code: Code,
        /// What disagrees, with the values.
        what: String,
        /// The manifest's batch, when it could be read.
        batch: Option<BatchId>,
        /// The line, from 1, when it is about one.
        line: Option<u64>,
    },
    /// The record does not register a station.
    #[error("station record: {0}")]
    Station(String),
    /// The record is the root's, and does not go together with those that are registered.
    #[error("station record: {0}")]
    StationConflict(String),
    /// Another root is recorded already.
    #[error("another root certificate ({0}) is recorded already")]
    RootDiffers(String),
    /// No such certificate.
    #[error("no certificate {0}")]
    CertificateUnknown(String),
    /// No such station.
    #[error("no station {0}")]
    StationUnknown(StationId),
    /// Nobody has this token.
    #[error("no such token")]
    TokenUnknown,
    /// The token has ended.
    #[error("token {name:?} ended at {ended_at_ms}")]
    TokenEnded {
        /// Its name.
        name: String,
        /// Whose it was.
        operator: String,
        /// What it allowed.
        role: String,
        /// When, Unix milliseconds.
        ended_at_ms: u64,
    },
    /// No operator has this name.
    #[error("no operator {0}")]
    OperatorUnknown(String),
    /// It does not go together with the operators there are.
    #[error("{0}")]
    OperatorConflict(String),
    /// Who gives access gives more than they, or the one they give it to, have.
    #[error("{what} is not theirs to give: {why}")]
    NotTheirs {
        /// What was to be given.
        what: String,
        /// Who has how much.
        why: String,
    },
    /// The link does not let anybody in any more.
    #[error("the link does not work: {why}")]
    LinkEnded {
        /// Whom it was for, when it was made here.
        operator: Option<String>,
        /// Why not.
        why: &'static str,
    },
    /// The session of the web page has ended.
    #[error("the session has ended: {why}")]
    SessionEnded {
        /// Whose it was, when it was one.
        operator: Option<String>,
        /// Why.
        why: &'static str,
    },
    /// The key of continuity tokens cannot be read, or made.
    #[error("{} cannot be used", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The registry was closed.
    #[error("the registry is closed")]
    Closed,
    /// Another server writes this registry.
    #[error("this registry is held {0}")]
    Held(String),
    /// The database server cannot keep a registry.
    #[error("{0}")]
    Unfit(String),
    /// A backup is not one, or not whole.
    #[error("the backup cannot be restored: {0}")]
    Backup(String),
    /// There is a registry already.
    #[error("{0} holds a registry")]
    Occupied(String),
    /// The database failed.
    #[error("the registry's database failed")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database holds what this program never wrote.
    #[error("the registry's database is damaged: {0}")]
    Damaged(String),
}

fn list<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}

impl RegistryError {
    /// The code every surface says it with.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::DeviceUnknown(_) | Self::StationUnknown(_) => Code::DeviceUnknown,
            Self::GroupUnknown(group) if matches!(**group, Group::Batch(..)) => Code::BatchUnknown,
            Self::BatchUnknown(_) => Code::BatchUnknown,
            Self::GroupUnknown(_) => Code::RouteUnknown,
            Self::Transition { .. } | Self::GroupTransition { .. } | Self::GroupAct { .. } => {
                Code::TransitionNotAllowed
            }
            Self::CertificateUnknown(_) => Code::CertificateUnknown,
            Self::Changed { .. } | Self::Overtaken { .. } => Code::DeviceChanged,
            Self::OutOfUse { code, .. } | Self::MayNotTalk { code, .. } => *code,
            Self::SuccessorUnfit { .. } => Code::SuccessorUnfit,
            Self::CommandUnknown(_) => Code::RouteUnknown,
            Self::ReasonMissing(_) => Code::ReasonMissing,
            Self::Ambiguous { .. } | Self::BatchAmbiguous { .. } | Self::Value { .. } => Code::UsageWrong,
            Self::Manifest { code, .. } => *code,
            Self::Station(_) | Self::RootDiffers(_) => Code::StationRecordInvalid,
            Self::StationConflict(_) => Code::StationRecordConflict,
            Self::TokenUnknown => Code::NotSignedIn,
            Self::TokenEnded { .. } => Code::TokenEnded,
            Self::OperatorUnknown(_) => Code::OperatorUnknown,
            Self::OperatorConflict(_) => Code::OperatorConflict,
            Self::NotTheirs { .. } => Code::RoleMissing,
            Self::LinkEnded { .. } => Code::LinkEnded,
            Self::SessionEnded { .. } => Code::SessionEnded,
            Self::Key { .. } => Code::DataDirectory,
            Self::Closed => Code::ServerStopping,
            Self::Held(_) => Code::RegistryHeld,
            Self::Unfit(_) => Code::RegistryUnfit,
            Self::Backup(_) => Code::BackupDamaged,
            Self::Occupied(_) => Code::RegistryOccupied,
            Self::Database(failure) => health::code_of(&**failure),
            Self::Damaged(_) => Code::Fault,
        }
    }
}
