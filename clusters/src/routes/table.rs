//! Which route a key takes.
//!
//! All conditions of a route must hold: its prefixes (any of them), its class, its databases, its users. Of the routes
//! whose conditions hold, the one with the longest prefix wins, then the first in the configuration's order. What no
//! route wants takes the default.
//!
//! A call without keys cannot be told apart by prefix or class, so routes with such a condition do not want it: what a
//! connection says of itself, and what concerns a whole database, belongs to one place.
//!
//! Prefixes are sorted and know the next shorter one that they begin with, so the longest is found by one binary search
//! and a walk that is as long as prefixes are nested, however many there are.

use mecha_core::OpClass;

/// What must hold for a call to take a route. An empty list is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The key begins with one of these.
    pub prefixes: Vec<Vec<u8>>,
    /// The call is of this class.
    pub class: Option<OpClass>,
    /// The client has selected one of these.
    pub databases: Vec<u32>,
    /// The client is one of these.
    pub users: Vec<String>,
}

/// What is the same for all keys of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    pub(super) class: OpClass,
    pub(super) database: u32,
    /// Whom the client has said to be, if it has, and the names of its certificate.
    pub(super) user: Option<&'a str>,
    pub(super) names: &'a [String],
}

/// The routes, prepared for look-up. They are numbered in the configuration's order; the default comes last.
pub(super) struct Table {
    /// Sorted by prefix. The first is the empty one.
    prefixes: Vec<Prefix>,
    routes: Vec<Conditions>,
}

struct Prefix {
    bytes: Vec<u8>,
    /// The longest other one that this one begins with.
    shorter: Option<usize>,
    routes: Vec<usize>,
}

// === impl Table ===

impl Table {
    pub(super) fn new(routes: Vec<Conditions>) -> Self {
        let mut prefixes = vec![Prefix { bytes: Vec::new(), shorter: None, routes: Vec::new() }];
        let all = routes.iter().flat_map(|route| route.prefixes.iter().cloned());
        prefixes.extend(all.map(|bytes| Prefix { bytes, shorter: None, routes: Vec::new() }));
        prefixes.sort_by(|one, other| one.bytes.cmp(&other.bytes));
        prefixes.dedup_by(|one, other| one.bytes == other.bytes);
        for at in 1..prefixes.len() {
            // Whatever this one begins with stands before it, the longest nearest.
            let own = prefixes.get(at).map_or(&[][..], |prefix| &prefix.bytes);
            let shorter = prefixes
                .get(..at)
                .unwrap_or_default()
                .iter()
                .rposition(|other| own.starts_with(&other.bytes));
            if let Some(prefix) = prefixes.get_mut(at) {
                prefix.shorter = shorter;
            }
        }
        for (number, route) in routes.iter().enumerate() {
            let of_any = prefixes.iter_mut().filter(|prefix| {
                route.prefixes.contains(&prefix.bytes) || route.prefixes.is_empty() && prefix.bytes.is_empty()
            });
            of_any.for_each(|prefix| prefix.routes.push(number));
        }
        Self { prefixes, routes }
    }

    /// The number of the default.
    pub(super) fn default_route(&self) -> usize {
        self.routes.len()
    }

    /// Whether calls of one client and database can differ in their routes.
    pub(super) fn is_by_key(&self) -> bool {
        self.routes.iter().any(|route| !route.prefixes.is_empty() || route.class.is_some())
    }

    /// Whether reads and writes of one key can differ in their routes.
    pub(super) fn is_by_class(&self) -> bool {
        self.routes.iter().any(|route| route.class.is_some())
    }

    /// Whether clients may select databases.
    pub(super) fn is_by_database(&self) -> bool {
        self.routes.iter().any(|route| !route.databases.is_empty())
    }

    /// Whether a client may select this database.
    pub(super) fn has_database(&self, database: u32) -> bool {
        database == 0 || self.routes.iter().any(|route| route.databases.contains(&database))
    }

    /// The route of a key.
    pub(super) fn by_key(&self, key: &[u8], asker: &Asker<'_>) -> usize {
        let behind = self.prefixes.partition_point(|prefix| prefix.bytes.as_slice() <= key);
        let mut at = behind.checked_sub(1);
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            at = prefix.shorter;
            if !key.starts_with(&prefix.bytes) {
                continue;
            }
            if let Some(route) = prefix.routes.iter().find(|route| self.wants(**route, asker)) {
                return *route;
            }
        }
        self.default_route()
    }

    /// The route of a call without keys.
    pub(super) fn without_key(&self, asker: &Asker<'_>) -> usize {
        let routes = self.prefixes.first().map_or(&[][..], |empty| &empty.routes);
        let is_open = |route: &&usize| {
            self.routes.get(**route).is_some_and(|route| route.prefixes.is_empty() && route.class.is_none())
                && self.wants(**route, asker)
        };
        routes.iter().find(is_open).copied().unwrap_or(self.default_route())
    }

    /// Whether the conditions hold that have nothing to do with the key.
    fn wants(&self, route: usize, asker: &Asker<'_>) -> bool {
        let Some(route) = self.routes.get(route) else { return false };
        let is_user =
            |user: &String| asker.user.map_or_else(|| asker.names.contains(user), |own| own == user.as_str());
        route.class.is_none_or(|class| class == asker.class)
            && (route.databases.is_empty() || route.databases.contains(&asker.database))
            && (route.users.is_empty() || route.users.iter().any(is_user))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixed(prefixes: &[&str]) -> Conditions {
        let prefixes = prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect();
        Conditions { prefixes, ..Conditions::default() }
    }

    fn read() -> Asker<'static> {
        Asker { class: OpClass::Read, database: 0, user: None, names: &[] }
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let table = Table::new(vec![
            prefixed(&["a"]),
            prefixed(&["a:b:", "x"]),
            prefixed(&["a:"]),
            prefixed(&["a:bc"]),
        ]);
        for (key, route) in [
            ("a", 0),
            ("ab", 0),
            ("a:b", 2),
            ("a:b:1", 1),
            ("a:bc", 3),
            ("a:bd", 2),
            ("xy", 1),
            ("", 4),
            ("b", 4),
        ] {
            assert_eq!(table.by_key(key.as_bytes(), &read()), route, "{key}");
        }
    }

    #[test]
    fn a_longer_prefix_whose_other_conditions_fail_leaves_the_call_to_a_shorter_one() {
        let writes = Conditions { class: Some(OpClass::Write), ..prefixed(&["a:"]) };
        let table = Table::new(vec![writes, prefixed(&["a"])]);
        assert_eq!(table.by_key(b"a:1", &read()), 1);
        assert_eq!(table.by_key(b"a:1", &Asker { class: OpClass::Write, ..read() }), 0);
    }

    #[test]
    fn calls_without_keys_follow_database_and_user_and_nothing_else() {
        let reads = Conditions { class: Some(OpClass::Read), ..Conditions::default() };
        let third = Conditions { databases: vec![3], ..Conditions::default() };
        let alice = Conditions { users: vec!["alice".into()], ..Conditions::default() };
        let table = Table::new(vec![reads, prefixed(&["a"]), third, alice]);
        assert_eq!(table.without_key(&read()), 4);
        assert_eq!(table.without_key(&Asker { database: 3, ..read() }), 2);
        assert_eq!(table.without_key(&Asker { user: Some("alice"), ..read() }), 3);
        let names = ["alice".to_string()];
        assert_eq!(table.without_key(&Asker { names: &names, ..read() }), 3);
        // Whoever has said who it is, is not somebody else by its certificate.
        assert_eq!(table.without_key(&Asker { user: Some("bob"), names: &names, ..read() }), 4);
        assert!(table.has_database(0) && table.has_database(3) && !table.has_database(1));
    }

    proptest! {
        #[test]
        fn look_up_is_the_longest_match_of_all(
            prefixes in prop::collection::vec("[ab]{1,4}", 0..12),
            key in "[abc]{0,6}",
        ) {
            let table = Table::new(prefixes.iter().map(|prefix| prefixed(&[prefix])).collect());
            let matching = prefixes.iter().enumerate().filter(|(_, prefix)| key.starts_with(prefix.as_str()));
            let expected = matching.max_by_key(|(at, prefix)| (prefix.len(), usize::MAX - at));
            let expected = expected.map_or(prefixes.len(), |(at, _)| at);
            prop_assert_eq!(table.by_key(key.as_bytes(), &read()), expected);
        }
    }
}
