//! `SORT` with patterns, for a back in this process: one program reads the elements, one each of the keys that they
//! stand for, and one stores. Nothing comes between them.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;

use mecha_core::{Asked, OpId, Outcome};
use mecha_resp::Resp;
use mecha_resp::reply::Writer;

use super::{
    Get, MAX_REPEATED, Options, REFERENCE, TOO_LARGE, TOO_REPETITIVE, arrange, elements, limited, options,
    weight,
};
use crate::kv::{Atomicity, KvError, KvFront, Plan, Program, RunCx, Sequence, Space, Txn, Want};
use crate::redis_front::aggregate::{Args, Error, write_error};
use crate::redis_front::hash::content::{is, replace};
use crate::slot::{Slot, Value};

/// Plans it if it has patterns.
pub(in crate::redis_front) fn plan(
    op: OpId,
    words: &[Vec<u8>],
    proto: u8,
    back: &'static str,
) -> Option<Plan> {
    let name = words.first()?;
    let only_reads = is(name, "sort_ro");
    if !only_reads && !is(name, "sort") {
        return None;
    }
    let options = options(Args::new(words), only_reads).ok()?;
    let has_pattern = options.by.is_some() || options.gets.iter().any(|get| matches!(get, Get::Pattern(_)));
    has_pattern.then(|| {
        let words = words.to_vec();
        Plan::Sequence(Box::new(Sort { op, words, only_reads, proto, back }))
    })
}

struct Sort {
    op: OpId,
    words: Vec<Vec<u8>>,
    only_reads: bool,
    proto: u8,
    back: &'static str,
}

/// Why it fails.
enum Failure {
    Client(Error),
    Store(KvError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<KvError> for Failure {
    fn from(error: KvError) -> Self {
        Self::Store(error)
    }
}

impl Sequence for Sort {
    fn keys(&self) -> Option<&[Vec<u8>]> {
        None
    }

    fn run(&mut self, space: &mut dyn Space, cx: &RunCx, out: &mut Vec<u8>) -> Outcome {
        let start = out.len();
        let result = sort(self, space, cx, out);
        match result {
            Ok(()) => Outcome::Ok,
            Err(failure) => {
                out.truncate(start);
                match failure {
                    Failure::Client(error) => write_error(&error, "sort", &mut Writer::new(out, self.proto)),
                    Failure::Store(error) => {
                        Resp::error(Asked { op: self.op, echo: 0 }, error, self.back, out)
                    }
                }
            }
        }
    }
}

fn sort(sort: &Sort, space: &mut dyn Space, cx: &RunCx, out: &mut Vec<u8>) -> Result<(), Failure> {
    let args = Args::new(&sort.words);
    let mut options = options(args, sort.only_reads)?;
    let mut found = with_slot(space, args.at(1), cx, |slot| slot.clone())?;
    found.changed = false;
    let mut sorted = elements(&found, &mut options)?;
    drop(found);
    match options.by.filter(|_| !options.keeps_order) {
        None => arrange(&mut sorted, &options)?,
        Some(pattern) => sorted = arrange_by(pattern, sorted, &options, space, cx)?,
    }
    let shown = sorted.get(limited(options.limit, sorted.len())).unwrap_or_default();
    let gets = if options.gets.is_empty() { &[Get::Element][..] } else { &options.gets };
    let most = if options.store_at.is_some() { cx.max_value } else { MAX_REPEATED };
    let (mut told, mut size) = (Vec::new(), 0_usize);
    for element in shown {
        for get in gets {
            let one = match get {
                Get::Element => Some(element.clone()),
                Get::Nothing => None,
                Get::Pattern(pattern) => look_up(pattern, element, space, cx)?,
            };
            size += one.as_ref().map_or(0, Vec::len) + REFERENCE;
            if size > most {
                let stores = options.store_at.is_some();
                return Err(if stores { Error::Text(TOO_LARGE) } else { TOO_REPETITIVE }.into());
            }
            told.push(one);
        }
    }
    let mut writer = Writer::new(out, sort.proto);
    match options.store_at {
        None => {
            writer.array(told.len());
            told.iter().for_each(|one| writer.bulk_or_null(one.as_deref()));
        }
        Some(at) => {
            writer.int(told.len() as i64);
            let list: VecDeque<Vec<u8>> = told.into_iter().map(Option::unwrap_or_default).collect();
            with_slot(space, args.at(at), cx, move |slot| replace(slot, list.clone()))?;
        }
    }
    Ok(())
}

/// Sorts by what the pattern's keys hold.
fn arrange_by(
    pattern: &[u8],
    elements: Vec<Vec<u8>>,
    options: &Options<'_>,
    space: &mut dyn Space,
    cx: &RunCx,
) -> Result<Vec<Vec<u8>>, Failure> {
    let directed = |order: Ordering| if options.descends { order.reverse() } else { order };
    let (mut by_text, mut by_weight, mut size) = (Vec::new(), Vec::new(), 0_usize);
    for element in elements {
        let found = look_up(pattern, &element, space, cx)?;
        if options.is_alpha {
            size += found.as_ref().map_or(0, Vec::len);
            if size > MAX_REPEATED {
                return Err(TOO_REPETITIVE.into());
            }
            by_text.push((found, element));
        } else {
            by_weight.push((found.map_or(Ok(0.0), |text| weight(&text))?, element));
        }
    }
    if options.is_alpha {
        // A key that does not exist comes first.
        by_text.sort_by(|(one, _), (other, _)| directed(one.cmp(other)));
        return Ok(by_text.into_iter().map(|(_, element)| element).collect());
    }
    by_weight.sort_by(|(weight, element), (other_weight, other)| {
        let order = weight.partial_cmp(other_weight).unwrap_or(Ordering::Equal);
        directed(order.then_with(|| element.cmp(other)))
    });
    Ok(by_weight.into_iter().map(|(_, element)| element).collect())
}

/// What the key, or the field of a hash, holds that `pattern` stands for with `element` in place of its first star.
fn look_up(
    pattern: &[u8],
    element: &[u8],
    space: &mut dyn Space,
    cx: &RunCx,
) -> Result<Option<Vec<u8>>, KvError> {
    let star = pattern.iter().position(|byte| *byte == b'*').unwrap_or(pattern.len());
    let (before, behind) =
        (pattern.get(..star).unwrap_or_default(), pattern.get(star + 1..).unwrap_or_default());
    let arrow = behind.windows(2).position(|two| two == b"->").filter(|at| at + 2 < behind.len());
    let (behind, field) = match arrow {
        Some(at) => (behind.get(..at).unwrap_or_default(), behind.get(at + 2..).map(<[u8]>::to_vec)),
        None => (behind, None),
    };
    let key = [before, element, behind].concat();
    with_slot(space, &key, cx, move |slot| match (slot.entry.as_ref().map(|entry| &entry.value), &field) {
        (Some(Value::Hash(fields)), Some(field)) => fields.get(field.as_slice()).cloned(),
        (Some(Value::Str(text)), None) => Some(text.clone()),
        _ => None,
    })
}

/// Runs `see` on one key's slot.
fn with_slot<R: Clone + 'static>(
    space: &mut dyn Space,
    key: &[u8],
    cx: &RunCx,
    see: impl FnMut(&mut Slot) -> R + 'static,
) -> Result<R, KvError> {
    let result = Rc::new(RefCell::new(None));
    let program = Box::new(See { see, result: Rc::clone(&result) });
    let keys = vec![key.to_vec()];
    let mut txn = Txn { keys, program, want: Want::Everything, atomicity: Atomicity::PerKey };
    space.run(&mut txn, 0, cx, &mut Vec::new())?;
    result.take().ok_or(KvError::BackFailed)
}

struct See<F, R> {
    see: F,
    result: Rc<RefCell<Option<R>>>,
}

impl<F: FnMut(&mut Slot) -> R, R> Program for See<F, R> {
    fn run(&mut self, slots: &mut [Slot], _: &RunCx, _: &mut Vec<u8>) -> Outcome {
        if let Some(slot) = slots.first_mut() {
            self.result.replace(Some((self.see)(slot)));
        }
        Outcome::Ok
    }
}
