//! What operators write on devices: tags and groups to find them by, and a note. Each change is on the record.

use serde_json::json;

use super::{
    Actor, Aim, DeviceState, Inner, Registry, Target,
    changes::What,
    database::{Connection, int, uint},
    decide::find,
    error::RegistryError,
    filter::WORD_MAX,
    now_ms,
    orders::{self, Order},
};

/// Most tags, and most groups, of a device.
pub const LABELS_MAX: usize = 32;
/// Longest note, octets.
pub const NOTE_MAX: usize = 500;

/// What is written on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// In alphabetical order.
    pub tags: Vec<String>,
    /// In alphabetical order.
    pub groups: Vec<String>,
    /// In an operator's words.
    pub note: Option<Note>,
    /// The audit row of the last change of it; 0: nothing was ever written.
    pub version: u64,
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// In the author's words.
    pub text: String,
    /// Who wrote it.
    pub author: String,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}

/// A change of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Tags to put on.
    pub add_tags: Vec<String>,
    /// Tags to take off.
    pub remove_tags: Vec<String>,
    /// Groups to put it in.
    pub add_groups: Vec<String>,
    /// Groups to take it out of.
    pub remove_groups: Vec<String>,
    /// The note; empty removes it, `None` leaves it.
    pub note: Option<String>,
}

/// A word as it is kept: lower case, without what would be read as another part of a filter.
fn word(text: &str) -> Result<String, RegistryError> {
    let word = text.trim().to_lowercase();
    let wrong = |why: &str| Err(RegistryError::Value { what: "label", why: format!("{text:?} {why}") });
    if word.is_empty() || word.len() > WORD_MAX {
        return wrong(&format!("is empty, or longer than {WORD_MAX} octets"));
    }
    if word.contains('"') || word.chars().any(char::is_control) {
        return wrong("has a quote or a control character");
    }
    Ok(word)
}

impl Edit {
    /// With its words as they are kept.
    ///
    /// # Errors
    /// [`RegistryError::Value`] for a word or a note that cannot be kept.
    pub fn checked(self) -> Result<Self, RegistryError> {
        let words = |texts: Vec<String>| texts.iter().map(|text| word(text)).collect::<Result<Vec<_>, _>>();
        let note = self.note.map(|note| note.trim().to_owned());
        if let Some(note) = &note
            && (note.len() > NOTE_MAX || note.chars().any(char::is_control))
        {
            let why = format!("it is longer than {NOTE_MAX} octets, or has a control character");
            return Err(RegistryError::Value { what: "note", why });
        }
        Ok(Self {
            add_tags: words(self.add_tags)?,
            remove_tags: words(self.remove_tags)?,
            add_groups: words(self.add_groups)?,
            remove_groups: words(self.remove_groups)?,
            note,
        })
    }
}

impl Registry {
    /// Changes what is written on a device: tags, groups, a note. The aim's `seen` is the version of what was written
    /// on it, 0 for nothing yet.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device, M532 when something else was written since it was seen.
    pub async fn label(
        &self,
        actor: &Actor,
        aim: impl Into<Aim>,
        edit: Edit,
    ) -> Result<Labels, RegistryError> {
        let (actor, aim) = (actor.clone(), aim.into());
        let edited = self.run(|inner| async move { self::edit(&inner, &actor, &aim, edit, "", false).await });
        edited.await.map(|(labels, _)| labels)
    }

    /// The same for a reason, as one of many: the number of the audit row, `None` when all of it was so already.
    ///
    /// # Errors
    /// As [`Registry::label`].
    pub async fn label_as_of(
        &self,
        actor: &Actor,
        target: &Target,
        edit: Edit,
        reason: &str,
    ) -> Result<Option<u64>, RegistryError> {
        let (actor, aim, reason) = (actor.clone(), Aim::from(target), reason.to_owned());
        let edited =
            self.run(|inner| async move { self::edit(&inner, &actor, &aim, edit, &reason, true).await });
        edited.await.map(|(_, audit_no)| audit_no)
    }
}

/// Makes the change, and puts it on the record; what is written now, and the number of the audit row. A change
/// that changes nothing has none where `unless_so` says that it is not to be recorded.
async fn edit(
    inner: &Inner,
    actor: &Actor,
    aim: &Aim,
    edit: Edit,
    reason: &str,
    unless_so: bool,
) -> Result<(Labels, Option<u64>), RegistryError> {
    let (edit, target) = (edit.checked()?, &aim.target);
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let id = find(&mut tx, &actor.scope.narrow(target)?).await?;
    let device = inner.verdicts.of_row(id)?;
    if inner.verdicts.state(device) == Some(DeviceState::Decommissioned) {
        return Err(RegistryError::DeviceUnknown(format!(
            "{target}: it is decommissioned, nothing is kept of it"
        )));
    }
    let now = version(&mut tx, id).await?;
    if let Some(seen) = aim.seen.filter(|seen| *seen != now) {
        return Err(RegistryError::Changed { serial: target.serial.clone(), seen, now });
    }
    let before = read(&mut tx, id).await?;
    let changes =
        [("tag", &edit.add_tags, &edit.remove_tags), ("group", &edit.add_groups, &edit.remove_groups)];
    for (kind, add, remove) in changes {
        for word in remove {
            sqlx::query("DELETE FROM label WHERE kind = $1 AND word = $2 AND device = $3")
                .bind(kind)
                .bind(word)
                .bind(id)
                .execute(&mut *tx)
                .await?;
        }
        for word in add {
            sqlx::query(
                "INSERT INTO label (kind, word, device) VALUES ($1, $2, $3)
                 ON CONFLICT (kind, word, device) DO NOTHING",
            )
            .bind(kind)
            .bind(word)
            .bind(id)
            .execute(&mut *tx)
            .await?;
        }
    }
    let at_ms = now_ms();
    if let Some(note) = &edit.note {
        put_note(&mut tx, id, note, actor, at_ms).await?;
    }
    let mut labels = read(&mut tx, id).await?;
    bounded(&labels)?;
    if unless_so && labels == before {
        return Ok((labels, None));
    }
    let detail = json!({
        "add": { "tag": edit.add_tags, "group": edit.add_groups },
        "remove": { "tag": edit.remove_tags, "group": edit.remove_groups },
        "note": edit.note,
    });
    let stamp = orders::append(inner, &mut tx, actor, (device, Order::Label), reason, detail, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Ordered { device, order: Order::Label });
    labels.version = stamp.no;
    Ok((labels, Some(stamp.no)))
}

async fn put_note(
    tx: &mut Connection,
    id: i64,
    note: &str,
    actor: &Actor,
    at_ms: u64,
) -> Result<(), RegistryError> {
    if note.is_empty() {
        sqlx::query("DELETE FROM note WHERE device = $1").bind(id).execute(tx).await?;
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO note (device, text, author, at_ms) VALUES ($1, $2, $3, $4)
         ON CONFLICT (device) DO UPDATE
         SET text = excluded.text, author = excluded.author, at_ms = excluded.at_ms",
    )
    .bind(id)
    .bind(note)
    .bind(&actor.name)
    .bind(int(at_ms))
    .execute(tx)
    .await?;
    Ok(())
}

/// Copies what is written on one device to another: every tag and group, and the note where the other has none.
/// Returns what is new there.
pub(super) async fn take(tx: &mut Connection, from: i64, to: i64) -> Result<Labels, RegistryError> {
    let before = read(tx, to).await?;
    sqlx::query(
        "INSERT INTO label (kind, word, device)
         SELECT kind, word, CAST($1 AS BIGINT) FROM label WHERE device = $2
         ON CONFLICT (kind, word, device) DO NOTHING",
    )
    .bind(to)
    .bind(from)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO note (device, text, author, at_ms)
         SELECT CAST($1 AS BIGINT), text, author, at_ms FROM note WHERE device = $2
         ON CONFLICT (device) DO NOTHING",
    )
    .bind(to)
    .bind(from)
    .execute(&mut *tx)
    .await?;
    let mut now = read(tx, to).await?;
    bounded(&now)?;
    now.tags.retain(|tag| !before.tags.contains(tag));
    now.groups.retain(|group| !before.groups.contains(group));
    now.note = now.note.filter(|_| before.note.is_none());
    Ok(now)
}

fn bounded(labels: &Labels) -> Result<(), RegistryError> {
    if labels.tags.len() <= LABELS_MAX && labels.groups.len() <= LABELS_MAX {
        return Ok(());
    }
    let why = format!("a device has at most {LABELS_MAX} tags and as many groups");
    Err(RegistryError::Value { what: "label", why })
}

/// What is written on a device.
pub(super) async fn read(connection: &mut Connection, id: i64) -> Result<Labels, RegistryError> {
    let words: Vec<(String, String)> =
        sqlx::query_as("SELECT kind, word FROM label WHERE device = $1 ORDER BY kind, word")
            .bind(id)
            .fetch_all(&mut *connection)
            .await?;
    let note: Option<(String, String, i64)> =
        sqlx::query_as("SELECT text, author, at_ms FROM note WHERE device = $1")
            .bind(id)
            .fetch_optional(&mut *connection)
            .await?;
    let version = version(connection, id).await?;
    let of = |kind: &str| words.iter().filter(|(of, _)| of == kind).map(|(_, word)| word.clone()).collect();
    Ok(Labels {
        tags: of("tag"),
        groups: of("group"),
        note: note.map(|(text, author, at_ms)| Note { text, author, at_ms: uint(at_ms) }),
        version,
    })
}

/// The audit row of the last change of what is written on a device.
async fn version(connection: &mut Connection, id: i64) -> Result<u64, RegistryError> {
    let (no,): (Option<i64>,) = sqlx::query_as(
        "SELECT max(audit.no) FROM audit
         WHERE audit.target = (SELECT tenant || '/' || serial FROM device WHERE id = $1)
           AND audit.action IN ($2, $3)",
    )
    .bind(id)
    .bind(Order::Label.action())
    .bind(Order::Succeed.action())
    .fetch_one(connection)
    .await?;
    Ok(no.map_or(0, uint))
}
