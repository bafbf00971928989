//! The command line.

mod check;
mod reference;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use mecha_config::{Known, LogFormat, LogSpec, Overrides, Snapshot, TlsFlags};

use crate::intercept::Intercept;
pub(crate) use check::conditions;
pub use reference::{FilterHelp, Help, SupportRow};

const EXAMPLES: &str = "\
Examples:
  mecha                                   the demo: Redis on 6379 and Memcached on 11211 over one store in memory
  mecha mecha.yaml                        runs a configuration file
  mecha --listen redis://127.0.0.1:6379 --to redis://10.0.0.5:6379 --admin 127.0.0.1:9900
  mecha --listen redis://127.0.0.1:6379 --to memcached://127.0.0.1:11211      a Redis program on Memcached
  mecha check mecha.yaml                  all errors at once, or the resolved plan
  mecha filters rate_limit                what a filter does, with an example
  mecha intercept plan --port 6379=16379  rules that lead an application's connections here

A configuration file of three lines:
  listeners:
    - listen: redis://127.0.0.1:6379
      to: memcached://127.0.0.1:11211";

#[derive(Parser)]
#[command(
    name = "mecha",
    version,
    about = "A mesh data plane: native protocols in, filters, any compatible backend out"
)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Chosen>,
    #[command(flatten)]
    run: RunArgs,
}

/// What to run.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Configuration file
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Configuration file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "listen"])]
    config: Option<PathBuf>,
    /// Where clients connect, as in redis://127.0.0.1:6379; may repeat, each with its --to
    #[arg(long, value_name = "URL", conflicts_with = "file")]
    listen: Vec<String>,
    /// Where their calls go, as in redis://a:6379,b:6379, memcached://a:11211, embedded://
    #[arg(long, value_name = "URL", conflicts_with = "file")]
    to: Vec<String>,
    /// Certificate of rediss:// and memcacheds:// listeners: a PEM file, the server's own first
    #[arg(long, value_name = "FILE", conflicts_with = "file", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key: a PEM file
    #[arg(long, value_name = "FILE", conflicts_with = "file", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authorities of client certificates, which clients then must have
    #[arg(long, value_name = "FILE", conflicts_with = "file", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Authorities of the certificates of rediss:// and memcacheds:// servers; those of the system without it
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    tls_ca: Option<PathBuf>,
    /// Where the admin server listens, as in 127.0.0.1:9900
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Data threads; one per core without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: Option<String>,
    /// Logs as JSON
    #[arg(long)]
    log_json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Chosen {
    /// Check a configuration file: all errors at once, or the resolved plan
    Check {
        /// The file
        file: PathBuf,
        /// List the commands of the support table one by one
        #[arg(long)]
        support: bool,
    },
    /// Print a completion script
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Explain the filters, or one of them
    Filters {
        /// Its name
        name: Option<String>,
    },
    /// Lead an application's connections here by rules of the packet filter
    Intercept(Intercept),
    /// Print the JSON Schema of a configuration file, for editors
    Schema,
}

/// What the command line asks for.
pub enum Command {
    /// Run.
    Run(Box<RunArgs>),
    /// Print something and end.
    Tell(Tell),
}

/// Something to print.
pub struct Tell(Chosen);

/// Reads the command line. Ends the process for `--help`, `--version` and what it cannot understand.
pub fn parse() -> Command {
    let first = std::env::args_os().nth(1).and_then(|first| first.into_string().ok());
    if let Some(meant) = first.as_deref().and_then(misspelt) {
        let first = first.unwrap_or_default();
        eprintln!(
            "mecha: there is no file and no command `{first}`
  hint: did you mean `mecha {meant}`?"
        );
        std::process::exit(2);
    }
    let Arguments { command, run } = Arguments::parse();
    match command {
        Some(chosen) => Command::Tell(Tell(chosen)),
        None => Command::Run(Box::new(run)),
    }
}

/// The command that `word` was meant to be, if it is none and no file either.
fn misspelt(word: &str) -> Option<String> {
    if word.starts_with('-') || Path::new(word).exists() {
        return None;
    }
    let commands = Arguments::command();
    let names = commands.get_subcommands().map(clap::Command::get_name);
    let near = names.map(|name| (mecha_config::edit_distance(word, name), name)).min()?;
    // A third of the word may be wrong; `help` is clap's own.
    ((1..=near.1.len() / 3).contains(&near.0) && word != "help").then(|| near.1.to_string())
}

impl RunArgs {
    /// Whether nothing says what to run.
    pub fn is_demo(&self) -> bool {
        self.file.is_none() && self.config.is_none() && self.listen.is_empty() && self.to.is_empty()
    }

    /// The configuration file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.config.as_deref().or(self.file.as_deref())
    }

    /// As [`RunArgs::snapshot`], with the errors one by one, for a log.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn reread(&self, known: &Known<'_>) -> Result<Snapshot, Vec<String>> {
        let Some(file) = self.file() else {
            return Err(vec!["there is no configuration file to read again".into()]);
        };
        let mut snapshot = check::read(file, known).map_err(|errors| {
            errors.iter().map(|error| error.to_string().trim_end().to_string()).collect::<Vec<_>>()
        })?;
        self.override_in(&mut snapshot);
        Ok(snapshot)
    }

    /// The configuration that the arguments stand for.
    ///
    /// # Errors
    /// Everything that is wrong with it, for people.
    pub fn snapshot(&self, known: &Known<'_>) -> Result<Snapshot, String> {
        let mut snapshot = match self.file() {
            Some(file) => check::load(file, known)?,
            None if self.is_demo() => mecha_config::demo_snapshot(),
            None => mecha_config::from_flags(&self.listen, &self.to, &self.tls_flags(), known)
                .map_err(|errors| check::render("the command line", &errors))?,
        };
        self.override_in(&mut snapshot);
        Ok(snapshot)
    }

    fn tls_flags(&self) -> TlsFlags {
        TlsFlags {
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            client_ca: self.tls_client_ca.clone(),
            ca: self.tls_ca.clone(),
        }
    }

    fn override_in(&self, snapshot: &mut Snapshot) {
        let log = (self.log_json || self.log_level.is_some()).then(|| LogSpec {
            format: if self.log_json { LogFormat::Json } else { snapshot.log.format },
            level: self.log_level.clone().unwrap_or_else(|| snapshot.log.level.clone()),
        });
        Overrides { admin: self.admin, workers: self.workers.map(usize::from), log }.apply(snapshot);
    }
}

/// Prints what was asked for.
pub fn tell(tell: &Tell, known: &Known<'_>, help: &Help) -> ExitCode {
    let text = match &tell.0 {
        Chosen::Check { file, support } => check::check(file, known, help, *support),
        Chosen::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "mecha", &mut script);
            Ok(String::from_utf8_lossy(&script).into_owned())
        }
        Chosen::Filters { name } => reference::filters(help, name.as_deref()),
        Chosen::Intercept(intercept) => return intercept.run(),
        Chosen::Schema => {
            let filters: Vec<_> =
                help.filters.iter().map(|filter| (filter.name, filter.summary, filter.options)).collect();
            Ok(format!("{:#}\n", mecha_config::schema(&filters)))
        }
    };
    match text {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprint!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// Prints, and does not mind a reader that has seen enough (`mecha filters | head`).
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The name under which a file is shown.
fn shown(file: &Path) -> String {
    file.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    fn parsed(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn a_file_flags_and_nothing_are_told_apart() {
        assert!(parsed("mecha").unwrap().run.is_demo());
        assert!(parsed("mecha --workers 2").unwrap().run.is_demo());
        assert!(!parsed("mecha some.yaml").unwrap().run.is_demo());
        assert!(parsed("mecha check some.yaml").unwrap().command.is_some());
        assert!(parsed("mecha some.yaml --listen redis://:1").is_err());
        assert!(parsed("mecha --workers 0").is_err());
        let run =
            parsed("mecha --listen redis://:1 --to embedded:// --listen memcached://:2 --to embedded://")
                .unwrap()
                .run;
        assert_eq!((run.listen.len(), run.to.len()), (2, 2));
    }
}
