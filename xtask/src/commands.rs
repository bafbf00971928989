//! `cargo xtask commands`: writes the RESP command table from what a real redis-server reports.
//!
//! Each server is asked for `COMMAND`; every command and subcommand with its flags and key specifications becomes one
//! row of `codecs/resp/src/ops/table.rs`, and with its categories one of `access.rs` beside it. The first server is the one that is installed; newer ones ([`servers`]) add
//! what it lacks, and let a command take the numbers of arguments that any of them takes. What none of them tells comes
//! from the hand-kept list in `newer.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::newer::{NEWER, Newer};
use super::servers;

/// Where the table goes, from the workspace's root.
const TABLE: &str = "codecs/resp/src/ops/table.rs";

/// Where the facts for access control go.
const ACCESS: &str = "codecs/resp/src/ops/access.rs";

/// Categories of commands as servers name them, in the order in which `ACL CAT` lists them.
const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Generates the table.
///
/// # Errors
/// No redis-server can be started, or it answers something unexpected.
pub(crate) fn run(_args: &[String]) -> Result<(), String> {
    let (mut versions, mut rows) = (Vec::new(), BTreeMap::<String, Row>::new());
    let installed = std::path::PathBuf::from("redis-server");
    for program in std::iter::once(installed).chain(servers::newer()?) {
        let server = Server::start(&program)?;
        let (version, more) = server.commands()?;
        versions.push(version);
        for (name, row) in more {
            match rows.get_mut(&name) {
                // mecha answers these itself, and as the installed server does.
                Some(_) if name.starts_with("command|") => {}
                Some(known) => known.arity = wider(known.arity, row.arity),
                None => _ = rows.insert(name, row),
            }
        }
    }
    for newer in NEWER {
        if rows.get(newer.0).is_none_or(|row| row.arity == -1) {
            rows.insert(newer.0.into(), Row::of(newer));
        }
    }
    let from = versions.join(", ");
    for (path, text) in [(TABLE, render(&from, &rows)), (ACCESS, render_access(&from, &rows))] {
        std::fs::write(path, text).map_err(|error| format!("{path}: {error}"))?;
    }
    let formatted = Command::new("rustfmt").args(["--edition", "2024", TABLE, ACCESS]).status();
    if !formatted.is_ok_and(|status| status.success()) {
        return Err("rustfmt failed".into());
    }
    println!("{TABLE}: {} commands, from {}", rows.len(), versions.join(", "));
    Ok(())
}

/// The arity that takes whatever one of the two takes.
fn wider(one: i64, other: i64) -> i64 {
    if one == other { one } else { -one.abs().min(other.abs()) }
}

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(program: &std::path::Path) -> Result<Self, String> {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(text)?.port();
        let child = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let server = Self { child, port };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err(format!("{} does not listen", program.display()))
    }

    fn commands(&self) -> Result<(String, BTreeMap<String, Row>), String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(text)?;
        let mut reader = BufReader::new(stream.try_clone().map_err(text)?);
        let mut writer = stream;
        writer.write_all(b"*1\r\n$7\r\nCOMMAND\r\n*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n").map_err(text)?;
        let commands = Node::read(&mut reader)?;
        let info = Node::read(&mut reader)?.text();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // Valkey reports for compatibility which Redis it branched from.
        let version = match (field("valkey_version:"), field("redis_version:")) {
            (Some(version), _) => format!("Valkey {version}"),
            (None, version) => format!("Redis {}", version.unwrap_or("?")),
        };
        let mut rows = BTreeMap::new();
        for command in commands.items() {
            Row::collect(command, &mut rows);
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
    /// For each of `specs`: 1 if values are read, 2 if they are changed, 4 if it is about channels.
    access: Vec<u8>,
    is_container: bool,
}

impl Row {
    fn of((name, arity, flags, first, last, step): &Newer) -> Self {
        let last = if *last > 0 { last - first } else { *last };
        let spec = format!("KeySpec::range({first}, {last}, {step}, 0)");
        let is_write = flags.split(' ').any(|flag| flag == "write");
        let category = if is_write { "@write" } else { "@read" };
        let is_fast = flags.split(' ').any(|flag| flag == "fast");
        let is_admin = flags.split(' ').any(|flag| flag == "admin");
        let speed = if is_fast { "@fast" } else { "@slow" };
        let categories = if is_admin { vec!["@admin", "@dangerous", speed] } else { vec![category, speed] };
        Self {
            arity: *arity,
            flags: flags.split(' ').map(Into::into).collect(),
            categories: categories.into_iter().map(Into::into).collect(),
            specs: if *first > 0 { vec![spec] } else { Vec::new() },
            access: if *first > 0 { vec![if is_write { 3 } else { 1 }] } else { Vec::new() },
            is_container: NEWER.iter().any(|other| other.0.starts_with(&format!("{name}|"))),
        }
    }

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
        let (mut specs, mut access): (Vec<String>, Vec<u8>) = Default::default();
        for spec in at(8).items() {
            let touched = touched(spec);
            let spec = key_spec(spec).unwrap_or_else(|| by_code.to_string());
            // SORT has two that are found by code; the last is what it stores to.
            match specs.iter().position(|known| *known == spec) {
                Some(at) => access[at] = touched,
                None if spec.is_empty() => {}
                None => {
                    specs.push(spec);
                    access.push(touched);
                }
            }
        }
        let row = Self {
            arity: at(1).int(),
            flags: strings(&at(2)),
            categories: strings(&at(6)),
            specs,
            access,
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

/// What a command does with the keys of one specification, as [`Row::access`] has it.
fn touched(spec: &Node) -> u8 {
    let flags: Vec<_> =
        spec.field("flags").iter().flat_map(|flags| flags.items().to_vec()).map(|flag| flag.text()).collect();
    let has = |names: &[&str]| flags.iter().any(|flag| names.contains(&flag.as_str()));
    u8::from(has(&["access"]))
        | u8::from(has(&["insert", "update", "delete"])) << 1
        | u8::from(has(&["not_key"])) << 2
}

/// The facts for access control, row by row.
fn render_access(version: &str, rows: &BTreeMap<String, Row>) -> String {
    let mut out = format!(
        "//! Generated by `cargo xtask commands` from {version} and its hand-kept list.\n\
         //! Do not edit.\n\n\
         use super::Access;\n\n\
         /// Names of the categories; a bit of [`Access::categories`] each.\n\
         pub const CATEGORIES: [&str; {}] = {CATEGORIES:?};\n\n\
         /// By row of the command table.\n\
         pub(crate) static ACCESS: [Access; {}] = [\nAccess {{ categories: 0, keys: &[] }},\n",
        CATEGORIES.len(),
        rows.len() + 1
    );
    for (name, row) in rows {
        let bits: u32 = CATEGORIES
            .iter()
            .enumerate()
            .filter(|(_, known)| row.categories.iter().any(|name| name.strip_prefix('@') == Some(*known)))
            .map(|(bit, _)| 1 << bit)
            .sum();
        let _ = writeln!(out, "// {name}\nAccess {{ categories: {bits:#x}, keys: &{:?} }},", row.access);
    }
    out.push_str("];\n");
    out
}

/// Writes whose repetition changes nothing, whatever their arguments.
const IDEMPOTENT: &[&str] = &["expireat", "hmset", "hset", "mset", "pexpireat", "psetex", "setex"];

fn render(version: &str, rows: &BTreeMap<String, Row>) -> String {
    let mut out = format!(
        "//! Generated by `cargo xtask commands` from {version} and its hand-kept list.\n\
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
