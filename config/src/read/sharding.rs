//! The keys of a cluster that say how keys are spread over its servers.

use super::Reader;
use super::fields::{Fields, Found, set};
use crate::error::suggestion;
use crate::options::join;
use crate::{Balance, ClusterSpec, HashTag, KeyHash};

/// The largest weight of a server.
const MAX_WEIGHT: u32 = 10_000;

impl Reader<'_> {
    pub(super) fn sharding_keys(&mut self, fields: &mut Fields<'_>, cluster: &mut ClusterSpec) {
        set(&mut cluster.balance, self.word(fields.take("balance"), &Balance::ALL));
        let hash = fields.take("hash");
        if let Some((node, path)) = hash.clone().filter(|_| !cluster.balance.has_key_hash()) {
            let hint = "it belongs to `balance: ketama`, `ketama_unweighted`, `maglev` or `modulo`";
            self.error(node.place, &path, "`hash` has no effect with this `balance`", Some(hint.into()));
        }
        set(&mut cluster.hash, self.word(hash, &KeyHash::ALL));
        let tag = self.parsed(fields.take("hash_tag"), |text| match text.as_bytes() {
            b"none" => Ok(HashTag::None),
            [open, close] => Ok(HashTag::Between(*open, *close)),
            _ => {
                let hint = "as in `hash_tag: \"{}\"`, or `none` to hash whole keys";
                Err((format!("`{text}` is not two characters"), Some(hint.to_string())))
            }
        });
        set(&mut cluster.hash_tag, tag);
        self.members(fields.take("servers"), cluster);
    }

    /// `servers: { "a:6379": { name: one, weight: 2 } }`.
    fn members(&mut self, found: Found<'_>, cluster: &mut ClusterSpec) {
        let Some((node, path)) = found else { return };
        let addresses: Vec<_> = cluster.endpoints.iter().map(ToString::to_string).collect();
        for (address, place, node) in self.fields(node, &path).pairs {
            let path = join(&path, address);
            let known = addresses.iter().position(|known| known == address);
            let Some(member) = known.and_then(|at| cluster.members.get_mut(at)) else {
                let names: Vec<_> = addresses.iter().map(String::as_str).collect();
                self.error(
                    place,
                    &path,
                    format!("`to` has no server `{address}`"),
                    Some(suggestion(address, &names)),
                );
                continue;
            };
            let mut fields = self.fields(node, &path);
            set(&mut member.name, self.text(fields.take("name")));
            set(&mut member.weight, self.count(fields.take("weight"), MAX_WEIGHT));
            self.finish(fields);
        }
        let mut names: Vec<_> = cluster.members.iter().map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            self.error(node.place, &path, "two servers have the same name", None);
        }
    }
}
