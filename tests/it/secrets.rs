//! Passwords, keys and what clients prove themselves with are told to nobody: not in logs at their most talkative, not on any
//! admin page, not in what is said about a wrong configuration, not in an answer.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::support::{Client, Process, eventually, frame, free_port, redis_with, signal};
use super::tls::{Folder, TlsClient};

const BIN: &str = env!("CARGO_BIN_EXE_mecha");

/// Pages of the admin server.
const PAGES: [&str; 7] = ["/", "/live", "/ready", "/metrics", "/config", "/clusters", "/connections"];

/// Secrets by the place that takes one; no two alike, none part of another word.
const UPSTREAM: &str = "zq-upstream-text-1";
const UPSTREAM_FILE: &str = "zq-upstream-file-2";
const UPSTREAM_ENV: &str = "zq-upstream-env-3";
const USER: &str = "zq-user-file-4";
const USER_ENV: &str = "zq-user-env-5";
const USER_HASHED: &str = "zq-user-hashed-6";
const SENTINEL: &str = "zq-sentinel-7";
const ROTATED: &str = "zq-upstream-rotated-8";
/// What clients say that are refused, and that pass through.
const BAD_LOGINS: [&str; 4] = ["zq-bad-login-1", "zq-bad-login-2", "zq-bad-login-3", "zq-bad-login-4"];
const PASSED: &str = "zq-passed-through-9";

/// A process whose every word is kept.
struct Talkative {
    process: Process,
    said: Arc<Mutex<String>>,
    ports: Vec<u16>,
    admin: u16,
}

impl Talkative {
    fn start(file: &Path) -> Self {
        let mut child = Command::new(BIN)
            .args(["--config", file.to_str().unwrap(), "--admin", "127.0.0.1:0", "--log-level", "trace"])
            .envs([("ZQ_UPSTREAM", UPSTREAM_ENV), ("ZQ_USER", USER_ENV)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                let mut lines = BufReader::new(output);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    said.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            });
        }
        let process = Process(child);
        let (mut ports, mut admin) = (Vec::new(), 0);
        eventually("mecha does not start", || {
            let text = said.lock().unwrap().clone();
            let port = |line: &str| -> Option<u16> {
                let rest = line.split_once("127.0.0.1:")?.1;
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
            };
            let screen = text.lines().filter(|line| line.starts_with("  ") && line.contains("127.0.0.1:"));
            let (pages, doors): (Vec<_>, Vec<_>) = screen.partition(|line| line.contains("http://"));
            ports = doors.into_iter().filter_map(port).collect();
            admin = pages.into_iter().find_map(port).unwrap_or(0);
            admin > 0
        });
        Self { process, said, ports, admin }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        text
    }

    /// Everything that anybody can get to see.
    fn all(&self) -> String {
        let pages = PAGES.map(|page| self.get(page));
        assert!(pages.iter().all(|page| page.starts_with("HTTP/1.1 200")), "{pages:?}");
        pages.concat() + &self.said.lock().unwrap()
    }
}

/// The body of a key file, line by line.
fn key_lines(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter(|line| line.len() > 40 && !line.starts_with("---")).map(str::to_owned).collect()
}

#[track_caller]
fn tells_nothing(what: &str, text: &str, secrets: &[String]) {
    for secret in secrets {
        if let Some(at) = text.find(secret.as_str()) {
            let from = text[..at].rfind('\n').map_or(0, |at| at + 1);
            panic!("{what} tells {secret}: {}", text[from..].lines().next().unwrap_or_default());
        }
    }
}

/// The configuration of everything that takes a secret.
fn configuration(folder: &Folder, servers: [u16; 3], dead: u16, password: &str) -> String {
    let file = |name: &str| folder.file(name);
    format!(
        "log: {{ level: trace }}
workers: 2
users:
  filed: {{ rules: \"on ~* &* +@all\", password_file: {user_file} }}
  named: {{ rules: \"on ~* &* +@all\", password_env: ZQ_USER }}
  hashed: \"on #{hash} ~* &* +@all\"
clusters:
  text: {{ to: \"redis://127.0.0.1:{}\", auth: {{ username: app, password: {password} }} }}
  filed: {{ to: \"redis://127.0.0.1:{}\", auth: {{ username: app, password_file: {upstream_file} }} }}
  named: {{ to: \"redis://127.0.0.1:{}\", auth: {{ username: app, password_env: ZQ_UPSTREAM }} }}
  lost: {{ to: \"redis://127.0.0.1:{dead}\", auth: {{ password: {UPSTREAM} }} }}
  sentinels: {{ to: \"redis-sentinel://127.0.0.1:{dead}/main\", sentinels: {{ auth: {{ password: {SENTINEL} }} }} }}
  open: {{ to: \"redis://127.0.0.1:{}\" }}
listeners:
  - {{ name: text, listen: \"redis://127.0.0.1:0\", to: text, filters: [ access_log ] }}
  - {{ name: filed, listen: \"redis://127.0.0.1:0\", to: filed }}
  - {{ name: named, listen: \"redis://127.0.0.1:0\", to: named }}
  - {{ name: lost, listen: \"redis://127.0.0.1:0\", to: lost }}
  - {{ name: sentinels, listen: \"redis://127.0.0.1:0\", to: sentinels }}
  - {{ name: open, listen: \"redis://127.0.0.1:0\", to: open, users: none, filters: [ access_log ] }}
  - {{ name: cached, listen: \"memcached://127.0.0.1:0\", to: text }}
  - {{ name: tls, listen: \"rediss://127.0.0.1:0\", to: text, tls: {{ cert: {cert}, key: {key} }} }}
",
        servers[0],
        servers[1],
        servers[2],
        servers[0],
        user_file = file("user.txt"),
        upstream_file = file("upstream.txt"),
        hash = sha256(USER_HASHED),
        cert = file("server.pem"),
        key = file("server.key"),
    )
}

fn sha256(text: &str) -> String {
    mecha_users::Secret::of(text.as_bytes()).hex()
}

#[test]
fn no_secret_is_told_by_logs_pages_or_answers() {
    let folder = Folder::new("secrets");
    let Some(servers) = (0..3).map(|_| redis_with(&[])).collect::<Option<Vec<_>>>() else { return };
    let passwords = [UPSTREAM, UPSTREAM_FILE, UPSTREAM_ENV];
    for ((_, port), password) in servers.iter().zip(passwords) {
        let set = format!("ACL SETUSER app on >{password} >{ROTATED} ~* &* +@all");
        assert_eq!(Client::new(*port).call(&set), "+OK\r\n");
    }
    std::fs::write(folder.file("user.txt"), format!("{USER}\n")).unwrap();
    std::fs::write(folder.file("upstream.txt"), format!("{UPSTREAM_FILE}\n")).unwrap();
    let ports = [0, 1, 2].map(|at: usize| servers[at].1);
    let (path, dead) = (PathBuf::from(folder.file("secrets.yaml")), free_port());
    std::fs::write(&path, configuration(&folder, ports, dead, UPSTREAM)).unwrap();
    let mut secrets: Vec<String> =
        [UPSTREAM, UPSTREAM_FILE, UPSTREAM_ENV, USER, USER_ENV, USER_HASHED, SENTINEL, ROTATED, PASSED]
            .iter()
            .chain(&BAD_LOGINS)
            .map(ToString::to_string)
            .collect();
    secrets.extend(key_lines(&folder.file("server.key")));
    secrets.push(sha256(USER_HASHED));
    assert!(secrets.len() > 14, "the key is not read");

    let mecha = Talkative::start(&path);
    let [text, filed, named, lost, sentinels, open, cached, tls] = mecha.ports[..] else {
        panic!("{:?}", mecha.ports)
    };
    let answers = RefCell::new(String::new());
    let say = |port: u16, words: &[&str]| {
        let mut client = Client::new(port);
        client.send(&frame(words));
        let reply = client.reply();
        *answers.borrow_mut() += &reply;
        (client, reply)
    };
    // Good logins, with traffic and state.
    for (port, user, password) in
        [(text, "filed", USER), (filed, "named", USER_ENV), (named, "hashed", USER_HASHED)]
    {
        let (mut client, reply) = say(port, &["AUTH", user, password]);
        assert_eq!(reply, "+OK\r\n", "{user}");
        for call in [
            "SET k v",
            "GET k",
            "NOSUCH k",
            "LPUSH k x",
            "MULTI",
            "GET k",
            "EXEC",
            "CLIENT LIST",
            "ACL WHOAMI",
        ] {
            let reply = client.call(call);
            assert!(!reply.is_empty(), "{call}");
            tells_nothing(call, &reply, &secrets);
        }
    }
    let (_, reply) = say(text, &["HELLO", "3", "AUTH", "filed", USER, "SETNAME", "x"]);
    assert!(reply.starts_with('%'), "{reply}");
    // Bad ones: alone, with a name, in a greeting, inline, in Memcached's ways, broken.
    assert!(say(text, &["AUTH", BAD_LOGINS[0]]).1.starts_with('-'));
    assert!(say(text, &["AUTH", "filed", BAD_LOGINS[1]]).1.starts_with('-'));
    assert!(say(text, &["HELLO", "3", "AUTH", "nobody", BAD_LOGINS[2]]).1.starts_with('-'));
    for bytes in [
        format!("AUTH filed {}\r\n", BAD_LOGINS[3]),
        format!("*3\r\n$4\r\nAUTH\r\n$5\r\nfiled\r\n$x\r\n{}\r\n", BAD_LOGINS[0]),
        format!("AUTH \"{}\r\n", BAD_LOGINS[1]),
        format!("AUTH filed {} surplus words\r\n", BAD_LOGINS[2]),
    ] {
        let mut client = Client::new(text);
        client.send(bytes.as_bytes());
        *answers.borrow_mut() += &client.line();
    }
    let mut client = Client::new(cached);
    client.send(format!("set x 0 0 {}\r\nfiled {}\r\n", BAD_LOGINS[0].len() + 6, BAD_LOGINS[0]).as_bytes());
    *answers.borrow_mut() += &client.line();
    client.send(format!("set x 0 0 {}\r\nfiled {USER}\r\n", USER.len() + 6).as_bytes());
    *answers.borrow_mut() += &client.line();
    // What passes through to a server: logins, and commands that have passwords in them.
    let (mut client, reply) = say(open, &["AUTH", "app", UPSTREAM]);
    assert_eq!(reply, "+OK\r\n");
    for words in [
        &["ACL", "SETUSER", "another", &format!(">{PASSED}")][..],
        &["CONFIG", "SET", "masterauth", PASSED],
        &["AUTH", "another", BAD_LOGINS[0]],
        &["HELLO", "2", "AUTH", "another", BAD_LOGINS[1]],
        &["MIGRATE", "127.0.0.1", "1", "k", "0", "10", "AUTH", PASSED],
    ] {
        client.send(&frame(words));
        *answers.borrow_mut() += &client.reply();
    }
    // TLS: a good client, and one that is none.
    let mut good = TlsClient::new(&folder.config(None), tls);
    good.call(format!("AUTH filed {USER}\r\n").as_bytes(), b"+OK\r\n");
    let mut none = Client::new(tls);
    none.send(format!("AUTH filed {}\r\n", BAD_LOGINS[2]).as_bytes());
    *answers.borrow_mut() += &none.line();
    // Servers that are not there.
    for port in [lost, sentinels] {
        let (mut client, reply) = say(port, &["AUTH", "filed", USER]);
        assert_eq!(reply, "+OK\r\n");
        let reply = client.call("GET k");
        assert!(reply.starts_with("-ERR mecha: backend"), "{reply}");
    }
    // Reloads: another password, one that the server does not know, a file that is broken around a password.
    let reload = |yaml: &str, is_over: &dyn Fn(&str) -> bool| {
        std::fs::write(&path, yaml).unwrap();
        let before = mecha.said.lock().unwrap().len();
        signal(mecha.process.id(), "HUP");
        eventually("the file is not read again", || is_over(&mecha.said.lock().unwrap()[before..]));
    };
    reload(&configuration(&folder, ports, dead, ROTATED), &|said| {
        said.contains("reload") || said.contains("in force")
    });
    let wrong = configuration(&folder, ports, dead, BAD_LOGINS[3]);
    reload(&wrong, &|said| said.contains("reload") || said.contains("in force"));
    assert!(Client::new(ports[0]).call("CLIENT KILL TYPE normal SKIPME yes").starts_with(':'));
    let (mut client, _) = say(text, &["AUTH", "filed", USER]);
    eventually("the wrong password is not tried", || {
        let reply = client.call("GET k");
        *answers.borrow_mut() += &reply;
        reply.starts_with('-')
    });
    let broken = wrong.replace("auth: { username: app, password:", "auth: { usrname: app, passwrd:");
    reload(&broken, &|said| said.contains("usrname"));
    let all = mecha.all();
    assert!(all.contains("mecha_config_applied_total 2"), "the file was not read again twice");
    assert!(all.contains("TRACE") || all.contains("DEBUG"), "the log is not talkative");
    assert!(all.contains("mecha_logins_total") || all.contains("login"), "nobody was seen to log in");
    tells_nothing("an answer", &answers.borrow(), &secrets);
    tells_nothing("a page or the log", &all, &secrets);
}

#[test]
fn what_is_said_about_a_wrong_configuration_repeats_no_secret() {
    // Each line once; `zq-` begins every secret, wherever people have put it.
    let listeners = ["redis://app:zq-1@127.0.0.1:0", "foo://app:zq-2@127.0.0.1:0", "app:zq-3@127.0.0.1:0"];
    let targets = [
        "redis://app:zq-4@a:1",
        "rediss-cluster://:zq-5@a:1,b:1",
        "redis-sentinel://app:zq-6@h/name",
        "redis-sentinel://app:zq-7@h",
        "redis+unix://app:zq-8@x",
        "memcached://app:zq-9@h:99999",
        "bar://app:zq-10@h",
        "app:zq-11@h:1",
    ];
    let auths = [
        "zq-12",
        "{ passwort: zq-13 }",
        "{ password: [zq-14] }",
        "{ password: zq-15, password_file: /nosuch }",
        "{ pass: zq-16 }",
        "{ username: u, password: \"zq-17\", password_env: NOSUCH }",
        "{ password_file: /nosuch, pwd: zq-18 }",
        "{ secret: 'zq-19' }",
    ];
    let users = [
        "\"on >zq-20 ~* +@all\"",
        "{ rules: [ on, \">zq-21\", \"<zq-22\" ] }",
        "{ rules: \"on #zq-23\", password: zq-24 }",
    ];
    let mut text = String::from("listeners:\n");
    for (listen, to) in listeners.iter().cycle().zip(targets) {
        text += &format!("  - {{ listen: \"{listen}\", to: \"{to}\" }}\n");
        text += &format!("  - listen: \"{listen}\"\n    to: {to}\n    mirror: {{ to: '{to}' }}\n");
    }
    text += "clusters:\n";
    for (at, auth) in auths.iter().enumerate() {
        text += &format!("  c{at}: {{ to: \"redis://a:1\", auth: {auth} }}\n");
        text += &format!("  d{at}:\n    to: redis://a:1\n    auth: {auth}\n");
        text += &format!("  e{at}: {{ to: \"redis-sentinel://a/m\", sentinels: {{ auth: {auth} }} }}\n");
    }
    text += "  gutter: { to: \"memcached://a,b\", auto_eject: { gutter: \"memcached://u:zq-25@x\" } }\n";
    text += "  replicas: { to: \"redis://a\", replicas: \"redis://u:zq-26@b\" }\n";
    text += "users:\n";
    for (at, user) in users.iter().enumerate() {
        text += &format!("  u{at}: {user}\n");
    }
    let path = std::env::temp_dir().join(format!("mecha-secrets-{}.yaml", std::process::id()));
    std::fs::write(&path, &text).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(BIN).args(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let file = path.to_str().unwrap();
    let mut said = vec![run(&["check", file]), run(&["--config", file])];
    std::fs::remove_file(&path).unwrap();
    assert!(said[0].matches("error: ").count() > 60, "{}", said[0]);
    for target in targets {
        said.push(run(&["--listen", "redis://127.0.0.1:0", "--to", target]));
    }
    for listen in listeners {
        said.push(run(&["--listen", listen, "--to", "embedded://"]));
    }
    for said in said {
        assert!(
            !said.contains("zq-"),
            "{}",
            said.lines().filter(|line| line.contains("zq-")).collect::<Vec<_>>().join("\n")
        );
    }
}
