//! The `tls` block of a listener and of a cluster, and the `auth` block of a cluster.

use std::path::PathBuf;
use std::time::Duration;

use super::Reader;
use super::fields::{Fields, Found, set};
use crate::node::Node;
use crate::tls::{CertificateSpec, ClientTlsSpec, LoginSpec, MECHANISMS, Secret, ServerTlsSpec, TlsSpec};

/// Whether nothing older is spoken.
const WORDS_OF_VERSIONS: [(&str, bool); 2] = [("1.2", false), ("1.3", true)];

impl Reader<'_> {
    /// A listener's. `is_needed` by its scheme.
    pub(super) fn server_tls(
        &mut self,
        found: Found<'_>,
        is_needed: bool,
        at: (&Node, &str),
    ) -> Option<ServerTlsSpec> {
        let Some((node, path)) = found else {
            if is_needed {
                let hint = "as in `tls: { cert: server.pem, key: server.key }`";
                self.error(at.0.place, at.1, "`tls` is missing, which this scheme needs", Some(hint.into()));
            }
            return None;
        };
        let before = self.errors.len();
        let mut fields = self.fields(node, &path);
        let mut tls = ServerTlsSpec::default();
        tls.certificates.extend(self.certificate(&mut fields));
        for (node, path) in self.items(fields.take("certificates")) {
            let mut more = self.fields(node, &path);
            let certificate = self.certificate(&mut more);
            self.finish(more);
            if certificate.is_none() && self.errors.len() == before {
                let hint = "as in `- { cert: b.pem, key: b.key }`";
                self.error(node.place, &path, "`cert` and `key` are missing", Some(hint.into()));
            }
            tls.certificates.extend(certificate);
        }
        tls.client_ca = self.text(fields.take("client_ca")).map(PathBuf::from);
        let auth = fields.take("client_auth");
        if let Some((node, path)) = &auth
            && tls.client_ca.is_none()
        {
            let hint = "`client_ca` names the file with the authorities of client certificates";
            self.error(node.place, path, "`client_auth` needs `client_ca`", Some(hint.into()));
        }
        set(&mut tls.is_client_required, self.word(auth, &[("optional", false), ("required", true)]));
        let mode = fields.take("mode");
        set(&mut tls.is_optional, self.word(mode, &[("optional", true), ("required", false)]));
        set(&mut tls.is_1_3_only, self.word(fields.take("min_version"), &WORDS_OF_VERSIONS));
        tls.alpn = self.texts(fields.take("alpn"));
        let least = Duration::from_millis(100);
        set(&mut tls.handshake_timeout, self.period(fields.take("handshake_timeout"), least));
        self.finish(fields);
        if tls.certificates.is_empty() && self.errors.len() == before {
            let hint = "as in `tls: { cert: server.pem, key: server.key }`";
            self.error(node.place, &path, "`cert` and `key` are missing", Some(hint.into()));
        }
        self.check_tls(node, &path, before, TlsSpec::Server(&tls));
        Some(tls)
    }

    /// A cluster's.
    pub(super) fn client_tls(
        &mut self,
        found: Found<'_>,
        at: (&Node, &str),
        is_wanted: bool,
    ) -> Option<ClientTlsSpec> {
        let Some((node, path)) = found else {
            let tls = is_wanted.then(ClientTlsSpec::default)?;
            let before = self.errors.len();
            self.check_tls(at.0, at.1, before, TlsSpec::Client(&tls));
            return Some(tls);
        };
        let before = self.errors.len();
        let mut fields = self.fields(node, &path);
        let ca = fields.take("ca");
        let skip = fields.take("insecure_skip_verify");
        if let (Some((node, path)), Some(_)) = (&skip, &ca) {
            let hint = "drop one of the two: without a check no authority is needed";
            self.error(
                node.place,
                path,
                "`insecure_skip_verify` and `ca` contradict each other",
                Some(hint.into()),
            );
        }
        let tls = ClientTlsSpec {
            ca: self.text(ca).map(PathBuf::from),
            server_name: self.text(fields.take("server_name")),
            certificate: self.certificate(&mut fields),
            insecure_skip_verify: self.word(skip, &[("false", false), ("true", true)]).unwrap_or_default(),
            is_1_3_only: self.word(fields.take("min_version"), &WORDS_OF_VERSIONS).unwrap_or_default(),
            alpn: self.texts(fields.take("alpn")),
        };
        self.finish(fields);
        self.check_tls(node, &path, before, TlsSpec::Client(&tls));
        Some(tls)
    }

    /// What is wrong with the files, unless the keys are wrong already.
    fn check_tls(&mut self, node: &Node, path: &str, before: usize, tls: TlsSpec<'_>) {
        if self.errors.len() > before {
            return;
        }
        for complaint in (self.known.check_tls)(tls) {
            let place = node.find(&complaint.key).place;
            self.error(place, &crate::options::join(path, &complaint.key), complaint.message, complaint.hint);
        }
    }

    fn certificate(&mut self, fields: &mut Fields<'_>) -> Option<CertificateSpec> {
        let (cert, key) = (fields.take("cert"), fields.take("key"));
        if let (Some((node, path)), None) | (None, Some((node, path))) = (&cert, &key) {
            let hint = Some("`cert` and `key` belong together".to_string());
            self.error(node.place, path, "half of a certificate", hint);
        }
        let (cert, key) = (self.text(cert), self.text(key));
        Some(CertificateSpec { cert: cert?.into(), key: key?.into() })
    }

    fn texts(&mut self, found: Found<'_>) -> Vec<String> {
        self.items(found).into_iter().filter_map(|item| self.text(Some(item))).collect()
    }

    /// Who mecha is to a cluster's servers.
    pub(super) fn login(&mut self, found: Found<'_>) -> LoginSpec {
        let Some((node, path)) = found else { return LoginSpec::default() };
        let mut fields = self.fields(node, &path);
        let username = self.text(fields.take("username"));
        let mechanism = self.parsed(fields.take("mechanism"), |text| {
            let hint = || Some(format!("one of {}", MECHANISMS.join(", ")));
            let known = MECHANISMS.iter().find(|known| **known == text);
            known.map(ToString::to_string).ok_or_else(|| (format!("`{text}` is no mechanism"), hint()))
        });
        let given = [fields.take("password"), fields.take("password_file"), fields.take("password_env")];
        let count = given.iter().flatten().count();
        let [text, file, variable] = given;
        if count != 1 {
            let hint = "one of `password`, `password_file` and `password_env`";
            self.error(node.place, &path, format!("{count} passwords are given"), Some(hint.into()));
        }
        let password = self.text(text);
        let read = self.password_from(file, variable);
        self.finish(fields);
        let password = password.or(read);
        if password.as_deref() == Some("") {
            let hint = "leave `auth` out where the servers ask for none".to_string();
            self.error(node.place, &path, "the password is empty", Some(hint));
        }
        LoginSpec { username, password: password.map(Secret), mechanism }
    }

    /// A password that is not in the configuration itself.
    pub(super) fn password_from(&mut self, file: Found<'_>, variable: Found<'_>) -> Option<String> {
        if let Some(name) = file.clone().and_then(|file| self.text(Some(file))) {
            self.secret_files.push(name.into());
        }
        // What was read is never part of an error.
        let from_file = self.parsed(file, |name| {
            let hint = || "a file that mecha's user may read, with the password in it".to_string();
            let read = std::fs::read_to_string(name)
                .map_err(|error| (format!("cannot read `{name}`: {error}"), Some(hint())))?;
            Ok(read.trim_end_matches(['\r', '\n']).to_string())
        });
        let from_env = self.parsed(variable, |name| {
            let hint = Some("it is read from mecha's own environment".to_string());
            std::env::var(name).map_err(|_| (format!("the environment has no usable `{name}`"), hint))
        });
        from_file.or(from_env)
    }
}
