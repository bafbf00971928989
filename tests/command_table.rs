//! The RESP command table knows every command that a real server knows.
//!
//! Asked are the redis-server that is installed and those named in `MECHA_NEWER_SERVERS` (paths, `:` between them),
//! which `cargo xtask test` fetches. `cargo xtask commands` mends a failure.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mecha_resp::COMMANDS;

struct Server(Child, u16);

impl Server {
    fn start(program: &str) -> std::io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(child, port))
    }

    fn connect(&self) -> TcpStream {
        for _ in 0..200 {
            if let Ok(socket) = TcpStream::connect(("127.0.0.1", self.1)) {
                return socket;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("nothing listens");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One command as the server reports it: its name, arity and subcommands.
enum Reply {
    List(Vec<Reply>),
    Number(i64),
    Text(String),
}

impl Reply {
    fn read(reader: &mut impl BufRead) -> Self {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().unwrap();
        match kind {
            "*" | "~" => Self::List((0..number().max(0)).map(|_| Self::read(reader)).collect()),
            "$" => {
                let mut text = vec![0; number() as usize + 2];
                reader.read_exact(&mut text).unwrap();
                Self::Text(String::from_utf8(text[..text.len() - 2].to_vec()).unwrap())
            }
            ":" => Self::Number(number()),
            _ => Self::Text(rest.into()),
        }
    }

    /// Name and arity of this command and those below it.
    fn commands(&self, out: &mut Vec<(String, i64)>) {
        let Self::List(fields) = self else { return };
        if let (Some(Self::Text(name)), Some(Self::Number(arity))) = (fields.first(), fields.get(1)) {
            out.push((name.to_lowercase(), *arity));
        }
        if let Some(Self::List(below)) = fields.get(9) {
            below.iter().for_each(|command| command.commands(out));
        }
    }
}

#[test]
fn the_table_has_every_command_of_every_server() {
    let newer = std::env::var("MECHA_NEWER_SERVERS").unwrap_or_default();
    for program in std::iter::once("redis-server").chain(newer.split(':').filter(|path| !path.is_empty())) {
        let server = match Server::start(program) {
            Ok(server) => server,
            Err(_) if std::env::var_os("MECHA_REQUIRE_SERVERS").is_none() => {
                eprintln!("skipped: no {program}");
                continue;
            }
            Err(error) => panic!("{program}: {error}"),
        };
        let mut socket = server.connect();
        socket.write_all(b"*1\r\n$7\r\nCOMMAND\r\n").unwrap();
        let Reply::List(commands) = Reply::read(&mut BufReader::new(socket)) else { panic!("no list") };
        let mut names = Vec::new();
        commands.iter().for_each(|command| command.commands(&mut names));
        assert!(names.len() > 300, "{program} told only {} commands", names.len());
        for (name, arity) in names {
            let row = COMMANDS.iter().find(|row| row.name == name);
            let row = row.unwrap_or_else(|| panic!("the table lacks {name} of {program}"));
            // A module's command that says nothing about its arguments refutes nothing, and mecha answers `COMMAND`
            // itself.
            let fewest = arity.unsigned_abs() as usize;
            let is_silent = arity == -1 || name.starts_with("command|");
            assert!(is_silent || row.accepts(fewest), "{name} of {program} takes {fewest} arguments");
        }
    }
}
