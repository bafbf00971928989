//! Places, which are sorted sets whose scores are geohashes.

mod hash;

use self::hash::{Area, Place};
use super::{
    aggregate::{Error, Keys, Run, Spec, spec},
    hash::content::{Shapes as _, integer, is, look, replace},
    zset::{
        add_places, insert,
        number::{parse_score, write_distance},
    },
};
use crate::zset::ZSet;

/// Which of the searching commands this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `key lon lat radius unit`; may it store?
    Radius(bool),
    /// `key member radius unit`; may it store?
    RadiusByMember(bool),
    /// `key`, everything else by options.
    Search,
    /// `destination key`, everything else by options.
    SearchStore,
}

/// A parsed search. Without a centre, its key does not exist.
#[derive(Clone, Debug, Default)]
struct Query {
    centre: Option<Place>,
    area: Option<Area>,
    /// Metres in the unit of the reply.
    unit: f64,
    with_coord: bool,
    with_dist: bool,
    with_hash: bool,
    /// Slot of the destination, and whether distances are stored.
    store: Option<bool>,
    count: usize,
    any: bool,
    descending: Option<bool>,
}

/// One member found.
struct Found<'a> {
    member: &'a [u8],
    score: f64,
    distance: f64,
}

fn unit(argument: &[u8]) -> Result<f64, Error> {
    match argument {
        name if is(name, "m") => Ok(1.0),
        name if is(name, "km") => Ok(1000.0),
        name if is(name, "ft") => Ok(0.3048),
        name if is(name, "mi") => Ok(1609.34),
        _ => Err(Error::Text("ERR unsupported unit provided. please use M, KM, FT, MI")),
    }
}

fn place(lon: &[u8], lat: &[u8]) -> Result<Place, Error> {
    let (lon, lat) = (parse_score(lon).ok_or(Error::NotFloat)?, parse_score(lat).ok_or(Error::NotFloat)?);
    let place = Place { lon, lat };
    if place.is_valid() {
        return Ok(place);
    }
    Err(Error::Owned(format!("ERR invalid longitude,latitude pair {lon:.6},{lat:.6}")))
}

fn length(argument: &[u8], no_number: &'static str, negative: &'static str) -> Result<f64, Error> {
    match parse_score(argument) {
        None => Err(Error::Text(no_number)),
        Some(length) if length < 0.0 => Err(Error::Text(negative)),
        Some(length) => Ok(length),
    }
}

fn geoadd(run: &mut Run<'_>) -> Result<(), Error> {
    let (mut nx, mut xx, mut ch, mut at) = (false, false, false, 2);
    while at < run.argc() {
        let flag = match run.arg(at) {
            option if is(option, "nx") => &mut nx,
            option if is(option, "xx") => &mut xx,
            option if is(option, "ch") => &mut ch,
            _ => break,
        };
        *flag = true;
        at += 1;
    }
    let left = run.argc() - at;
    if left == 0 || !left.is_multiple_of(3) || (nx && xx) {
        return Err(Error::Syntax);
    }
    let mut scores = Vec::with_capacity(left / 3);
    for at in (at..run.argc()).step_by(3) {
        scores.push(place(run.arg(at), run.arg(at + 1))?.to_score());
    }
    add_places(run, nx, xx, ch, at + 2, &scores)
}

fn geodist(run: &mut Run<'_>) -> Result<(), Error> {
    let unit = match run.argc() {
        4 => 1.0,
        5 => unit(run.arg(4))?,
        _ => return Err(Error::Syntax),
    };
    let members = look::<ZSet>(run.slots.nth(0))?;
    let place = |at| members.and_then(|members| members.score(run.args.at(at))).map(Place::from_score);
    match place(2).zip(place(3)) {
        Some((one, other)) => run.reply.bulk(&distance(one.distance(other) / unit)),
        None => run.reply.null(),
    }
    Ok(())
}

fn distance(value: f64) -> Vec<u8> {
    let mut text = Vec::new();
    write_distance(value, &mut text);
    text
}

fn geohash(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let members = look::<ZSet>(run.slots.nth(0))?;
    run.reply.array(argc - 2);
    for at in 2..argc {
        let score = members.and_then(|members| members.score(run.args.at(at)));
        run.reply.maybe_bulk(score.map(|score| Place::from_score(score).letters()));
    }
    Ok(())
}

fn geopos(run: &mut Run<'_>) -> Result<(), Error> {
    let argc = run.argc();
    let members = look::<ZSet>(run.slots.nth(0))?;
    run.reply.array(argc - 2);
    for at in 2..argc {
        match members.and_then(|members| members.score(run.args.at(at))) {
            Some(score) => {
                let place = Place::from_score(score);
                run.reply.array(2);
                run.reply.coordinate(place.lon);
                run.reply.coordinate(place.lat);
            }
            None => run.reply.null_array(),
        }
    }
    Ok(())
}

// === searches ===

impl Query {
    fn parse(run: &Run<'_>, form: Form, members: Option<&ZSet>) -> Result<Self, Error> {
        let mut query = Self { unit: 1.0, ..Self::default() };
        let centre_of = |member: &[u8]| match members {
            None => Ok(None),
            Some(members) => match members.score(member) {
                Some(score) => Ok(Some(Place::from_score(score))),
                None => Err(Error::Text("ERR could not decode requested zset member")),
            },
        };
        let first = match form {
            Form::Radius(_) => {
                query.centre = Some(place(run.arg(2), run.arg(3))?);
                query.circle(run.arg(4), run.arg(5))?;
                6
            }
            Form::RadiusByMember(_) => {
                query.centre = centre_of(run.arg(2))?;
                // Redis does not look at the radius when there is nothing to search.
                if members.is_some() {
                    query.circle(run.arg(3), run.arg(4))?;
                }
                5
            }
            Form::Search => 2,
            Form::SearchStore => {
                query.store = Some(false);
                3
            }
        };
        let is_search = matches!(form, Form::Search | Form::SearchStore);
        let may_store = matches!(form, Form::Radius(true) | Form::RadiusByMember(true));
        let (mut from_member, mut from_place) = (false, false);
        let (mut by_radius, mut by_box, mut any, mut at) = (false, false, false, first);
        while at < run.argc() {
            let (name, left) = (run.arg(at), run.argc() - at - 1);
            if is(name, "withdist") {
                query.with_dist = true;
            } else if is(name, "withhash") {
                query.with_hash = true;
            } else if is(name, "withcoord") {
                query.with_coord = true;
            } else if is(name, "any") {
                any = true;
            } else if is(name, "asc") {
                query.descending = Some(false);
            } else if is(name, "desc") {
                query.descending = Some(true);
            } else if is(name, "count") && left >= 1 {
                let count = integer(run.arg(at + 1)).ok_or(Error::NotInteger)?;
                if count <= 0 {
                    return Err(Error::Text("ERR COUNT must be > 0"));
                }
                query.count = usize::try_from(count).unwrap_or(usize::MAX);
                at += 1;
            } else if may_store && left >= 1 && (is(name, "store") || is(name, "storedist")) {
                query.store = Some(is(name, "storedist"));
                at += 1;
            } else if is_search && left >= 1 && !from_place && is(name, "frommember") {
                query.centre = centre_of(run.arg(at + 1))?;
                from_member = true;
                at += 1;
            } else if is_search && left >= 2 && !from_member && is(name, "fromlonlat") {
                query.centre = Some(place(run.arg(at + 1), run.arg(at + 2))?);
                from_place = true;
                at += 2;
            } else if is_search && left >= 2 && !by_box && is(name, "byradius") {
                query.circle(run.arg(at + 1), run.arg(at + 2))?;
                by_radius = true;
                at += 2;
            } else if is_search && left >= 3 && !by_radius && is(name, "bybox") {
                query.rectangle(run.arg(at + 1), run.arg(at + 2), run.arg(at + 3))?;
                by_box = true;
                at += 3;
            } else if form == Form::SearchStore && is(name, "storedist") {
                query.store = Some(true);
            } else {
                return Err(Error::Syntax);
            }
            at += 1;
        }
        let shows = query.with_coord || query.with_dist || query.with_hash;
        if query.store.is_some() && shows {
            return Err(Error::Text(if is_search {
                "ERR GEOSEARCHSTORE is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            } else {
                "ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            }));
        }
        let name = || String::from_utf8_lossy(run.arg(0)).into_owned();
        if is_search && !from_member && !from_place {
            let text = "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for";
            return Err(Error::Owned(format!("{text} {}", name())));
        }
        if is_search && !by_radius && !by_box {
            let text = "ERR exactly one of BYRADIUS and BYBOX can be specified for";
            return Err(Error::Owned(format!("{text} {}", name())));
        }
        if any && query.count == 0 {
            return Err(Error::Text("ERR the ANY argument requires COUNT argument"));
        }
        // The nearest ones are meant.
        if query.count > 0 && query.descending.is_none() && !any {
            query.descending = Some(false);
        }
        query.any = any;
        Ok(query)
    }

    fn circle(&mut self, radius: &[u8], name: &[u8]) -> Result<(), Error> {
        let radius = length(radius, "ERR need numeric radius", "ERR radius cannot be negative")?;
        self.unit = unit(name)?;
        self.area = Some(Area::Circle { radius: radius * self.unit });
        Ok(())
    }

    fn rectangle(&mut self, width: &[u8], height: &[u8], name: &[u8]) -> Result<(), Error> {
        let width = parse_score(width).ok_or(Error::Text("ERR need numeric width"))?;
        let height = parse_score(height).ok_or(Error::Text("ERR need numeric height"))?;
        if width < 0.0 || height < 0.0 {
            return Err(Error::Text("ERR height or width cannot be negative"));
        }
        self.unit = unit(name)?;
        self.area = Some(Area::Box { width: width * self.unit, height: height * self.unit });
        Ok(())
    }

    /// What lies in the area, in the order and number asked for.
    fn find<'a>(&self, members: &'a ZSet) -> Vec<Found<'a>> {
        let Some((centre, area)) = self.centre.zip(self.area) else { return Vec::new() };
        let enough = if self.any { self.count } else { usize::MAX };
        let ranges = area.cover(centre).into_iter().flat_map(|range| {
            members.range(members.positions_by_score(
                crate::zset::ScoreBound { score: range.start as f64, exclusive: false },
                crate::zset::ScoreBound { score: range.end as f64, exclusive: true },
            ))
        });
        let inside = ranges.filter_map(|(member, score)| {
            let distance = area.distance(centre, Place::from_score(score))?;
            Some(Found { member, score, distance: distance / self.unit })
        });
        let mut found: Vec<_> = inside.take(enough).collect();
        match self.descending {
            Some(false) => found.sort_by(|a, b| a.distance.total_cmp(&b.distance)),
            Some(true) => found.sort_by(|a, b| b.distance.total_cmp(&a.distance)),
            None => {}
        }
        if self.count > 0 {
            found.truncate(self.count);
        }
        found
    }
}

/// Slots: the source first, or behind the destination of GEOSEARCHSTORE; GEORADIUS' destination comes last.
fn search(run: &mut Run<'_>, form: Form) -> Result<(), Error> {
    let source = usize::from(form == Form::SearchStore);
    let members = look::<ZSet>(run.slots.nth(source))?;
    let query = Query::parse(run, form, members)?;
    let found = members.map(|members| query.find(members)).unwrap_or_default();
    if let Some(stores_distance) = query.store {
        let mut result = ZSet::default();
        for Found { member, score, distance } in found {
            insert(&mut result, member, if stores_distance { distance } else { score })?;
        }
        run.reply.int(result.len() as i64);
        let destination = if form == Form::SearchStore { 0 } else { run.slots.len() - 1 };
        replace(run.slots.nth_mut(destination), result);
        return Ok(());
    }
    let options = usize::from(query.with_dist) + usize::from(query.with_hash) + usize::from(query.with_coord);
    run.reply.array(found.len());
    for Found { member, score, distance: metres } in found {
        if options > 0 {
            run.reply.array(1 + options);
        }
        run.reply.bulk(member);
        if query.with_dist {
            run.reply.bulk(&distance(metres));
        }
        if query.with_hash {
            run.reply.int(score as i64);
        }
        if query.with_coord {
            let place = Place::from_score(score);
            run.reply.array(2);
            run.reply.coordinate(place.lon);
            run.reply.coordinate(place.lat);
        }
    }
    Ok(())
}

fn georadius(run: &mut Run<'_>) -> Result<(), Error> {
    search(run, Form::Radius(true))
}

fn georadius_ro(run: &mut Run<'_>) -> Result<(), Error> {
    search(run, Form::Radius(false))
}

fn georadiusbymember(run: &mut Run<'_>) -> Result<(), Error> {
    search(run, Form::RadiusByMember(true))
}

fn georadiusbymember_ro(run: &mut Run<'_>) -> Result<(), Error> {
    search(run, Form::RadiusByMember(false))
}

fn geosearch(run: &mut Run<'_>) -> Result<(), Error> {
    search(run, Form::Search)
}

fn geosearchstore(run: &mut Run<'_>) -> Result<(), Error> {
    search(run, Form::SearchStore)
}

// === table ===

/// What the front registers.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("geoadd", -5, Keys::First, geoadd),
    spec("geodist", -4, Keys::First, geodist),
    spec("geohash", -2, Keys::First, geohash),
    spec("geopos", -2, Keys::First, geopos),
    spec("georadius", -6, Keys::GeoStore(6), georadius),
    spec("georadius_ro", -6, Keys::First, georadius_ro),
    spec("georadiusbymember", -5, Keys::GeoStore(5), georadiusbymember),
    spec("georadiusbymember_ro", -5, Keys::First, georadiusbymember_ro),
    spec("geosearch", -7, Keys::First, geosearch),
    spec("geosearchstore", -8, Keys::FirstTwo, geosearchstore),
];
