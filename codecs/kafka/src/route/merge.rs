//! One response of the answers of several brokers.

use std::ops::Range;

use super::Parts;
use super::cursor::{Cursor, put_count};
use crate::guard;
use crate::schema::Role;
use crate::table::ApiKey;
use crate::wire::Malformed;

/// One answer: where its list is, and what it says of the whole.
struct Answer {
    array: Range<usize>,
    items: Range<usize>,
    count: usize,
    has_failed: bool,
    throttle: i32,
}

/// Appends the body of the response (what follows the correlation id) that says what all these say: their lists one behind
/// the other, the first error of the whole that there is, and the longest time to wait.
///
/// # Errors
/// See [`Malformed`]. What was appended to `out` by then is of no use.
pub fn merge(key: ApiKey, version: i16, bodies: &[Vec<u8>], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let parts = Parts::of(key, version).ok_or(Malformed::Unknown)?;
    let mut answers = Vec::with_capacity(bodies.len());
    for body in bodies {
        answers.push(read(key, version, parts, body)?);
    }
    let base = answers.iter().position(|answer| answer.has_failed).unwrap_or_default();
    let (Some(answer), Some(body)) = (answers.get(base), bodies.get(base)) else {
        return Err(Malformed::Truncated);
    };
    let is_flexible = key.response().is_some_and(|message| message.is_flexible(version));
    let start = out.len();
    out.extend_from_slice(body.get(..answer.array.start).unwrap_or_default());
    put_count(answers.iter().map(|answer| answer.count).sum(), is_flexible, out);
    for (answer, body) in answers.iter().zip(bodies) {
        out.extend_from_slice(body.get(answer.items.clone()).unwrap_or_default());
    }
    out.extend_from_slice(body.get(answer.array.end..).unwrap_or_default());
    let longest = answers.iter().map(|answer| answer.throttle).max().unwrap_or_default();
    wait(key, version, start, longest, out)
}

fn read(key: ApiKey, version: i16, parts: &Parts, body: &[u8]) -> Result<Answer, Malformed> {
    let message = key.response().ok_or(Malformed::Unknown)?;
    guard::check(message, version, body)?;
    let is_flexible = message.is_flexible(version);
    let mut cursor = Cursor { body, at: 0, version, is_flexible };
    cursor.tags()?;
    let mut answer = Answer { array: 0..0, items: 0..0, count: 0, has_failed: false, throttle: 0 };
    for field in message.fields {
        if !cursor.has(field) {
            continue;
        }
        let start = cursor.at;
        if field.name == parts.answers
            && let crate::schema::Kind::Array(of) = &field.kind
        {
            answer.count = cursor.count()?.unwrap_or_default();
            let first = cursor.at;
            for _ in 0..answer.count {
                cursor.value(of, false)?;
            }
            (answer.array, answer.items) = (start..cursor.at, first..cursor.at);
            continue;
        }
        match (field.role, cursor.field(field)?) {
            (Role::ErrorCode, Some(code)) => answer.has_failed = code != [0, 0],
            (Role::Throttle, millis) => answer.throttle = super::cursor::int32(millis)?,
            _ => {}
        }
    }
    Ok(answer)
}

/// Puts the time to wait into a response that was appended at `start`.
fn wait(key: ApiKey, version: i16, start: usize, millis: i32, out: &mut [u8]) -> Result<(), Malformed> {
    let message = key.response().ok_or(Malformed::Unknown)?;
    let is_flexible = message.is_flexible(version);
    let body = out.get(start..).unwrap_or_default();
    let mut cursor = Cursor { body, at: 0, version, is_flexible };
    cursor.tags()?;
    for field in message.fields {
        if !cursor.has(field) {
            continue;
        }
        let at = cursor.at;
        cursor.field(field)?;
        if field.role == Role::Throttle {
            if let Some(place) = out.get_mut(start + at..start + at + 4) {
                place.copy_from_slice(&millis.to_be_bytes());
            }
            return Ok(());
        }
    }
    Ok(())
}
