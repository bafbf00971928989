//! Answers without their order, or without what they hold.

/// The elements of each reply sorted.
pub(super) fn sorted(text: &str) -> String {
    let mut rest = text.as_bytes();
    rebuilt(&mut rest, &|line, items| {
        let mut items = items;
        items.sort();
        line.to_owned() + &items.concat()
    })
}

/// Types and lengths; errors in full.
pub(super) fn shape(text: &str) -> String {
    let mut rest = text.as_bytes();
    rebuilt(&mut rest, &|line, items| match line.as_bytes().first() {
        Some(b'$' | b'=') if !line.starts_with("$-1") => "text".to_owned(),
        Some(b':' | b',') => "number".to_owned(),
        _ => line.to_owned() + &items.concat(),
    })
}

/// One reply, whose line and finished elements are put together by `join`.
fn rebuilt(rest: &mut &[u8], join: &dyn Fn(&str, Vec<String>) -> String) -> String {
    let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
    let (line, after) = rest.split_at(end);
    *rest = after;
    let text = String::from_utf8_lossy(line).into_owned();
    let count = text.get(1..).and_then(|count| count.trim_end().parse::<i64>().ok()).unwrap_or(0).max(-1);
    match line.first() {
        Some(b'$' | b'=' | b'!') if count >= 0 => {
            let (body, after) = rest.split_at(rest.len().min(count as usize + 2));
            *rest = after;
            join(&text, vec![String::from_utf8_lossy(body).into_owned()])
        }
        Some(b'*' | b'~' | b'>') => {
            let items = (0..count.max(0)).map(|_| rebuilt(rest, join)).collect();
            join(&text, items)
        }
        Some(b'%') => {
            let items = (0..count.max(0)).map(|_| rebuilt(rest, join) + &rebuilt(rest, join)).collect();
            join(&text, items)
        }
        _ => join(&text, Vec::new()),
    }
}
