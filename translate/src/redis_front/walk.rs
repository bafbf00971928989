//! Commands over all keys, for backs that know them: DBSIZE, KEYS, RANDOMKEY, SCAN.

use mecha_core::Outcome;
use mecha_resp::reply::Writer;

use super::aggregate::Error;
use super::hash::content::{clamp, cursor, is, long};
use super::keys::type_name;
use crate::kv::{KeySpace, RunCx, Walk};
use mecha_resp::glob;

/// `DBSIZE`, where the back cannot tell at once.
pub(super) struct Size {
    pub(super) proto: u8,
}

impl Walk for Size {
    fn run(&mut self, keys: &dyn KeySpace, _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        Writer::new(out, self.proto).int(i64::try_from(keys.count()).unwrap_or(i64::MAX));
        Outcome::Ok
    }
}

/// `KEYS`.
pub(super) struct Matching {
    pub(super) pattern: Vec<u8>,
    pub(super) proto: u8,
}

impl Walk for Matching {
    fn run(&mut self, keys: &dyn KeySpace, _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let mut found = Vec::new();
        let mut cursor = 0;
        loop {
            cursor = keys.scan(cursor, usize::MAX, &mut |key, _| {
                if glob::matches(&self.pattern, key) {
                    found.push(key.to_vec());
                }
            });
            if cursor == 0 {
                break;
            }
        }
        let mut writer = Writer::new(out, self.proto);
        writer.array(found.len());
        found.iter().for_each(|key| writer.bulk(key));
        Outcome::Ok
    }
}

/// `RANDOMKEY`.
pub(super) struct Any {
    pub(super) proto: u8,
}

impl Walk for Any {
    fn run(&mut self, keys: &dyn KeySpace, cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        Writer::new(out, self.proto).bulk_or_null(keys.random(cx.random).as_deref());
        Outcome::Ok
    }
}

/// `SCAN`.
pub(super) struct Scan {
    cursor: u64,
    count: usize,
    pattern: Option<Vec<u8>>,
    kind: Option<Vec<u8>>,
    proto: u8,
}

impl Scan {
    /// Reads the arguments, the name first.
    pub(super) fn parse(words: &[Vec<u8>], proto: u8) -> Result<Self, Error> {
        let cursor = words.get(1).and_then(|word| cursor(word)).ok_or(Error::Text("ERR invalid cursor"))?;
        let mut scan = Self { cursor, count: 10, pattern: None, kind: None, proto };
        let mut options = words.iter().skip(2);
        while let Some(option) = options.next() {
            let value = options.next().ok_or(Error::Syntax)?;
            match () {
                () if is(option, "count") => match long(value)? {
                    count @ 1.. => scan.count = clamp(count),
                    _ => return Err(Error::Syntax),
                },
                () if is(option, "match") => scan.pattern = Some(value.clone()),
                () if is(option, "type") => scan.kind = Some(value.clone()),
                () => return Err(Error::Syntax),
            }
        }
        Ok(scan)
    }
}

impl Walk for Scan {
    fn run(&mut self, keys: &dyn KeySpace, _: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let mut found = Vec::new();
        let next = keys.scan(self.cursor, self.count, &mut |key, entry| {
            let is_kind = self.kind.as_ref().is_none_or(|kind| is(kind, type_name(&entry.value)));
            if is_kind && self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, key)) {
                found.push(key.to_vec());
            }
        });
        let mut writer = Writer::new(out, self.proto);
        writer.array(2);
        writer.bulk(next.to_string().as_bytes());
        writer.array(found.len());
        found.iter().for_each(|key| writer.bulk(key));
        Outcome::Ok
    }
}
