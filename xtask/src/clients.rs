//! `cargo xtask test --only clients`: programs in other languages, through mecha, on every back that their kind holds for.
//!
//! A program is run against the server itself first: what fails there says nothing about mecha. Then it is run through
//! mecha, whose metrics must show that its calls came that way.
#![expect(clippy::disallowed_methods, reason = "chores time themselves")]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where programs are built; not under version control.
const CACHE: &str = ".cache/clients";
/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One program: how it is called, and the kind of conversation that it has with each back.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The door's scheme.
    pub(crate) door: &'static str,
    /// Of the command, with `{port}` and `{kind}`.
    pub(crate) command: &'static [&'static str],
    /// Folder below `tests/clients`.
    pub(crate) folder: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "redis-py",
        door: "redis",
        command: &["{cache}/python/bin/python", "redis_program.py", "{port}", "{kind}"],
        folder: "python",
    },
    Program {
        name: "go-redis",
        door: "redis",
        command: &["{cache}/go/redis", "{port}", "{kind}"],
        folder: "go",
    },
    Program {
        name: "ioredis",
        door: "redis",
        command: &["node", "redis_program.js", "{port}", "{kind}"],
        folder: "node",
    },
    Program {
        name: "jedis",
        door: "redis",
        command: &[
            "java",
            "-Xmx256m",
            "-cp",
            "{cache}/java/classes:{cache}/java/libs/*",
            "RedisProgram",
            "{port}",
            "{kind}",
        ],
        folder: "java",
    },
    Program {
        name: "pymemcache",
        door: "memcached",
        command: &["{cache}/python/bin/python", "memcached_program.py", "{port}", "{kind}"],
        folder: "python",
    },
    Program {
        name: "gomemcache",
        door: "memcached",
        command: &["{cache}/go/memcached", "{port}", "{kind}"],
        folder: "go",
    },
];

/// Tools: how to see that one is there, and the Debian package that has it.
const TOOLS: &[(&[&str], &str)] = &[
    // Debian keeps what makes a virtual environment apart from Python.
    (&["python3", "-c", "import ensurepip"], "python3-venv"),
    (&["go", "version"], "golang"),
    (&["node", "--version"], "nodejs"),
    (&["npm", "--version"], "npm"),
    (&["javac", "-version"], "default-jdk-headless"),
    (&["mvn", "--version"], "maven"),
    (&["saslpasswd2", "-v"], "sasl2-bin"),
];

/// A child that ends with the part.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Builds and runs everything.
///
/// # Errors
/// What failed.
pub(crate) fn run() -> Result<(), String> {
    let root = std::env::current_dir().map_err(|error| error.to_string())?;
    let cache = root.join(CACHE);
    let is_there = |words: &[&str]| {
        let status =
            Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    crate::servers::install(
        TOOLS.iter().filter(|(words, _)| !is_there(words)).map(|(_, package)| *package).collect(),
    )?;
    build(&root, &cache)?;
    let redis_port = free_port()?;
    let _redis = start(
        "redis-server",
        &["--bind", "127.0.0.1", "--save", "", "--port", &redis_port.to_string()],
        redis_port,
    )?;
    let memcached_port = free_port()?;
    let _memcached = start(
        "memcached",
        &["-U", "0", "-u", "root", "-l", "127.0.0.1", "-p", &memcached_port.to_string()],
        memcached_port,
    )?;
    let backs = [
        ("redis", format!("redis://127.0.0.1:{redis_port}")),
        ("memcached", format!("memcached://127.0.0.1:{memcached_port}")),
        ("embedded", "embedded://".into()),
    ];
    let mut table = String::new();
    for program in PROGRAMS {
        let direct = if program.door == "redis" { redis_port } else { memcached_port };
        let kind = |back: &str| match (program.door, back) {
            ("redis", "redis") => "full",
            ("redis", _) => "portable",
            _ => "memcached",
        };
        let checks = talk(program, &root, &cache, direct, kind(program.door), "direct")?;
        let _ = writeln!(table, "{:<12} {:<10} {checks}", program.name, "direct");
        for (back, to) in &backs {
            let mecha = Mecha::start(&root, program.door, to)?;
            let checks = talk(program, &root, &cache, mecha.port, kind(back), back)?;
            let calls = mecha.calls()?;
            if calls < 100.0 {
                return Err(format!("{} on {back}: only {calls} calls crossed mecha", program.name));
            }
            let _ = writeln!(table, "{:<12} {back:<10} {checks}, {calls} calls", program.name);
        }
    }
    table += &crate::user_clients::run(&root, &cache, &backs)?;
    table += &crate::cluster_clients::run(&root, &cache, redis_port)?;
    println!("{table}");
    Ok(())
}

fn build(root: &Path, cache: &Path) -> Result<(), String> {
    std::fs::create_dir_all(cache.join("java/classes")).map_err(|error| error.to_string())?;
    let sources = root.join("tests/clients");
    let text = |path: PathBuf| path.display().to_string();
    let step = |folder: &str, words: &[&str]| {
        println!("$ {}", words.join(" "));
        let status = Command::new(words[0]).args(&words[1..]).current_dir(sources.join(folder)).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{} ended with {status}", words.join(" "))),
            Err(error) => Err(format!("{}: {error}", words[0])),
        }
    };
    let venv = text(cache.join("python"));
    step("python", &["python3", "-m", "venv", &venv])?;
    step(
        "python",
        &[
            &format!("{venv}/bin/pip"),
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            "requirements.txt",
        ],
    )?;
    for program in ["redis", "memcached", "cluster", "users"] {
        step("go", &["go", "build", "-o", &text(cache.join("go").join(program)), &format!("./{program}")])?;
    }
    step("node", &["npm", "ci", "--silent", "--no-audit", "--no-fund"])?;
    let libs = text(cache.join("java/libs"));
    step(
        "java",
        &[
            "mvn",
            "-q",
            "-B",
            "dependency:copy-dependencies",
            &format!("-DoutputDirectory={libs}"),
            "-DincludeScope=runtime",
        ],
    )?;
    let classes = text(cache.join("java/classes"));
    let (path, sources) = (format!("{libs}/*"), "src/main/java");
    for source in ["RedisProgram", "ClusterProgram"] {
        step("java", &["javac", "-cp", &path, "-d", &classes, &format!("{sources}/{source}.java")])?;
    }
    println!("$ cargo build --bin mecha");
    let status =
        Command::new("cargo").args(["build", "--quiet", "--bin", "mecha"]).current_dir(root).status();
    if status.is_ok_and(|status| status.success()) { Ok(()) } else { Err("mecha does not build".into()) }
}

/// Runs one program, and returns what it says of itself.
pub(crate) fn talk(
    program: &Program,
    root: &Path,
    cache: &Path,
    port: u16,
    kind: &str,
    back: &str,
) -> Result<String, String> {
    let words: Vec<_> = program
        .command
        .iter()
        .map(|word| {
            word.replace("{cache}", &cache.display().to_string())
                .replace("{port}", &port.to_string())
                .replace("{kind}", kind)
        })
        .collect();
    let start = Instant::now();
    let child = Command::new(&words[0])
        .args(&words[1..])
        .current_dir(root.join("tests/clients").join(program.folder))
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", words[0]))?;
    let mut process = Process(child);
    let status = loop {
        match process.0.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => return Err(format!("{} on {back}: hangs", program.name)),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let mut text = String::new();
    if let Some(mut stdout) = process.0.stdout.take() {
        stdout.read_to_string(&mut text).map_err(|error| error.to_string())?;
    }
    let text = text.trim().to_string();
    println!("{:<12} {back:<10} {text} in {:.1} s", program.name, start.elapsed().as_secs_f64());
    if status.success() { Ok(text) } else { Err(format!("{} on {back} ended with {status}", program.name)) }
}

pub(crate) struct Mecha {
    _process: Process,
    pub(crate) port: u16,
    admin: u16,
}

impl Mecha {
    fn start(root: &Path, door: &str, to: &str) -> Result<Self, String> {
        let (port, admin) = (free_port()?, free_port()?);
        let program = root.join("target/debug/mecha").display().to_string();
        let args = [
            "--listen",
            &format!("{door}://127.0.0.1:{port}"),
            "--to",
            to,
            "--workers",
            "2",
            "--admin",
            &format!("127.0.0.1:{admin}"),
            "--log-level",
            "error",
        ];
        Ok(Self { _process: start(&program, &args, port)?, port, admin })
    }

    /// Two listeners that announce each other as a cluster.
    pub(crate) fn announced(root: &Path, folder: &Path, to: &str) -> Result<Self, String> {
        let (port, other, admin) = (free_port()?, free_port()?, free_port()?);
        let listener = |name: &str, own: u16| {
            format!(
                "  - {{ name: {name}, listen: \"redis://127.0.0.1:{own}\", to: back, \
                 announce: [ \"127.0.0.1:{port}\", \"127.0.0.1:{other}\" ] }}\n"
            )
        };
        let text = format!(
            "listeners:\n{}{}clusters: {{ back: \"{to}\" }}\nworkers: 2\nadmin: 127.0.0.1:{admin}\n",
            listener("one", port),
            listener("two", other)
        );
        Self::from_text(root, &folder.join("mecha.yaml"), &text, (port, admin))
    }

    /// Started with this configuration, which has no `admin` yet, as soon as `port` listens.
    pub(crate) fn configured(root: &Path, file: &Path, text: &str, port: u16) -> Result<Self, String> {
        let admin = free_port()?;
        Self::from_text(root, file, &format!("{text}admin: 127.0.0.1:{admin}\n"), (port, admin))
    }

    fn from_text(root: &Path, file: &Path, text: &str, (port, admin): (u16, u16)) -> Result<Self, String> {
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let program = root.join("target/debug/mecha").display().to_string();
        let args = ["--config", &file.display().to_string(), "--log-level", "error"];
        Ok(Self { _process: start(&program, &args, port)?, port, admin })
    }

    /// Calls that it has served so far.
    pub(crate) fn calls(&self) -> Result<f64, String> {
        Ok(self.calls_by_listener(&[""])?.iter().sum())
    }

    /// As [`Mecha::calls`], by the listeners' names; an empty one stands for all.
    pub(crate) fn calls_by_listener(&self, names: &[&str]) -> Result<Vec<f64>, String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).map_err(|error| error.to_string())?;
        let mut text = String::new();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .and_then(|()| stream.read_to_string(&mut text))
            .map_err(|error| error.to_string())?;
        let of = |name: &&str| {
            let label = if name.is_empty() { String::new() } else { format!("listener=\"{name}\"") };
            let series =
                text.lines().filter(|line| line.starts_with("mecha_calls_total{") && line.contains(&label));
            series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Ok(names.iter().map(of).collect())
    }
}

/// Below the range that the system gives to outgoing connections.
pub(crate) fn free_port() -> Result<u16, String> {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..1000 {
        let offset =
            (std::process::id() as u16).wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + offset % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no port is free".into())
}

pub(crate) fn start(program: &str, args: &[&str], port: u16) -> Result<Process, String> {
    start_with(program, args, port, &[])
}

/// The same with further environment variables.
pub(crate) fn start_with(
    program: &str,
    args: &[&str],
    port: u16,
    variables: &[(&str, &str)],
) -> Result<Process, String> {
    let mut command = Command::new(program);
    command.args(args).envs(variables.iter().copied()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn();
    let mut process = Process(child.map_err(|error| format!("{program}: {error}"))?);
    for _ in 0..1000 {
        if process.0.try_wait().is_ok_and(|status| status.is_some()) {
            break;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(process);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("{program} does not start"))
}
