//! Where a listener's calls go, for people.

use std::fmt::Write;

use mecha_config::{ClusterSpec, Discovery, ListenerSpec, RouteClass, RouteSpec, Snapshot};

/// A line for each target of `listener`, and of what is done with its calls besides.
pub(super) fn write(text: &mut String, snapshot: &Snapshot, listener: &ListenerSpec) {
    let target = |at: usize| snapshot.clusters.get(at).map(cluster).unwrap_or_default();
    for route in &listener.routes {
        let _ = writeln!(text, "  route {}: {} -> {}", route.name, conditions(route), target(route.cluster));
        let policies = snapshot.clusters.get(route.cluster).into_iter().flat_map(|cluster| &cluster.filters);
        let filters: Vec<_> = route.filters.iter().chain(policies).map(|spec| spec.name.as_str()).collect();
        if !filters.is_empty() {
            let _ = writeln!(text, "    filters: {}", filters.join(" -> "));
        }
        copies(text, "    ", &target, &route.mirror);
        moves(text, "    ", &target, &route.migrate);
    }
    if listener.routes.is_empty() {
        let _ = writeln!(text, "  {}", target(listener.cluster));
    } else {
        let _ = writeln!(text, "  everything else -> {}", target(listener.cluster));
    }
    copies(text, "  ", &target, &listener.mirror);
    moves(text, "  ", &target, &listener.migrate);
}

fn moves(
    text: &mut String,
    indent: &str,
    target: &dyn Fn(usize) -> String,
    migrate: &Option<mecha_config::MigrateSpec>,
) {
    let Some(migrate) = migrate else { return };
    let sweep = migrate
        .sweep
        .map_or_else(|| "only keys in use move".to_string(), |rate| format!("{rate} other keys per second"));
    let (stage, to) = (migrate.stage.name(), target(migrate.cluster));
    let _ = writeln!(text, "{indent}keys move, stage {stage}, {sweep} -> {to}");
}

fn copies(
    text: &mut String,
    indent: &str,
    target: &dyn Fn(usize) -> String,
    mirror: &Option<mecha_config::MirrorSpec>,
) {
    if let Some(mirror) = mirror {
        let share = f64::from(mirror.share) / 100.0;
        let what = mirror.class.map_or("all calls", class);
        let _ =
            writeln!(text, "{indent}copies: {what} of {share} % of the keys -> {}", target(mirror.cluster));
    }
}

fn class(class: RouteClass) -> &'static str {
    RouteClass::ALL.iter().find(|(_, known)| *known == class).map_or("", |(name, _)| name)
}

/// The conditions of a route in words.
pub(crate) fn conditions(route: &RouteSpec) -> String {
    let mut all = Vec::new();
    let quoted =
        |words: &[String]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
    if !route.prefixes.is_empty() {
        all.push(format!("keys with {}", quoted(&route.prefixes)));
    }
    all.extend(route.class.map(class).map(str::to_string));
    if !route.databases.is_empty() {
        let numbers: Vec<_> = route.databases.iter().map(u32::to_string).collect();
        all.push(format!("database {}", numbers.join(" or ")));
    }
    if !route.users.is_empty() {
        all.push(format!("user {}", quoted(&route.users)));
    }
    all.join(", ")
}

fn cluster(cluster: &ClusterSpec) -> String {
    let endpoints = cluster.places();
    let balance = mecha_config::Balance::ALL.iter().find(|(_, balance)| *balance == cluster.balance);
    match &cluster.discovery {
        Discovery::Cluster => {
            let seeds = endpoints.join(", ");
            return format!(
                "cluster {} ({}): a Redis Cluster, by its slots; asked first: {seeds}",
                cluster.name, cluster.protocol
            );
        }
        Discovery::Sentinel(primary) => {
            let sentinels = endpoints.join(", ");
            return format!(
                "cluster {} ({}): the primary of `{primary}`, as sentinels tell: {sentinels}",
                cluster.name, cluster.protocol
            );
        }
        Discovery::Dns | Discovery::File { .. } | Discovery::Srv => {
            let way = match cluster.discovery {
                Discovery::Dns => "all addresses of",
                Discovery::Srv => "as SRV records tell of",
                _ => "as it stands in",
            };
            return format!(
                "cluster {} ({}): {way} {}, by {}",
                cluster.name,
                cluster.protocol,
                endpoints.join(", "),
                balance.map_or("", |(name, _)| name)
            );
        }
        Discovery::Listed => {}
    }
    match (endpoints.len(), balance) {
        (0, _) if cluster.protocol == crate::catalog::ORIGINAL => {
            format!("cluster {}: wherever clients were going", cluster.name)
        }
        (0, _) => {
            format!("cluster {}: the store in this process, {} bytes", cluster.name, cluster.max_memory)
        }
        (1, _) => format!("cluster {} ({}): {}", cluster.name, cluster.protocol, endpoints.join(", ")),
        (_, balance) => format!(
            "cluster {} ({}): {} by {}",
            cluster.name,
            cluster.protocol,
            endpoints.join(", "),
            balance.map_or("", |(name, _)| name)
        ),
    }
}
