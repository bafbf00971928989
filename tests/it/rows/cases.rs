//! The notation of `resp.txt`.
//!
//! A line without indent names the rows that the lines below it try: a subcommand as `config|get`. `(errors)` behind the
//! names says that a server answers these with nothing but errors. A line with indent is a request, sent in this order:
//!
//! - words starting with `k` and going on with digits (or `w` and more) are keys, other in every run; `""` is empty,
//!   `"a b"` one word, `\xff` a byte;
//! - `.` is a request with the row's name and as many words as it takes at least;
//! - `~` in front: elements may come in any order. `?` in front: only the shape of the answer is compared. `#` before
//!   either: it is tried as it stands, not with other keys and numbers, whose answers a server does not promise;
//! - behind `=>`: what mecha answers where that is not what the server says, on every translation (`=>`) or on one
//!   (`=>memcached`). `*` stands for anything. Such a row is not exact there, and the suite demands that it says so.

/// How answers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Bytes,
    Elements,
    Shape,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) words: Vec<String>,
    pub(super) how: How,
    /// Not with other keys and numbers.
    pub(super) as_it_stands: bool,
    /// Backs (empty is every translation) and what is answered there.
    told: Vec<(String, String)>,
}

/// The lines that try some rows.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) rows: Vec<String>,
    pub(super) only_errors: bool,
    pub(super) lines: Vec<Line>,
}

/// All cases.
pub(super) fn parse(text: &str) -> Vec<Case> {
    let mut cases = Vec::<Case>::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        match line.strip_prefix("  ") {
            Some(line) => cases.last_mut().expect("rows come first").lines.push(Line::parse(line)),
            None => {
                let only_errors = line.ends_with(" (errors)");
                let names = line.trim_end_matches(" (errors)");
                let rows = names.split_whitespace().map(str::to_owned).collect();
                cases.push(Case { rows, only_errors, lines: Vec::new() });
            }
        }
    }
    cases
}

// === impl Line ===

impl Line {
    fn parse(line: &str) -> Self {
        let mut parts = line.split(" =>");
        let request = parts.next().unwrap_or_default();
        let (as_it_stands, request) = match request.strip_prefix('#') {
            Some(rest) => (true, rest),
            None => (false, request),
        };
        let (how, request) = match request.split_at(1) {
            ("~", rest) => (How::Elements, rest),
            ("?", rest) => (How::Shape, rest),
            _ => (How::Bytes, request),
        };
        let told = parts.map(|part| part.split_once(' ').expect("a pattern behind the back"));
        let told = told.map(|(back, pattern)| (back.to_owned(), pattern.to_owned())).collect();
        Self { words: split(request), how, as_it_stands, told }
    }

    /// What is answered on `back` that a server would not.
    pub(super) fn told(&self, back: &str) -> Option<&str> {
        let applies = |name: &str| if name.is_empty() { back != "redis" } else { name == back };
        self.told.iter().find(|(name, _)| applies(name)).map(|(_, pattern)| pattern.as_str())
    }

    /// Whether this is a request of that row.
    pub(super) fn concerns(&self, row: &str) -> bool {
        let mut words = self.words.iter().map(|word| word.to_lowercase());
        let first = words.next();
        self.words == ["."]
            || match row.split_once('|') {
                Some((container, name)) => {
                    first.as_deref() == Some(container) && words.next().as_deref() == Some(name)
                }
                None => first.as_deref() == Some(row),
            }
    }

    /// The request as bytes, with keys that begin with `prefix`.
    pub(super) fn request(&self, row: &str, arity: i16, prefix: &str) -> Vec<Vec<u8>> {
        if self.words == ["."] {
            return named(row, usize::from(arity.unsigned_abs()));
        }
        self.words.iter().map(|word| bytes(word, prefix)).collect()
    }

    /// The keys that it names, each once.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.words.iter().skip(1).filter(|word| is_key(word)).cloned().collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// The same request with one number after another replaced by what is none, or none that fits.
    pub(super) fn mistaken(&self) -> Vec<Self> {
        let numbers = self.words.iter().enumerate().skip(1).filter(|(_, word)| word.parse::<f64>().is_ok());
        let mistakes = |(at, _)| {
            ["x", "\"\"", "9223372036854775808", "1.5", "-1", "nan"].map(|mistake| {
                let mut line = self.clone();
                line.words[at] = mistake.to_owned();
                line
            })
        };
        numbers.flat_map(mistakes).collect()
    }
}

/// `count` words, the name of `row` first.
pub(super) fn named(row: &str, count: usize) -> Vec<Vec<u8>> {
    let name = row.split('|').map(|word| word.to_uppercase().into_bytes());
    name.chain(std::iter::repeat(b"1".to_vec())).take(count.max(row.split('|').count())).collect()
}

/// Whether this text is what the pattern says.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.trim_end().strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

fn is_key(word: &str) -> bool {
    word.strip_prefix('k').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn bytes(word: &str, prefix: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), word.trim_matches('"'));
    if is_key(word) || word.starts_with("kw") {
        out.extend_from_slice(prefix.as_bytes());
    }
    while let Some((before, after)) = rest.split_once("\\x") {
        out.extend_from_slice(before.as_bytes());
        let (digits, more) = after.split_at(2);
        out.push(u8::from_str_radix(digits, 16).expect("two digits"));
        rest = more;
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

fn split(line: &str) -> Vec<String> {
    let (mut words, mut is_quoted) = (vec![String::new()], false);
    for letter in line.chars() {
        match letter {
            ' ' if !is_quoted => words.push(String::new()),
            _ => {
                is_quoted ^= letter == '"';
                words.last_mut().expect("never empty").push(letter);
            }
        }
    }
    words
}
