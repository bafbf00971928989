//! `SORT` and `SORT_RO` of what one key holds.
//!
//! `BY` and `GET` with a star in their patterns read keys that are known only when the elements are: they are refused.
//! Without one, `BY` means that nothing is to be sorted, and `GET #` is the element, as in Redis.

use std::cmp::Ordering;

use super::aggregate::{Error, Keys, Run, Spec, spec};
use super::hash::content::{MAX_REPEATED, clamp, is, long, replace};
use super::zset::number::parse_score;
use crate::slot::Value;

/// In alphabetical order.
pub(crate) const COMMANDS: &[Spec] =
    &[spec("sort", -2, Keys::GeoStore(2), sort), spec("sort_ro", -2, Keys::First, sort_ro)];

/// What an element takes besides its bytes.
const REFERENCE: usize = 40;

const OTHER_KEYS: &str =
    "ERR SORT with BY or GET patterns is not supported: their keys are not known in advance";

#[derive(Default)]
struct Options {
    descends: bool,
    is_alpha: bool,
    /// `BY` something constant.
    keeps_order: bool,
    limit: Option<(i64, i64)>,
    stores: bool,
    /// For each `GET` whether it is `#`; the others find nothing.
    gets: Vec<bool>,
}

fn options(run: &Run<'_>, only_reads: bool) -> Result<Options, Error> {
    let (mut options, mut at) = (Options::default(), 2);
    while at < run.argc() {
        let (word, left) = (run.arg(at), run.argc() - at - 1);
        match () {
            () if is(word, "asc") => options.descends = false,
            () if is(word, "desc") => options.descends = true,
            () if is(word, "alpha") => options.is_alpha = true,
            () if is(word, "limit") && left >= 2 => {
                options.limit = Some((long(run.arg(at + 1))?, long(run.arg(at + 2))?));
                at += 2;
            }
            () if is(word, "store") && left >= 1 && !only_reads => {
                options.stores = true;
                at += 1;
            }
            () if (is(word, "by") || is(word, "get")) && left >= 1 => {
                let pattern = run.arg(at + 1);
                if pattern.contains(&b'*') {
                    return Err(Error::Text(OTHER_KEYS));
                }
                if is(word, "by") {
                    options.keeps_order = true;
                } else {
                    options.gets.push(pattern == b"#");
                }
                at += 1;
            }
            () => return Err(Error::Syntax),
        }
        at += 1;
    }
    Ok(options)
}

/// A weight as `strtod` reads it: space in front is allowed, and nothing at all is zero.
fn weight(element: &[u8]) -> Result<f64, Error> {
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
    let mut options = options(run, only_reads)?;
    let mut elements: Vec<Vec<u8>> = Vec::new();
    match run.slots.nth(0).entry.as_ref().map(|entry| &entry.value) {
        None => {}
        Some(Value::List(items)) => elements.extend(items.iter().cloned()),
        Some(Value::Set(members)) => {
            elements.extend(members.iter().cloned());
            if options.keeps_order && options.stores {
                (options.keeps_order, options.is_alpha) = (false, true);
            }
        }
        Some(Value::ZSet(members)) => elements.extend(members.iter().map(|(member, _)| member.to_vec())),
        Some(Value::Hash(_) | Value::Str(_)) => return Err(Error::WrongType),
    }
    arrange(&mut elements, &options)?;
    let shown = elements.get(limited(options.limit, elements.len())).unwrap_or_default();
    let gets = if options.gets.is_empty() { &[true][..] } else { &options.gets };
    let found = shown.iter().flat_map(|element| gets.iter().map(move |own| own.then_some(element)));
    if options.stores {
        let bytes = |found: Option<&Vec<u8>>| found.map_or(0, Vec::len) + REFERENCE;
        if found.clone().map(bytes).sum::<usize>() > run.cx.max_value {
            return Err(Error::Text("ERR the sorted list would be larger than an item of the backend"));
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
        return Err(Error::Text("ERR the reply would be larger than 512 MiB"));
    }
    run.reply.array(shown.len() * gets.len());
    for element in found {
        run.reply.bulk_or_null(element.map(Vec::as_slice));
    }
    Ok(())
}

fn arrange(elements: &mut Vec<Vec<u8>>, options: &Options) -> Result<(), Error> {
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
