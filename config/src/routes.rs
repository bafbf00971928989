//! Where the calls of one listener go besides its own target.

use crate::FilterSpec;

/// Calls that go to another cluster. All conditions must hold; an empty list is none.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSpec {
    /// Unique on its listener; metric label.
    pub name: String,
    /// The key begins with one of these.
    pub prefixes: Vec<String>,
    /// What the call does.
    pub class: Option<RouteClass>,
    /// The client has selected one of these databases.
    pub databases: Vec<u32>,
    /// The client is one of these.
    pub users: Vec<String>,
    /// Index into [`crate::Snapshot::clusters`].
    pub cluster: usize,
    /// What its calls pass besides, in order.
    pub filters: Vec<FilterSpec>,
    /// Where copies go.
    pub mirror: Option<MirrorSpec>,
    /// Where its keys move to.
    pub migrate: Option<MigrateSpec>,
}

/// What routes of one protocol can have besides prefixes, classes and users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownRoutes {
    /// Its clients select databases.
    pub has_databases: bool,
    /// Backs whose keys they can list, so that a migration finds those that nobody uses.
    pub lists_keys_of: &'static [&'static str],
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteClass {
    /// Leaves the data as it is.
    Reads,
    /// May change data.
    Writes,
}

impl RouteClass {
    /// Every class with its name in the file.
    pub const ALL: [(&'static str, Self); 2] = [("reads", Self::Reads), ("writes", Self::Writes)];
}

/// A cluster that gets copies of calls.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorSpec {
    /// Index into [`crate::Snapshot::clusters`].
    pub cluster: usize,
    /// Of ten thousand keys, so many.
    pub share: u32,
    /// Only such calls.
    pub class: Option<RouteClass>,
    /// Unanswered copies per worker.
    pub window: u32,
}

/// How keys move from a route's cluster to another one.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrateSpec {
    /// Index into [`crate::Snapshot::clusters`].
    pub cluster: usize,
    /// How far it has come.
    pub stage: MigrateStage,
    /// Keys that one worker copies at one time, and reads that it compares at one time.
    pub window: u32,
    /// Keys that wait for their copy, over all workers.
    pub pending: u32,
    /// Of ten thousand keys, so many have their reads compared.
    pub share: u32,
    /// Whether what a comparison finds is mended.
    pub repair: bool,
    /// Keys per second that are visited though nobody uses them; none: only what is used moves.
    pub sweep: Option<u32>,
}

/// How far a migration has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrateStage {
    /// Only the old cluster is used.
    Old,
    /// The old cluster serves; what is written there is copied to the new one.
    DualWrite,
    /// As `DualWrite`, and reads are compared.
    ShadowRead,
    /// The new cluster serves; it gets what it lacks from the old one, which follows it.
    Backfill,
    /// Only the new cluster is used.
    New,
}

impl MigrateStage {
    /// Every stage with its name in the file, in the order in which a migration takes them.
    pub const ALL: [(&'static str, Self); 5] = [
        ("old", Self::Old),
        ("dual_write", Self::DualWrite),
        ("shadow_read", Self::ShadowRead),
        ("backfill", Self::Backfill),
        ("new", Self::New),
    ];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, stage)| *stage == self).map_or("", |(name, _)| name)
    }
}

impl crate::ListenerSpec {
    /// Whether calls can go anywhere but to its own target.
    pub fn is_routed(&self) -> bool {
        !self.routes.is_empty() || self.mirror.is_some() || self.migrate.is_some()
    }

    /// The places in [`crate::Snapshot::clusters`] of all its targets: its own first.
    pub fn targets(&self) -> Vec<usize> {
        let mut own = self.clone();
        let mut all = Vec::new();
        own.each_target(|target| all.push(*target));
        all
    }

    /// The same with all places set to zero: what is left when it does not matter where clusters stand.
    pub fn without_targets(&self) -> Self {
        let mut own = self.clone();
        own.each_target(|target| *target = 0);
        own
    }

    fn each_target(&mut self, mut each: impl FnMut(&mut usize)) {
        each(&mut self.cluster);
        self.http_routes.iter_mut().for_each(|route| route.each_target(&mut each));
        self.tunnels.iter_mut().for_each(|tunnel| each(&mut tunnel.cluster));
        let routes = self.routes.iter_mut();
        let own = routes.map(|route| (Some(&mut route.cluster), &mut route.mirror, &mut route.migrate));
        for (cluster, mirror, migrate) in own.chain([(None, &mut self.mirror, &mut self.migrate)]) {
            cluster.into_iter().for_each(&mut each);
            mirror.iter_mut().for_each(|mirror| each(&mut mirror.cluster));
            migrate.iter_mut().for_each(|migrate| each(&mut migrate.cluster));
        }
    }
}
