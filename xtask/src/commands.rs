//! `cargo xtask commands`: writes the RESP command table from what a real redis-server reports.
//!
//! The server is asked for `COMMAND`; every command and subcommand with its flags and key specifications becomes one row
//! of `codecs/resp/src/ops/table.rs`. Commands of servers newer than the one at hand come from the hand-kept list in
//! `newer.rs`, which the generator merges in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::newer::NEWER;

/// Where the table goes, from the workspace's root.
const TABLE: &str = "codecs/resp/src/ops/table.rs";

/// Generates the table.
///
/// # Errors
/// No redis-server can be started, or it answers something unexpected.
pub(crate) fn run(_args: &[String]) -> Result<(), String> {
    let server = Server::start()?;
    let (version, rows) = server.commands()?;
    let text = render(&version, &rows);
    std::fs::write(TABLE, text).map_err(|error| format!("{TABLE}: {error}"))?;
    let formatted = Command::new("rustfmt").args(["--edition", "2024", TABLE]).status();
    if !formatted.is_ok_and(|status| status.success()) {
        return Err("rustfmt failed".into());
    }
    println!("{TABLE}: {} commands, {} of them newer than redis-server {version}", rows.len(), NEWER.len());
    Ok(())
}

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Result<Self, String> {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(text)?.port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server: {error}"))?;
        let server = Self { child, port };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err("redis-server does not listen".into())
    }

    fn commands(&self) -> Result<(String, BTreeMap<String, Row>), String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(text)?;
        let mut reader = BufReader::new(stream.try_clone().map_err(text)?);
        let mut writer = stream;
        writer.write_all(b"*1\r\n$7\r\nCOMMAND\r\n*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n").map_err(text)?;
        let commands = Node::read(&mut reader)?;
        let info = Node::read(&mut reader)?.text();
        let version =
            info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?").to_string();
        let mut rows = BTreeMap::new();
        for command in commands.items() {
            Row::collect(command, &mut rows);
        }
        for (name, arity, flags, first, last, step) in NEWER {
            rows.entry((*name).to_string()).or_insert_with(|| Row {
                arity: *arity,
                flags: flags.split(' ').map(Into::into).collect(),
                categories: Vec::new(),
                specs: if *first > 0 {
                    let last = if *last > 0 { last - first } else { *last };
                    vec![format!("KeySpec::range({first}, {last}, {step}, 0)")]
                } else {
                    Vec::new()
                },
                is_container: NEWER.iter().any(|other| other.0.starts_with(&format!("{name}|"))),
            });
        }
        Ok((version, rows))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Row {
    arity: i64,
    flags: Vec<String>,
    categories: Vec<String>,
    specs: Vec<String>,
    is_container: bool,
}

impl Row {
    fn collect(command: &Node, rows: &mut BTreeMap<String, Row>) {
        let at = |index: usize| command.items().get(index).cloned().unwrap_or(Node::Text(String::new()));
        let strings = |node: &Node| node.items().iter().map(Node::text).collect::<Vec<_>>();
        let subcommands = at(9);
        let name = at(0).text().to_lowercase();
        // Some servers find keys by code of their own. Where we know what it looks for, we say so; elsewhere a begin at
        // argument 0 stands for "cannot be told".
        let by_code = match name.as_str() {
            "sort" => {
                "KeySpec { begin: Begin::Keyword(\"STORE\", 2), find: Find::Range { last: 0, step: 1, limit: 0 } }"
            }
            "sort_ro" => "",
            _ => "KeySpec::range(0, 0, 1, 0)",
        };
        let row = Self {
            arity: at(1).int(),
            flags: strings(&at(2)),
            categories: strings(&at(6)),
            specs: at(8)
                .items()
                .iter()
                .map(|spec| key_spec(spec).unwrap_or_else(|| by_code.to_string()))
                .filter(|spec| !spec.is_empty())
                .collect(),
            is_container: !subcommands.items().is_empty(),
        };
        rows.insert(name, row);
        for subcommand in subcommands.items() {
            Self::collect(subcommand, rows);
        }
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    fn class(&self, name: &str) -> &'static str {
        let in_category = |category: &str| self.categories.iter().any(|known| known == category);
        let family = name.split('|').next().unwrap_or(name);
        if in_category("@connection")
            || in_category("@transaction")
            || in_category("@pubsub") && name != "publish" && name != "spublish"
        {
            if matches!(name, "ping" | "echo") { "Read" } else { "Session" }
        } else if self.has("write")
            || self.has("may_replicate")
            || in_category("@scripting") && !self.has("readonly")
        {
            "Write"
        } else if self.has("admin")
            || matches!(
                family,
                "config" | "debug" | "acl" | "cluster" | "module" | "slowlog" | "latency" | "function"
            )
        {
            "Admin"
        } else {
            "Read"
        }
    }
}

/// Key specifications as the table has them. Those that the server itself calls incomplete are kept: they find the
/// keys that can be found.
fn key_spec(spec: &Node) -> Option<String> {
    let begin = spec.field("begin_search")?;
    let (kind, begin) = (begin.field("type")?.text(), begin.field("spec")?);
    let start = match kind.as_str() {
        "index" => format!("Begin::Index({})", begin.field("index")?.int()),
        "keyword" => {
            let (keyword, from) = (begin.field("keyword")?.text(), begin.field("startfrom")?.int());
            format!("Begin::Keyword({keyword:?}, {from})")
        }
        _ => return None,
    };
    let find = spec.field("find_keys")?;
    let (kind, find) = (find.field("type")?.text(), find.field("spec")?);
    let int = |name: &str| find.field(name).map(|node| node.int());
    let find = match kind.as_str() {
        "range" => {
            format!(
                "Find::Range {{ last: {}, step: {}, limit: {} }}",
                int("lastkey")?,
                int("keystep")?,
                int("limit")?
            )
        }
        "keynum" => format!(
            "Find::Number {{ at: {}, first: {}, step: {} }}",
            int("keynumidx")?,
            int("firstkey")?,
            int("keystep")?
        ),
        _ => return None,
    };
    Some(format!("KeySpec {{ begin: {start}, find: {find} }}"))
}

/// Writes whose repetition changes nothing, whatever their arguments.
const IDEMPOTENT: &[&str] = &["expireat", "hmset", "hset", "mset", "pexpireat", "psetex", "setex"];

fn render(version: &str, rows: &BTreeMap<String, Row>) -> String {
    let mut out = format!(
        "//! Generated by `cargo xtask commands` from redis-server {version} and its hand-kept list of newer commands.\n\
         //! Do not edit.\n\n\
         use mecha_core::{{OpClass, OpId}};\n\n\
         use super::{{Begin, CommandInfo, Find, KeySpec, flag}};\n\n\
         /// Every command and subcommand by name; row 0 stands for all others.\n\
         pub static COMMANDS: [CommandInfo; {}] = [\nCommandInfo::UNKNOWN,\n",
        rows.len() + 1
    );
    for (name, row) in rows {
        let flags = [
            "admin",
            "blocking",
            "fast",
            "movablekeys",
            "no_auth",
            "noscript",
            "pubsub",
            "readonly",
            "write",
        ];
        let set: Vec<_> = flags
            .iter()
            .filter(|flag| row.has(flag))
            .map(|flag| format!("flag::{}", flag.to_uppercase()))
            .collect();
        let class = row.class(name);
        let idempotent = matches!(class, "Read") || IDEMPOTENT.contains(&name.as_str());
        let _ = writeln!(
            out,
            "CommandInfo {{ name: {name:?}, arity: {}, flags: {}, class: OpClass::{class}, idempotent: {idempotent}, \
             is_container: {}, keys: &[{}] }},",
            row.arity,
            if set.is_empty() { "0".into() } else { set.join(" | ") },
            row.is_container,
            row.specs.join(", "),
        );
    }
    out.push_str("];\n\n/// Constants for the rows.\n#[allow(missing_docs, reason = \"the name is the command\")]\npub mod op {\nuse super::OpId;\n\n");
    for (index, name) in rows.keys().enumerate() {
        let constant = name.to_uppercase().replace(['|', '-', '.'], "_");
        let _ = writeln!(out, "pub const {constant}: OpId = OpId({});", index + 1);
    }
    out.push_str("}\n");
    out
}

/// A reply, as far as this generator needs to understand one.
#[derive(Clone)]
enum Node {
    Int(i64),
    List(Vec<Node>),
    Text(String),
}

impl Node {
    fn read(reader: &mut impl BufRead) -> Result<Self, String> {
        let mut line = String::new();
        reader.read_line(&mut line).map_err(text)?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or("empty reply")?;
        match kind {
            ":" => Ok(Self::Int(rest.parse().map_err(text)?)),
            "+" => Ok(Self::Text(rest.into())),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().map_err(text)? + 2];
                reader.read_exact(&mut bytes).map_err(text)?;
                bytes.truncate(bytes.len() - 2);
                Ok(Self::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
            "*" => {
                let count = rest.parse::<i64>().map_err(text)?.max(0);
                (0..count).map(|_| Self::read(reader)).collect::<Result<_, _>>().map(Self::List)
            }
            _ => Err(format!("unexpected reply {line:?}")),
        }
    }

    fn items(&self) -> &[Node] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Int(int) => int.to_string(),
            Self::List(_) => String::new(),
            Self::Text(text) => text.clone(),
        }
    }

    fn int(&self) -> i64 {
        match self {
            Self::Int(int) => *int,
            _ => 0,
        }
    }

    /// Looks `name` up in a flattened map.
    fn field(&self, name: &str) -> Option<Node> {
        self.items().chunks(2).find(|pair| pair[0].text() == name).and_then(|pair| pair.get(1).cloned())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
