//! The `users` block of the file, and the `users` key of a listener.

use super::Reader;
use super::fields::Found;
use crate::error::suggestion;
use crate::node::{Kind, Node};
use crate::options::join;
use crate::{OauthSpec, Secret, UserSpec};

impl Reader<'_> {
    /// Every user; `None` if the file has no such block, so that nobody is asked who they are.
    pub(super) fn users(&mut self, found: Found<'_>) -> Option<Vec<UserSpec>> {
        let (node, path) = found?;
        let fields = self.fields(node, &path);
        let users = fields.pairs.iter().map(|(name, place, node)| {
            let path = join(&path, name);
            if name.is_empty()
                || name.len() > 255
                || name.chars().any(|c| c.is_whitespace() || c.is_control())
            {
                let hint = "1 to 255 bytes without spaces".to_string();
                self.error(*place, &path, "this is no name of a user", Some(hint));
            }
            self.user(name, node, &path)
        });
        let users: Vec<_> = users.collect();
        if users.is_empty() {
            let hint = "as in `app: \"#<sha256 of the password> ~app:* +@all -@dangerous\"`".to_string();
            self.error(node.place, &path, "nobody is defined, so nobody could log in", Some(hint));
        }
        Some(users)
    }

    fn user(&mut self, name: &str, node: &Node, path: &str) -> UserSpec {
        // `app: "on ~* +@all"` is short for `app: { rules: "on ~* +@all" }`.
        if let Kind::Scalar(text, _) = &node.kind {
            let words = self.rules(text, (node, path));
            return self.finished(name, words, None, (node, path));
        }
        let mut fields = self.fields(node, path);
        let rules = match fields.take("rules") {
            Some((node, path)) if matches!(node.kind, Kind::List(_)) => {
                let mut words = Vec::new();
                for (node, path) in self.items(Some((node, path))) {
                    let text = self.text(Some((node, path.clone()))).unwrap_or_default();
                    words.extend(self.rules(&text, (node, &path)));
                }
                words
            }
            Some((node, path)) => {
                let text = self.text(Some((node, path.clone()))).unwrap_or_default();
                self.rules(&text, (node, &path))
            }
            None => Vec::new(),
        };
        let given = [fields.take("password_file"), fields.take("password_env")];
        if given.iter().flatten().count() > 1 {
            let hint = "one of `password_file` and `password_env`; further ones as `#<sha256>` in the rules";
            self.error(node.place, path, "two passwords are given", Some(hint.into()));
        }
        let is_given = given.iter().any(Option::is_some);
        let [file, variable] = given;
        let password = self.password_from(file, variable);
        if is_given && password.as_deref() == Some("") {
            let hint = "`nopass` in the rules lets everybody in who knows the name".to_string();
            self.error(node.place, path, "the password is empty", Some(hint));
        }
        self.finish(fields);
        if is_given && password.is_none() {
            // That it cannot be read is told already.
            return UserSpec { name: name.into(), rules, password: None };
        }
        self.finished(name, rules, password, (node, path))
    }

    /// The words of one text, each looked at.
    fn rules(&mut self, text: &str, (node, path): (&Node, &str)) -> Vec<String> {
        let words: Vec<String> = text.split_ascii_whitespace().map(Into::into).collect();
        for complaint in (self.known.check_rules)(&words) {
            self.error(node.place, path, complaint.message, complaint.hint);
        }
        words
    }

    fn finished(
        &mut self,
        name: &str,
        rules: Vec<String>,
        password: Option<String>,
        (node, path): (&Node, &str),
    ) -> UserSpec {
        let is_off = rules.iter().any(|word| word.eq_ignore_ascii_case("off"));
        let has_password =
            rules.iter().any(|word| word.starts_with('#') || word.eq_ignore_ascii_case("nopass"));
        if !is_off && !has_password && password.is_none() {
            let hint = "`#<sha256>` in the rules (in quotes: ` #` begins a comment), `nopass`, `off`, or `password_file`";
            self.error(node.place, path, "the user has no password", Some(hint.into()));
        }
        UserSpec { name: name.into(), rules, password: password.map(Secret) }
    }

    /// `oauth: { jwks_file: keys.json, issuer: "https://id.example", audience: kafka }`.
    pub(super) fn oauth(&mut self, found: Found<'_>, is_kafka: bool) -> Option<OauthSpec> {
        let (node, path) = found?;
        if !is_kafka {
            let hint = "it belongs to listeners of Kafka".to_string();
            self.error(node.place, &path, "this protocol has no tokens", Some(hint));
        }
        let mut fields = self.fields(node, &path);
        let file = fields.take("jwks_file");
        if file.is_none() {
            let hint = "a file with the issuer's public keys, as it publishes them (JWKS)".to_string();
            self.error(node.place, &path, "`jwks_file` is missing", Some(hint));
        }
        let jwks = self.password_from(file, None);
        let (issuer, audience) = (self.text(fields.take("issuer")), self.text(fields.take("audience")));
        let claim = self.text(fields.take("claim")).unwrap_or_else(|| "sub".into());
        self.finish(fields);
        Some(OauthSpec { jwks: jwks?, issuer, audience, claim })
    }

    /// Who may come to a listener: all there are, those that it names, or (`none`) whoever the servers let in.
    pub(super) fn users_of(&mut self, found: Found<'_>, all: Option<&[UserSpec]>) -> Option<Vec<UserSpec>> {
        let Some((node, path)) = found else { return all.map(<[UserSpec]>::to_vec) };
        if let Kind::Scalar(text, _) = &node.kind {
            match text.as_str() {
                "all" if all.is_some() => return all.map(<[UserSpec]>::to_vec),
                "none" => return None,
                _ => {}
            }
            let hint = "`all`, `none`, or a list of names from `users` at the top of the file".to_string();
            self.error(node.place, &path, format!("`{text}` does not say who may come"), Some(hint));
            return Some(Vec::new());
        }
        let all = all.unwrap_or_default();
        let names: Vec<_> = all.iter().map(|user| user.name.as_str()).collect();
        let mut users = Vec::new();
        for (node, path) in self.items(Some((node, path))) {
            let Some(name) = self.text(Some((node, path.clone()))) else { continue };
            match all.iter().find(|user| user.name == name) {
                Some(user) => users.push(user.clone()),
                None => {
                    self.error(
                        node.place,
                        &path,
                        format!("there is no user `{name}`"),
                        Some(suggestion(&name, &names)),
                    );
                }
            }
        }
        Some(users)
    }
}
