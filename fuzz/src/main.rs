//! `cargo run -p mecha-fuzz [--seconds N] [--seed N] [--target NAME] [FILE…]`: tries every target with mutated seeds.
//!
//! Files are tried as they are, with the target that `--target` names: that is how a failure is repeated. The seed of a
//! run is printed, and the bytes of a failure are written to `target/fuzz/`.
#![expect(clippy::disallowed_methods, reason = "a run is bounded by the clock")]

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mecha_fuzz::{TARGETS, Target};

/// An input that takes longer hangs, as far as a client is concerned.
const PATIENCE: Duration = Duration::from_secs(5);
/// Inputs do not grow beyond this.
const LARGEST: usize = 16 << 10;

/// Words that make something happen.
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "*",
    "$",
    "-1",
    "0",
    "*-1\r\n",
    "$-1\r\n",
    "*1048577\r\n",
    "$536870913\r\n",
    "-",
    "+",
    "%",
    "~",
    "|",
    ">",
    "_",
    "=",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "4294967296",
    "1e400",
    "nan",
    "inf",
    " noreply",
    " q",
    " b",
    "\0",
    "\u{ff}",
    "\"",
    "'",
    "\\x",
    ": ",
    "- ",
    "&a",
    "*a",
    "{",
    "[",
    "MULTI\r\n",
    "EXEC\r\n",
    "get ",
    "set ",
    "mg ",
    "ms ",
];

struct Options {
    seconds: u64,
    seed: u64,
    target: Option<String>,
    files: Vec<String>,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        eprintln!("usage: mecha-fuzz [--seconds N] [--seed N] [--target NAME] [FILE...]");
        return ExitCode::FAILURE;
    };
    let chosen = |target: &&Target| options.target.as_ref().is_none_or(|name| name == target.name);
    println!("seed {}", options.seed);
    let mut failed = 0;
    for target in TARGETS.iter().filter(chosen) {
        let result = match options.files.as_slice() {
            [] => run(target, &options),
            files => files.iter().try_for_each(|file| match std::fs::read(file) {
                Ok(bytes) => check(target, &bytes),
                Err(error) => Err(format!("{file}: {error}")),
            }),
        };
        if let Err(why) = result {
            println!("{} FAILED: {why}", target.name);
            failed += 1;
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options { seconds: 5, seed: fastrand::u64(..), target: None, files: Vec::new() };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => options.seconds = args.next()?.parse().ok()?,
            "--seed" => options.seed = args.next()?.parse().ok()?,
            "--target" => options.target = Some(args.next()?),
            _ if arg.starts_with("--") => return None,
            _ => options.files.push(arg),
        }
    }
    Some(options)
}

/// Tries mutated seeds for a time.
fn run(target: &Target, options: &Options) -> Result<(), String> {
    let mut random = Rng::with_seed(options.seed);
    let mut corpus: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    let (start, mut tried) = (Instant::now(), 0u64);
    while start.elapsed() < Duration::from_secs(options.seconds) {
        let mut input = corpus.get(random.usize(..corpus.len())).cloned().unwrap_or_default();
        for _ in 0..random.usize(..6) {
            mutate(&mut input, &corpus, &mut random);
        }
        input.truncate(LARGEST);
        // The targets of codecs take the size of the pieces from here.
        input.insert(0, random.u8(..));
        check(target, &input)?;
        tried += 1;
        // Now and then a mutant becomes a seed, so that mutations add up.
        if random.usize(..64) == 0 {
            let at = target.seeds.len() + random.usize(..256);
            match corpus.get_mut(at) {
                Some(old) => *old = input,
                None => corpus.push(input),
            }
        }
    }
    println!("{:<22} {tried:>8} inputs", target.name);
    Ok(())
}

fn check(target: &Target, input: &[u8]) -> Result<(), String> {
    let start = Instant::now();
    let result = catch_unwind(|| (target.check)(input));
    let is_slow = start.elapsed() > PATIENCE;
    if result.is_ok() && !is_slow {
        return Ok(());
    }
    let path = format!("target/fuzz/{}", target.name);
    let saved = std::fs::create_dir_all("target/fuzz").and_then(|()| std::fs::write(&path, input));
    let what = if is_slow { "took too long" } else { "panicked" };
    Err(match saved {
        Ok(()) => format!("{what}; repeat with --target {} {path}", target.name),
        Err(error) => format!("{what} on {input:?} ({path}: {error})"),
    })
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Rng) {
    let at = random.usize(..=input.len());
    let end = (at + random.usize(..16)).min(input.len());
    match random.u8(..8) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.u8(..8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.u8(..);
            }
        }
        2 => drop(input.drain(at..end)),
        3 => {
            let word = WORDS[random.usize(..WORDS.len())];
            input.splice(at..at, word.bytes());
        }
        4 => {
            let word = WORDS[random.usize(..WORDS.len())];
            input.splice(at..end, word.bytes());
        }
        5 => {
            let copy = input.get(at..end).unwrap_or_default().to_vec();
            input.splice(at..at, copy);
        }
        6 => {
            let other = corpus.get(random.usize(..corpus.len())).map(Vec::as_slice).unwrap_or_default();
            let from = random.usize(..=other.len());
            let part = other.get(from..).unwrap_or_default().to_vec();
            input.splice(at..end, part);
        }
        _ => {
            // A number is replaced by another one of its size, mostly.
            if let Some(digit) = input.iter_mut().skip(at).find(|byte| byte.is_ascii_digit()) {
                *digit = b'0' + random.u8(..10);
            }
        }
    }
}
