//! Commands that the table lacks, as a server has described them (`COMMAND INFO`): those of modules, of newer servers, and
//! renamed ones.
//!
//! Each gets a row behind those of the table, so that everything that asks for a row's facts finds them by its number, and a
//! command of the table costs no more than before. Rows are never given back: they are shared by all clusters of the
//! process (what differs between two servers is two rows), and their number is limited. A command that finds no row stays
//! unknown.
//!
//! Which names mean these rows is not known here, as it depends on the server that was asked.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use mecha_core::{OpClass, OpId};

use super::{Access, Begin, COUNT, CommandInfo, Facts, Find, KeySpec, flag, touch};
use crate::Value;

/// Rows of one process.
const MAX_ROWS: usize = 2048;
/// Longest name of a command, and of a word that stands before keys.
pub(crate) const MAX_NAME: usize = 64;
/// Key specifications of one command.
const MAX_SPECS: usize = 16;

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) info: CommandInfo,
    pub(super) facts: Facts,
    pub(super) access: Access,
    /// Names of subcommands, without the command's own, and their rows.
    subs: &'static [(&'static str, OpId)],
}

static ROWS: [OnceLock<Row>; MAX_ROWS] = [const { OnceLock::new() }; MAX_ROWS];

/// What a server says of one command, before it has a row. Equal descriptions share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Description {
    name: String,
    arity: i16,
    flags: u16,
    class: u8,
    specs: Vec<(KeyPlace, u8)>,
    subs: Vec<(String, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct KeyPlace {
    begin: Result<i16, (String, i16)>,
    /// Whether a number of keys comes first, and the three numbers of the search.
    find: (bool, i16, i16, i16),
}

/// The row of a number behind those of the table.
pub(super) fn row(op: OpId) -> Option<&'static Row> {
    ROWS.get(usize::from(op.0).checked_sub(COUNT)?)?.get()
}

/// Whether `op` is a command that the table lacks and a server has described.
pub fn is_learned(op: OpId) -> bool {
    row(op).is_some()
}

/// The subcommand `name` of the learned command `op`; `op` itself if it has no such subcommand.
pub(crate) fn sub(op: OpId, name: &[u8]) -> OpId {
    let subs = row(op).map_or(&[][..], |row| row.subs);
    subs.iter().find(|(own, _)| own.as_bytes().eq_ignore_ascii_case(name)).map_or(op, |(_, op)| *op)
}

/// The row for what a server says of one command that it knows as `name` (an element of the reply to `COMMAND INFO`). `None`
/// if it says nothing that makes sense, or there are too many rows.
pub(crate) fn learn(name: &str, described: &Value) -> Option<OpId> {
    let fields = described.items();
    let subs = fields.get(9).map_or(&[][..], Value::items).iter().filter_map(|below| {
        let full = below.items().first()?.text()?.to_ascii_lowercase();
        let own = full.split_once('|').map_or(full.as_str(), |(_, own)| own).to_string();
        let op = place(describe(&format!("{name}|{own}"), below, Vec::new())?)?;
        Some((own, op.0))
    });
    let subs = subs.take(256).collect();
    place(describe(name, described, subs)?)
}

fn describe(name: &str, described: &Value, subs: Vec<(String, u16)>) -> Option<Description> {
    let fields = described.items();
    let number =
        |at: usize| fields.get(at).and_then(Value::int).and_then(|number| i16::try_from(number).ok());
    let says = |at: usize, word: &str| {
        let words = fields.get(at).map_or(&[][..], Value::items);
        words.iter().any(|known| known.text().is_some_and(|known| known.eq_ignore_ascii_case(word)))
    };
    if name.is_empty() || name.len() > 2 * MAX_NAME {
        return None;
    }
    let bits = [
        ("admin", flag::ADMIN),
        ("blocking", flag::BLOCKING),
        ("fast", flag::FAST),
        ("movablekeys", flag::MOVABLEKEYS),
        ("no_auth", flag::NO_AUTH),
        ("noscript", flag::NOSCRIPT),
        ("pubsub", flag::PUBSUB),
        ("readonly", flag::READONLY),
        ("write", flag::WRITE),
    ];
    let flags = bits.iter().filter(|(word, _)| says(2, word)).map(|(_, bit)| bit).sum();
    // What a server does not call harmless may do anything.
    let class = match flags {
        flags if flags & flag::WRITE != 0 => OpClass::Write,
        flags if flags & flag::ADMIN != 0 => OpClass::Admin,
        flags if flags & flag::READONLY != 0 => OpClass::Read,
        _ => OpClass::Write,
    };
    let mut specs: Vec<_> = match fields.get(8) {
        Some(specs) => specs.items().iter().take(MAX_SPECS).map(key_place).collect(),
        None => Vec::new(),
    };
    let (first, last, step) = (number(3)?, number(4)?, number(5)?);
    if specs.is_empty() && first > 0 && flags & flag::MOVABLEKEYS == 0 {
        // Servers before Redis 7 say no more than this.
        let last = if last >= 0 { last.saturating_sub(first) } else { last };
        let touched = if flags & flag::READONLY != 0 { touch::READ } else { touch::READ | touch::WRITE };
        specs.push((KeyPlace { begin: Ok(first), find: (false, last, step, 0) }, touched));
    }
    Some(Description { name: name.into(), arity: number(1)?, flags, class: class as u8, specs, subs })
}

/// Where the keys of one specification are, and what is done to them. One that cannot be told begins at argument 0.
fn key_place(spec: &Value) -> (KeyPlace, u8) {
    let place = || {
        let number = |of: &Value, name: &str| i16::try_from(of.field(name)?.int()?).ok();
        let (begin, find) = (spec.field("begin_search")?, spec.field("find_keys")?);
        let (start, search) = (begin.field("spec")?, find.field("spec")?);
        let begin = match begin.field("type")?.text()? {
            "index" => Ok(number(start, "index")?),
            "keyword" => {
                let word = start.field("keyword")?.text().filter(|word| word.len() <= MAX_NAME)?;
                Err((word.to_string(), number(start, "startfrom")?))
            }
            _ => return None,
        };
        let find = match find.field("type")?.text()? {
            "range" => {
                (false, number(search, "lastkey")?, number(search, "keystep")?, number(search, "limit")?)
            }
            "keynum" => {
                (true, number(search, "keynumidx")?, number(search, "firstkey")?, number(search, "keystep")?)
            }
            _ => return None,
        };
        Some(KeyPlace { begin, find })
    };
    let words = spec.field("flags").map_or(&[][..], Value::items);
    let has = |names: &[&str]| {
        words.iter().any(|word| word.text().is_some_and(|word| names.contains(&&*word.to_ascii_lowercase())))
    };
    let is_whole = !has(&["incomplete"]);
    let touched = u8::from(has(&["access", "ro"]))
        | u8::from(has(&["insert", "update", "delete", "rw", "ow", "rm"])) << 1
        | u8::from(has(&["not_key"])) << 2;
    let nowhere = KeyPlace { begin: Ok(0), find: (false, 0, 1, 0) };
    (place().filter(|_| is_whole).unwrap_or(nowhere), touched)
}

/// The row of a description, a new one if there is none yet.
fn place(description: Description) -> Option<OpId> {
    static PLACES: Mutex<Option<HashMap<Description, OpId>>> = Mutex::new(None);
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let places = places.get_or_insert_default();
    if let Some(known) = places.get(&description) {
        return Some(*known);
    }
    let at = places.len();
    let op = OpId(u16::try_from(COUNT + at).ok()?);
    ROWS.get(at)?.set(Row::of(&description)).ok()?;
    places.insert(description, op);
    Some(op)
}

impl Row {
    /// What it consists of stays for as long as the process.
    fn of(description: &Description) -> Self {
        let Description { name, arity, flags, class, specs, subs } = description;
        let lasting = |text: &str| -> &'static str { Box::leak(text.into()) };
        let spec = |place: &KeyPlace| {
            let begin = match &place.begin {
                Ok(index) => Begin::Index(*index),
                Err((word, from)) => Begin::Keyword(lasting(word), *from),
            };
            let find = match place.find {
                (true, at, first, step) => Find::Number { at, first, step },
                (false, last, step, limit) => Find::Range { last, step, limit },
            };
            KeySpec { begin, find }
        };
        let keys: Vec<_> = specs.iter().map(|(place, _)| spec(place)).collect();
        let touched: Vec<_> = specs.iter().map(|(_, touched)| *touched).collect();
        let class = [OpClass::Admin, OpClass::Read, OpClass::Session, OpClass::Write]
            .into_iter()
            .find(|known| *known as u8 == *class)
            .unwrap_or(OpClass::Write);
        let info = CommandInfo {
            name: lasting(name),
            arity: *arity,
            flags: *flags,
            class,
            idempotent: class == OpClass::Read,
            is_container: !subs.is_empty(),
            keys: Box::leak(keys.into()),
        };
        let subs: Vec<_> = subs.iter().map(|(name, op)| (lasting(name), OpId(*op))).collect();
        Self {
            facts: Facts::of(&info, false),
            access: Access { categories: 0, keys: Box::leak(touched.into()) },
            subs: Box::leak(subs.into()),
            info,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op_info;

    fn described(reply: &str) -> Value {
        Value::parse(reply.replace(' ', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn old_servers_tell_enough_to_find_a_range_of_keys() {
        let one = described("*6 $8 json.set :-4 *2 +write +denyoom :1 :1 :1 ");
        let op = learn("json.set", &one).unwrap();
        assert!(usize::from(op.0) >= COUNT && is_learned(op));
        let info = op_info(op);
        assert_eq!((info.name, info.arity, info.class), ("json.set", -4, OpClass::Write));
        assert_eq!(info.keys, [KeySpec::range(1, 0, 1, 0)]);
        // The same again is the same row; another arity is not.
        assert_eq!(learn("json.set", &one), Some(op));
        let other = described("*6 $8 json.set :4 *1 +write :1 :1 :1 ");
        assert_ne!(learn("json.set", &other), Some(op));
    }

    #[test]
    fn what_is_no_description_gets_no_row() {
        for wrong in ["*0 ", "$-1 ", ":1 ", "*6 $1 x $1 y *0 :1 :1 :1 ", "*6 $1 x :1 *0 :99999999 :1 :1 "] {
            assert_eq!(learn("x", &described(wrong)), None, "{wrong}");
        }
        assert_eq!(learn("", &described("*6 $1 x :1 *0 :0 :0 :0 ")), None);
    }

    #[test]
    fn rows_of_the_table_are_not_learned() {
        assert!(!is_learned(crate::op::GET) && !is_learned(OpId::UNKNOWN) && !is_learned(OpId(u16::MAX)));
    }
}
