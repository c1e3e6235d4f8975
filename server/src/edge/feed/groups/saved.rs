//! How a group's cursor outlives the server: as a session of its own in the uplink log's file, so it is
//! written in the same order and by the same fsync as all else.
//!
//! Its key is the service's name with `$` in front, which no service's name has, and `{group}/{filter}`: a
//! share name has no `/` [MQTT-4.8.2-2]. Its state is a version and the position, big endian.

use std::sync::Arc;

use bytes::Bytes;

use super::{GroupKey, Groups};
use crate::uplink::{Change, Position, SavedSession, SessionKey};

const MARK: char = '$';
const VERSION: u8 = 1;

impl GroupKey {
    /// Under what the group's cursor is saved.
    #[must_use]
    pub fn session_key(&self) -> SessionKey {
        SessionKey::Service {
            name: format!("{MARK}{}", self.service).into(),
            client_id: format!("{}/{}", self.group, self.filter).into(),
        }
    }

    /// The group of a saved cursor, and where it stands; `None`: it is a session's state.
    #[must_use]
    pub fn of_saved(saved: &SavedSession) -> Option<(Self, Position)> {
        let SessionKey::Service { name, client_id } = &saved.key else { return None };
        let (group, filter) = client_id.split_once('/')?;
        let key =
            Self { service: name.strip_prefix(MARK)?.into(), group: group.into(), filter: filter.into() };
        let position = saved.state.strip_prefix(&[VERSION])?;
        Some((key, Position(u64::from_be_bytes(position.try_into().ok()?))))
    }
}

impl Groups {
    /// What is to be saved since this was last asked: cursors that have moved, and groups that have ended.
    /// Asked every now and then, and at the end: what is not saved is repeated after a crash, not lost.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let moved = self.moved().into_iter();
        moved
            .map(|(key, at)| match at {
                None => Change::Forget { key: key.session_key() },
                Some(at) => {
                    let state = [&[VERSION][..], &at.0.to_be_bytes()].concat();
                    Change::Session { key: key.session_key(), state: Bytes::from(state), done: Vec::new() }
                }
            })
            .collect()
    }

    /// At the start of the server, before anybody joins: the cursors that were saved, and the memberships
    /// that sessions still hold, each with the position of its subscription, from where a group without a
    /// saved cursor begins. A cursor without a member is forgotten by the next [`Groups::changes`].
    pub fn restore(
        &self,
        cursors: impl IntoIterator<Item = (GroupKey, Position)>,
        members: impl IntoIterator<Item = (GroupKey, Arc<str>, Position)>,
    ) {
        let mut all = self.all.lock();
        all.told.extend(cursors);
        for (key, client_id, since) in members {
            let from = all.told.get(&key).copied().unwrap_or(since);
            let group = Arc::clone(self.group(&mut all, &key, from));
            group.state.lock().members.entry(client_id).or_insert_with(super::Member::away);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(key: SessionKey, state: impl Into<Bytes>) -> SavedSession {
        SavedSession { key, state: state.into(), saved_ms: 0, queue: Vec::new() }
    }

    #[test]
    fn a_saved_cursor_is_read_back_and_is_nobodys_session() {
        let key = GroupKey { service: "planner".into(), group: "g".into(), filter: "acme/+/app/#".into() };
        let session_key = key.session_key();
        assert_eq!(session_key.to_string(), "s/$planner/g/acme/+/app/#");
        assert_eq!(session_key.to_string().parse(), Ok(session_key.clone()));
        // Do not change these octets: they are in files.
        let octets = b"\x01\0\0\0\0\0\0\x01\x02";
        assert_eq!(GroupKey::of_saved(&saved(session_key.clone(), &octets[..])), Some((key, Position(258))));
        for state in [&octets[..8], b"\x02\0\0\0\0\0\0\x01\x02", b"\x01\0\0\0\0\0\0\x01\x02\0", b""] {
            assert_eq!(GroupKey::of_saved(&saved(session_key.clone(), state)), None, "{state:?}");
        }
        let session = SessionKey::Service { name: "planner".into(), client_id: "g/acme".into() };
        assert_eq!(GroupKey::of_saved(&saved(session, &octets[..])), None);
        assert!("$planner".parse::<muster_shared::ServiceName>().is_err(), "no service is called so");
    }
}
