//! `SORT` and `SORT_RO` of what one key holds.
//!
//! `BY` and `GET` with a star in their patterns read keys that are known only when the elements are: see [`patterns`].
//! Without one, `BY` means that nothing is to be sorted, and `GET #` is the element, as in Redis.

mod patterns;

use std::cmp::Ordering;

pub(super) use self::patterns::plan;
use super::aggregate::{Args, Error, Keys, Run, Spec, spec};
use super::hash::content::{MAX_REPEATED, TOO_REPETITIVE, clamp, is, long, replace};
use super::zset::number::parse_score;
use crate::slot::{Slot, Value};

/// In alphabetical order.
pub(crate) const COMMANDS: &[Spec] =
    &[spec("sort", -2, Keys::GeoStore(2), sort), spec("sort_ro", -2, Keys::First, sort_ro)];

/// What an element takes besides its bytes.
const REFERENCE: usize = 40;

const OTHER_KEYS: &str = "ERR SORT with BY or GET patterns is not supported on this backend";
const TOO_LARGE: &str = "ERR the sorted list would be larger than an item of the backend";

#[derive(Default)]
struct Options<'a> {
    descends: bool,
    is_alpha: bool,
    /// `BY` something constant.
    keeps_order: bool,
    /// `BY` a pattern with a star.
    by: Option<&'a [u8]>,
    limit: Option<(i64, i64)>,
    /// Which argument is the key to store at.
    store_at: Option<usize>,
    gets: Vec<Get<'a>>,
}

/// What is to be told of an element.
#[derive(Clone, Copy)]
enum Get<'a> {
    Element,
    Nothing,
    /// With a star.
    Pattern(&'a [u8]),
}

fn options(args: Args<'_>, only_reads: bool) -> Result<Options<'_>, Error> {
    let (mut options, mut at) = (Options::default(), 2);
    while at < args.count() {
        let (word, left) = (args.at(at), args.count() - at - 1);
        match () {
            () if is(word, "asc") => options.descends = false,
            () if is(word, "desc") => options.descends = true,
            () if is(word, "alpha") => options.is_alpha = true,
            () if is(word, "limit") && left >= 2 => {
                options.limit = Some((long(args.at(at + 1))?, long(args.at(at + 2))?));
                at += 2;
            }
            () if is(word, "store") && left >= 1 && !only_reads => {
                options.store_at = Some(at + 1);
                at += 1;
            }
            () if is(word, "by") && left >= 1 => {
                let pattern = args.at(at + 1);
                options.by = Some(pattern).filter(|pattern| pattern.contains(&b'*'));
                // Redis never takes this back.
                options.keeps_order |= options.by.is_none();
                at += 1;
            }
            () if is(word, "get") && left >= 1 => {
                options.gets.push(match args.at(at + 1) {
                    b"#" => Get::Element,
                    pattern if pattern.contains(&b'*') => Get::Pattern(pattern),
                    _ => Get::Nothing,
                });
                at += 1;
            }
            () => return Err(Error::Syntax),
        }
        at += 1;
    }
    Ok(options)
}

/// What is to be sorted.
fn elements(slot: &Slot, options: &mut Options<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let mut elements: Vec<Vec<u8>> = Vec::new();
    match slot.entry.as_ref().map(|entry| &entry.value) {
        None => {}
        Some(Value::List(items)) => elements.extend(items.iter().cloned()),
        Some(Value::Set(members)) => {
            elements.extend(members.iter().cloned());
            if options.keeps_order && options.store_at.is_some() {
                (options.keeps_order, options.is_alpha, options.by) = (false, true, None);
            }
        }
        Some(Value::ZSet(members)) => elements.extend(members.iter().map(|(member, _)| member.to_vec())),
        Some(Value::Hash(_) | Value::Str(_)) => return Err(Error::WrongType),
    }
    Ok(elements)
}

/// A weight as `strtod` reads it: it ends at a zero byte, space in front is allowed, and nothing at all is zero.
fn weight(element: &[u8]) -> Result<f64, Error> {
    let element = element.split(|byte| *byte == 0).next().unwrap_or_default();
    let digits = element.trim_ascii_start();
    if element.is_empty() {
        return Ok(0.0);
    }
    parse_score(digits).ok_or(Error::Text("ERR One or more scores can't be converted into double"))
}

fn sort(run: &mut Run<'_>) -> Result<(), Error> {
    sort_with(run, false)
}

fn sort_ro(run: &mut Run<'_>) -> Result<(), Error> {
    sort_with(run, true)
}

fn sort_with(run: &mut Run<'_>, only_reads: bool) -> Result<(), Error> {
    let mut options = options(run.args, only_reads)?;
    let is_pattern = |get: &Get<'_>| matches!(get, Get::Pattern(_));
    if options.by.is_some() || options.gets.iter().any(is_pattern) {
        return Err(Error::Text(OTHER_KEYS));
    }
    let mut elements = elements(run.slots.nth(0), &mut options)?;
    arrange(&mut elements, &options)?;
    let shown = elements.get(limited(options.limit, elements.len())).unwrap_or_default();
    let gets = if options.gets.is_empty() { &[Get::Element][..] } else { &options.gets };
    let own = |get: &Get<'_>| matches!(get, Get::Element);
    let found = shown.iter().flat_map(|element| gets.iter().map(move |get| own(get).then_some(element)));
    if options.store_at.is_some() {
        let bytes = |found: Option<&Vec<u8>>| found.map_or(0, Vec::len) + REFERENCE;
        if found.clone().map(bytes).sum::<usize>() > run.cx.max_value {
            return Err(Error::Text(TOO_LARGE));
        }
        let found: std::collections::VecDeque<Vec<u8>> =
            found.map(|element| element.cloned().unwrap_or_default()).collect();
        run.reply.int(found.len() as i64);
        let last = run.slots.len() - 1;
        replace(run.slots.nth_mut(last), found);
        return Ok(());
    }
    let size =
        found.clone().fold(0, |size: usize, found| size + found.map_or(0, |element| element.len()) + 16);
    if gets.len() > 1 && size > MAX_REPEATED {
        return Err(TOO_REPETITIVE);
    }
    run.reply.array(shown.len() * gets.len());
    for element in found {
        run.reply.bulk_or_null(element.map(Vec::as_slice));
    }
    Ok(())
}

fn arrange(elements: &mut Vec<Vec<u8>>, options: &Options<'_>) -> Result<(), Error> {
    let directed = |order: Ordering| if options.descends { order.reverse() } else { order };
    if options.keeps_order {
        if options.descends {
            elements.reverse();
        }
    } else if options.is_alpha {
        elements.sort_by(|one, other| directed(one.cmp(other)));
    } else {
        let mut weighed = Vec::with_capacity(elements.len());
        for element in elements.drain(..) {
            weighed.push((weight(&element)?, element));
        }
        weighed.sort_by(|(weight, element), (other_weight, other)| {
            let by_weight = weight.partial_cmp(other_weight).unwrap_or(Ordering::Equal);
            directed(by_weight.then_with(|| element.cmp(other)))
        });
        elements.extend(weighed.into_iter().map(|(_, element)| element));
    }
    Ok(())
}

fn limited(limit: Option<(i64, i64)>, length: usize) -> std::ops::Range<usize> {
    let (start, count) = limit.unwrap_or((0, -1));
    let start = clamp(start).min(length);
    let count = if count < 0 { length } else { clamp(count) };
    start..start.saturating_add(count).min(length)
}
