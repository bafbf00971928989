//! Unions, intersections and differences of sorted sets and plain sets, whose members count with score 1.

use indexmap::IndexMap;

use super::{
    super::{
        aggregate::{Error, Run},
        hash::content::{Members, Shapes as _, at_least, clamp, integer, is, look, replace},
    },
    NAN, insert,
    number::parse_score,
};
use crate::zset::ZSet;

/// What to make of several sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algebra {
    Diff,
    Inter,
    Union,
}

/// How the scores of a member in several sets become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregate {
    Max,
    Min,
    Sum,
}

/// One input. A missing key is an empty one.
#[derive(Clone, Copy)]
enum Source<'a> {
    Empty,
    Plain(&'a Members),
    Sorted(&'a ZSet),
}

// === impl Aggregate ===

impl Aggregate {
    fn of(self, score: f64, other: f64) -> f64 {
        match self {
            Self::Max => {
                if other > score {
                    other
                } else {
                    score
                }
            }
            Self::Min => {
                if other < score {
                    other
                } else {
                    score
                }
            }
            // The sum of both infinities is zero by convention.
            Self::Sum => Some(score + other).filter(|sum| !sum.is_nan()).unwrap_or(0.0),
        }
    }
}

// === impl Source ===

impl<'a> Source<'a> {
    fn look(run: &'a Run<'_>, key: usize) -> Result<Self, Error> {
        let slot = run.slots.nth(key);
        if let Ok(Some(members)) = look::<Members>(slot) {
            return Ok(Self::Plain(members));
        }
        Ok(look::<ZSet>(slot)?.map_or(Self::Empty, Self::Sorted))
    }

    fn len(self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Plain(members) => members.len(),
            Self::Sorted(members) => members.len(),
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Self::Empty => None,
            Self::Plain(members) => members.contains(member).then_some(1.0),
            Self::Sorted(members) => members.score(member),
        }
    }

    fn iter(self) -> Box<dyn Iterator<Item = (&'a [u8], f64)> + 'a> {
        match self {
            Self::Empty => Box::new(std::iter::empty()),
            Self::Plain(members) => Box::new(members.iter().map(|member| (member.as_slice(), 1.0))),
            Self::Sorted(members) => Box::new(members.iter()),
        }
    }
}

/// Inputs and options.
struct Query<'a> {
    sources: Vec<(Source<'a>, f64)>,
    aggregate: Aggregate,
    with_scores: bool,
    limit: usize,
}

/// What the options may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Count,
    Show(Algebra),
    Store(Algebra),
}

impl<'a> Query<'a> {
    /// Reads from argument `at`, the number of keys, on.
    fn parse(run: &'a Run<'_>, at: usize, form: Form, name: &'static str) -> Result<Self, Error> {
        let keys = integer(run.arg(at)).ok_or(Error::NotInteger)?;
        if keys < 1 {
            return Err(Error::Owned(format!("ERR at least 1 input key is needed for '{name}' command")));
        }
        let keys = clamp(keys);
        if keys > run.argc() - at - 1 {
            return Err(Error::Syntax);
        }
        let is_store = matches!(form, Form::Store(_));
        let first = usize::from(is_store);
        let mut sources = Vec::new();
        for key in first..first + keys {
            sources.push((Source::look(run, key)?, 1.0));
        }
        let mut query = Self { sources, aggregate: Aggregate::Sum, with_scores: false, limit: usize::MAX };
        let weighs = !matches!(form, Form::Count | Form::Show(Algebra::Diff) | Form::Store(Algebra::Diff));
        let mut option = at + 1 + keys;
        while option < run.argc() {
            let (name, left) = (run.arg(option), run.argc() - option);
            if weighs && left > keys && is(name, "weights") {
                for (nth, source) in query.sources.iter_mut().enumerate() {
                    let weight = parse_score(run.arg(option + 1 + nth));
                    source.1 = weight.ok_or(Error::Text("ERR weight value is not a float"))?;
                }
                option += 1 + keys;
            } else if weighs && left >= 2 && is(name, "aggregate") {
                query.aggregate = match run.arg(option + 1) {
                    name if is(name, "sum") => Aggregate::Sum,
                    name if is(name, "min") => Aggregate::Min,
                    name if is(name, "max") => Aggregate::Max,
                    _ => return Err(Error::Syntax),
                };
                option += 2;
            } else if matches!(form, Form::Show(_)) && is(name, "withscores") {
                query.with_scores = true;
                option += 1;
            } else if form == Form::Count && left >= 2 && is(name, "limit") {
                let limit = at_least(0, run.arg(option + 1), "ERR LIMIT can't be negative").map(clamp)?;
                query.limit = if limit == 0 { usize::MAX } else { limit };
                option += 2;
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(query)
    }

    fn result(mut self, algebra: Algebra) -> Result<ZSet, Error> {
        let mut result = ZSet::default();
        if algebra == Algebra::Diff {
            let Some(((minuend, _), rest)) = self.sources.split_first() else { return Ok(result) };
            for (member, score) in minuend.iter() {
                if !rest.iter().any(|(other, _)| other.score(member).is_some()) {
                    result.insert(member, score).map_err(|_| NAN)?;
                }
            }
            return Ok(result);
        }
        // Smallest first, as Redis does: the order of a sum of floats shows.
        self.sources.sort_by_key(|(source, _)| source.len());
        let weigh =
            |weight: f64, score: f64| Some(weight * score).filter(|score| !score.is_nan()).unwrap_or(0.0);
        if algebra == Algebra::Union {
            let mut scores: IndexMap<&[u8], f64> = IndexMap::new();
            for (source, weight) in &self.sources {
                for (member, score) in source.iter() {
                    let score = weigh(*weight, score);
                    let sum = scores.entry(member).and_modify(|sum| *sum = self.aggregate.of(*sum, score));
                    sum.or_insert(score);
                }
            }
            for (member, score) in scores {
                result.insert(member, score).map_err(|_| NAN)?;
            }
            return Ok(result);
        }
        let Some(((smallest, weight), rest)) = self.sources.split_first() else { return Ok(result) };
        for (member, score) in smallest.iter() {
            let sum = rest.iter().try_fold(weigh(*weight, score), |sum, (other, weight)| {
                other.score(member).map(|score| self.aggregate.of(sum, score * weight))
            });
            if let Some(sum) = sum {
                result.insert(member, sum).map_err(|_| NAN)?;
            }
        }
        Ok(result)
    }
}

fn show(run: &mut Run<'_>, algebra: Algebra, name: &'static str) -> Result<(), Error> {
    let query = Query::parse(run, 1, Form::Show(algebra), name)?;
    let with_scores = query.with_scores;
    let result = query.result(algebra)?;
    run.reply.pairs(result.len(), with_scores);
    for (member, score) in &result {
        run.reply.pair(with_scores);
        run.reply.bulk(member);
        if with_scores {
            run.reply.double(score);
        }
    }
    Ok(())
}

fn store(run: &mut Run<'_>, algebra: Algebra, name: &'static str) -> Result<(), Error> {
    let shown = Query::parse(run, 2, Form::Store(algebra), name)?.result(algebra)?;
    // What is stored has no minus zero, though what is shown has.
    let mut result = ZSet::default();
    for (member, score) in &shown {
        insert(&mut result, member, score)?;
    }
    run.reply.int(result.len() as i64);
    replace(run.slots.nth_mut(0), result);
    Ok(())
}

pub(super) fn zdiff(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Algebra::Diff, "zdiff")
}

pub(super) fn zdiffstore(run: &mut Run<'_>) -> Result<(), Error> {
    store(run, Algebra::Diff, "zdiffstore")
}

pub(super) fn zinter(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Algebra::Inter, "zinter")
}

pub(super) fn zinterstore(run: &mut Run<'_>) -> Result<(), Error> {
    store(run, Algebra::Inter, "zinterstore")
}

pub(super) fn zunion(run: &mut Run<'_>) -> Result<(), Error> {
    show(run, Algebra::Union, "zunion")
}

pub(super) fn zunionstore(run: &mut Run<'_>) -> Result<(), Error> {
    store(run, Algebra::Union, "zunionstore")
}

pub(super) fn zintercard(run: &mut Run<'_>) -> Result<(), Error> {
    let query = Query::parse(run, 1, Form::Count, "zintercard")?;
    let mut sources = query.sources;
    sources.sort_by_key(|(source, _)| source.len());
    let count = sources.split_first().map_or(0, |((smallest, _), rest)| {
        let in_all = |member: &[u8]| rest.iter().all(|(other, _)| other.score(member).is_some());
        smallest.iter().filter(|(member, _)| in_all(member)).take(query.limit).count()
    });
    run.reply.int(count as i64);
    Ok(())
}
