//! Listeners whose clients may speak several protocols.

use std::time::Duration;

/// To which other listeners clients are led, by what they speak or whom they have dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectSpec {
    /// How long a client may take to say what it speaks; then it speaks something else.
    pub wait: Duration,
    /// Names of listeners; each gets those that speak its protocol.
    pub to: Vec<String>,
    /// Names that clients ask for in TLS handshakes (a host, or `*.` and what it ends with), and the names of listeners that
    /// get them.
    pub names: Vec<(String, String)>,
    /// Ports that were dialled, and the names of listeners that get all such clients, whatever they say.
    pub ports: Vec<(u16, String)>,
}

impl Default for DetectSpec {
    fn default() -> Self {
        Self { wait: Duration::from_millis(100), to: Vec::new(), names: Vec::new(), ports: Vec::new() }
    }
}

impl DetectSpec {
    /// Every listener that it names.
    pub fn listeners(&self) -> impl Iterator<Item = &str> {
        let by_port = self.ports.iter().map(|(_, name)| name);
        let by_name = self.names.iter().map(|(_, name)| name);
        self.to.iter().chain(by_port).chain(by_name).map(String::as_str)
    }
}
