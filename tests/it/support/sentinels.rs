//! Three sentinels that watch a primary with two replicas, all real, on free ports.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::servers::{free_port, redis_with};
use super::{Client, Process, eventually};

/// The name by which the primary is known.
pub(crate) const NAME: &str = "mymaster";

/// The servers; a folder of their own ends with them.
pub(crate) struct Sentinels {
    /// The primary at first, then its replicas.
    pub(crate) servers: Vec<(Process, u16)>,
    pub(crate) sentinels: Vec<(Process, u16)>,
    folder: PathBuf,
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        self.servers.clear();
        self.sentinels.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Sentinels {
    /// `None`, with a note, where there is no server.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[], "")
    }

    /// As [`Sentinels::start`], with further options of the servers and lines of the sentinels' configuration, in
    /// which `{free}` is a free port.
    pub(crate) fn start_with(options: &[&str], lines: &str) -> Option<Self> {
        let folder =
            std::env::temp_dir().join(format!("mecha-sentinels-{}-{}", std::process::id(), free_port()));
        std::fs::create_dir_all(&folder).unwrap();
        // A replica writes down what it gets at first.
        let place = folder.to_str().unwrap().to_string();
        let common = ["--dir", &place, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let own = || -> Vec<String> {
            options.iter().map(|option| option.replace("{free}", &free_port().to_string())).collect()
        };
        let mut servers = Vec::new();
        for _ in 0..3 {
            let more = own();
            let more: Vec<&str> = common.iter().copied().chain(more.iter().map(String::as_str)).collect();
            match redis_with(&more) {
                Some(server) => servers.push(server),
                None => {
                    let _ = std::fs::remove_dir_all(&folder);
                    return None;
                }
            }
        }
        let mut all = Self { servers, sentinels: Vec::new(), folder };
        let primary = all.servers[0].1;
        for (_, port) in &all.servers[1..] {
            assert_eq!(Client::new(*port).call(&format!("REPLICAOF 127.0.0.1 {primary}")), "+OK\r\n");
        }
        eventually("the replicas follow", || {
            all.servers[1..]
                .iter()
                .all(|(_, port)| Client::new(*port).call("INFO replication").contains("link_status:up"))
        });
        for _ in 0..3 {
            all.add_sentinel(primary, lines);
        }
        eventually("the sentinels know everybody", || {
            all.sentinels.iter().all(|(_, port)| {
                let Some(mut sentinel) = Client::try_new(*port) else { return false };
                let known = sentinel.call(&format!("SENTINEL MASTER {NAME}"));
                known.contains("num-slaves\r\n$1\r\n2\r\n")
                    && known.contains("num-other-sentinels\r\n$1\r\n2\r\n")
            })
        });
        Some(all)
    }

    fn add_sentinel(&mut self, primary: u16, lines: &str) {
        let port = free_port();
        let file = self.folder.join(format!("{port}.conf"));
        let lines = lines.replace("{free}", &free_port().to_string());
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\n\
             sentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {NAME} 1000\n\
             sentinel failover-timeout {NAME} 4000\n{lines}\n",
            self.folder.display()
        );
        std::fs::write(&file, text).unwrap();
        let sentinel = self.run(port);
        self.sentinels.push((sentinel, port));
    }

    /// Starts the sentinel on `port` with what it has written down itself.
    pub(crate) fn run(&self, port: u16) -> Process {
        let file = self.folder.join(format!("{port}.conf"));
        let child = Command::new("redis-server")
            .args([file.to_str().unwrap(), "--sentinel"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(child);
        eventually("a sentinel listens", || Client::try_new(port).is_some());
        process
    }

    /// The ports where the sentinels speak TLS, if that was among their lines.
    pub(crate) fn tls_ports(&self) -> Vec<u16> {
        let port_in = |text: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix("tls-port "))
                .and_then(|port| port.trim().parse().ok())
        };
        let file = |port: u16| self.folder.join(format!("{port}.conf"));
        self.sentinels
            .iter()
            .filter_map(|(_, port)| port_in(&std::fs::read_to_string(file(*port)).ok()?))
            .collect()
    }

    pub(crate) fn to(&self) -> String {
        format!("redis-sentinel://{}/{NAME}", self.addresses())
    }

    /// The sentinels' addresses.
    pub(crate) fn addresses(&self) -> String {
        let all: Vec<_> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        all.join(",")
    }

    /// The server that says that it is the primary now.
    pub(crate) fn primary(&self) -> Option<usize> {
        self.servers.iter().position(|(_, port)| {
            Client::try_new(*port).is_some_and(|mut client| client.call("ROLE").contains("master"))
        })
    }
}
