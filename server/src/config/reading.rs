//! One `[[section]]` while it is read: what every kind of section has in common.

use std::{collections::BTreeMap, fmt};

use super::layers::{Layers, Raw, Section};

/// A section while it is read. `name` is what its keys are called by: `service.2`, and `service.historian` once
/// that is known.
pub(super) struct Reading<'l, 'a> {
    layers: &'l mut Layers<'a>,
    section: Section,
    /// What its keys are called by.
    pub(super) name: String,
    keys: &'static [&'static str],
    /// Where each key stands.
    lines: BTreeMap<&'static str, usize>,
}

impl<'l, 'a> Reading<'l, 'a> {
    /// The section at this place, from 0, of those headed `[[kind]]`; it may have these keys.
    pub(super) fn new(
        layers: &'l mut Layers<'a>,
        kind: &str,
        keys: &'static [&'static str],
        at: usize,
        section: Section,
    ) -> Self {
        let lines = keys.iter().filter_map(|key| Some((*key, section.entry_line(key)?))).collect();
        Self { layers, section, name: format!("{kind}.{}", at + 1), keys, lines }
    }

    /// What nobody took is a misspelling.
    pub(super) fn finish(self) {
        self.layers.section_rest(&self.name, self.section, self.keys);
    }

    /// What a key says, and nothing where it is left out.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Raw> {
        self.section.take(key).map(|(raw, _)| raw)
    }

    /// What a key says, or the default where it is left out; `None` when it says something else, which is then
    /// a fault.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&Raw) -> Result<T, String>,
    ) -> Option<T> {
        let Some(raw) = self.take(key) else { return Some(default) };
        parse(&raw).map_err(|cause| self.fault(key, &raw, cause)).ok()
    }

    /// Does the section have this key?
    pub(super) fn has(&self, key: &str) -> bool {
        self.lines.contains_key(key)
    }

    /// What is wrong with a key.
    pub(super) fn fault(&mut self, key: &str, given: &impl fmt::Display, cause: impl Into<String>) {
        let line = self.line(key);
        self.layers.section_fault(format!("{}.{key}", self.name), given, line, cause);
    }

    /// What is wrong with the section itself.
    pub(super) fn section_fault(&mut self, cause: &str) {
        self.layers.section_fault(self.name.clone(), &"a section", self.section.line, cause);
    }

    /// The value in force of a key.
    pub(super) fn say(&mut self, key: &str, value: String) {
        let line = self.line(key);
        self.layers.section_setting(format!("{}.{key}", self.name), value, line);
    }

    /// Where a key stands; where its section begins, for one that was left out.
    fn line(&self, key: &str) -> usize {
        self.lines.get(key).copied().unwrap_or(self.section.line)
    }
}
