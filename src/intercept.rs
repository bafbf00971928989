//! `mecha intercept`: the rules of the system's packet filter that lead an application's connections here.
//!
//! An application that dials `cache:6379` keeps doing so; a rule leads the connection to a port of mecha's, and the listener there
//! has `transparent: redirect` (or `tproxy`), so that it knows where the connection was going. What mecha itself sends carries a
//! mark and is left alone, or it would come back.
//!
//! Everything that is made has a fixed name of its own: a table of nftables, chains of iptables, a routing table. So applying
//! again replaces what is there, and removing needs no memory of what was applied, by whatever process, even one that
//! crashed. The rules live in the network namespace that the command runs in, and so belong to one application, or to a
//! whole machine.
//!
//! `rules.rs` says what is wanted, `nft.rs` and `iptables.rs` in which words; this runs the programs, or prints what it would run.

mod iptables;
mod nft;
mod rules;

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, Subcommand, ValueEnum};

pub(crate) use self::rules::{Direction, Families, Lead, Mode, Rules};

/// What packets carry that mecha itself has sent.
pub const OWN_MARK: u32 = 0x6d65;

/// What packets carry that are led here without being changed (TPROXY), and the number of the routing table for them.
pub(crate) const LED_MARK: u32 = 0x6d66;

/// What packets of servers carry that are for a connection which mecha has made from a client's address.
pub(crate) const KEPT_MARK: u32 = 0x6d67;

const EXAMPLES: &str = "\
Examples:
  mecha intercept plan  --port 6379=16379                 what would be done, and nothing is
  mecha intercept apply --port 6379=16379 --port 9092=19092 --rest 15001
  mecha intercept apply --direction inbound --port 8080=18080 --exclude-interface lo
  mecha intercept apply --mode tproxy --direction inbound --rest 15001 --rules iptables
  mecha intercept apply --direction inbound --port 5432=15432 --keep-source
  mecha intercept status
  mecha intercept remove

A listener that such connections reach:
  listeners:
    - { listen: redis://0.0.0.0:16379, transparent: redirect, to: redis://10.0.0.5:6379 }
    - { listen: tcp://0.0.0.0:15001, transparent: redirect, to: original:// }";

/// `mecha intercept`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Intercept {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Make the rules, in place of those that are there
    Apply(Wanted),
    /// Print what `apply` would do
    Plan(Wanted),
    /// Take the rules away, whoever made them
    Remove,
    /// Print the rules that are there, with what they have counted
    Status,
}

/// What is to be led here.
#[derive(Args, Clone, Debug)]
struct Wanted {
    /// Connections to a port go to another of this machine's, as in 6379=16379; may repeat
    #[arg(long, value_name = "PORT=PORT", value_parser = rules::lead)]
    port: Vec<Lead>,
    /// The port for all other TCP connections; they are left alone without it
    #[arg(long, value_name = "PORT")]
    rest: Option<std::num::NonZeroU16>,
    /// What servers answer to clients whose address mecha keeps (`keep_source`) comes to mecha
    #[arg(long)]
    keep_source: bool,
    /// Connections that are made here, that come from elsewhere, or both
    #[arg(long, value_enum, default_value_t = Direction::Outbound)]
    direction: Direction,
    /// How they are led here: by a changed address, or as they are
    #[arg(long, value_enum, default_value_t = Mode::Redirect)]
    mode: Mode,
    /// Of IPv4, IPv6, or both
    #[arg(long, value_enum, default_value_t = Families::Both)]
    family: Families,
    /// Who makes the rules; nft if it is there
    #[arg(long, value_enum)]
    rules: Option<Program>,
    /// Users whose connections are left alone, by number
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    exclude_uid: Vec<u32>,
    /// Groups whose connections are left alone, by number
    #[arg(long, value_name = "GID", value_delimiter = ',')]
    exclude_gid: Vec<u32>,
    /// Ports that are left alone
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    exclude_port: Vec<u16>,
    /// Addresses that are left alone, as in 10.0.0.0/8 or fd00::/8
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = rules::network)]
    exclude_address: Vec<rules::Network>,
    /// Interfaces that are left alone: those that connections leave by, or come by if inbound
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = rules::interface)]
    exclude_interface: Vec<String>,
}

/// Who makes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    Iptables,
    Nft,
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) words: Vec<String>,
    pub(crate) input: String,
    /// It may fail: what it takes away may not be there.
    pub(crate) may_fail: bool,
}

impl Step {
    pub(crate) fn new(words: &str, input: String) -> Self {
        Self { words: words.split(' ').map(str::to_string).collect(), input, may_fail: false }
    }

    pub(crate) fn undo(words: &str) -> Self {
        Self { may_fail: true, ..Self::new(words, String::new()) }
    }

    /// As a shell would run it.
    fn shown(&self) -> String {
        let words = self.words.join(" ");
        match (self.input.is_empty(), self.may_fail) {
            (true, false) => format!("{words}\n"),
            (true, true) => format!("{words} 2>/dev/null\n"),
            (false, _) => format!("{words} <<'END'\n{}END\n", self.input),
        }
    }

    /// Runs it to its end.
    fn run(&self) -> Result<String, String> {
        let (program, arguments) = self.words.split_first().ok_or("nothing to run")?;
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                format!("there is no `{program}` here; install it, or use `--rules` for another")
            }
            _ => format!("`{program}` cannot be run: {error}"),
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            // A program that does not read has something else to say.
            let _ = input.write_all(self.input.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() || self.may_fail {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("`{}` failed: {}", self.words.join(" "), said.trim()))
    }
}

impl Wanted {
    fn rules(&self) -> Result<Rules, String> {
        Rules {
            leads: self.port.clone(),
            rest: self.rest.map(std::num::NonZeroU16::get),
            direction: self.direction,
            mode: self.mode,
            families: self.family,
            uids: self.exclude_uid.clone(),
            gids: self.exclude_gid.clone(),
            ports: self.exclude_port.clone(),
            networks: self.exclude_address.clone(),
            interfaces: self.exclude_interface.clone(),
            keeps_source: self.keep_source,
        }
        .checked()
    }

    fn program(&self) -> Program {
        let has_nft =
            || Command::new("nft").arg("--version").output().is_ok_and(|said| said.status.success());
        self.rules.unwrap_or_else(|| if has_nft() { Program::Nft } else { Program::Iptables })
    }

    /// What takes away what may be there, and then what makes what is wanted.
    fn steps(&self) -> Result<Vec<Step>, String> {
        let rules = self.rules()?;
        // Rules of the other kind would lead the same connections elsewhere.
        let (mut steps, made) = match self.program() {
            Program::Iptables => (nft::removed(), iptables::made(&rules)),
            Program::Nft => (iptables::removed(), nft::made(&rules)),
        };
        let has_routes = rules.mode == Mode::Tproxy || rules.keeps_source;
        if !has_routes {
            steps.extend(rules::routes_removed());
        }
        steps.extend(made);
        if has_routes {
            steps.extend(rules.routes());
        }
        Ok(steps)
    }
}

/// Everything that there may be is taken away.
fn removed() -> Vec<Step> {
    [nft::removed(), iptables::removed(), rules::routes_removed()].concat()
}

impl Intercept {
    /// Does it, and says what.
    pub(crate) fn run(&self) -> ExitCode {
        let done = match &self.what {
            What::Apply(wanted) => wanted.steps().and_then(|steps| run(&steps, true)),
            What::Plan(wanted) => wanted.steps().map(|steps| show(&steps)),
            What::Remove => {
                run(&removed(), false).map(|()| println!("no connection is led to mecha any more"))
            }
            What::Status => status(),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("mecha: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

fn show(steps: &[Step]) {
    steps.iter().for_each(|step| print!("{}", step.shown()));
}

fn run(steps: &[Step], is_shown: bool) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        let hint = "run it as root (CAP_NET_ADMIN), in the network namespace of the application; `plan` needs no privilege";
        return Err(format!("rules can only be changed by a privileged user\n  hint: {hint}"));
    }
    for step in steps {
        if is_shown {
            print!("{}", step.shown());
        }
        step.run()?;
    }
    Ok(())
}

fn status() -> Result<(), String> {
    let told = [nft::told(), iptables::told()].concat();
    let mut is_any = false;
    for step in told {
        let said = step.run().unwrap_or_default();
        let wanted: Vec<_> = if step.words.first().is_some_and(|word| word == "nft") {
            said.lines().collect()
        } else {
            said.lines().filter(|line| line.contains(iptables::PREFIX)).collect()
        };
        if !wanted.is_empty() {
            is_any = true;
            println!("{}\n", wanted.join("\n"));
        }
    }
    if !is_any {
        println!("no connection is led to mecha");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
