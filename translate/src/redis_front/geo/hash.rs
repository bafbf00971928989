//! Places on the globe as 52-bit numbers, and the distances between them.
//!
//! A geohash interleaves the bits of latitude (even) and longitude (odd), 26 of each, so that a cell of any size is one
//! range of numbers. A search covers its area with the cell around the centre and that cell's eight neighbours, at the
//! finest level at which they reach far enough.

use std::{f64::consts::PI, ops::Range};

const STEPS: u32 = 26;
const EARTH_RADIUS_M: f64 = 6_372_797.560_856;
/// Web Mercator's limit, as Redis has it.
const MAX_LAT: f64 = 85.051_128_78;
const MAX_LON: f64 = 180.0;

/// Degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) lon: f64,
    pub(crate) lat: f64,
}

/// What a search looks for around its centre, in metres.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Area {
    Box { width: f64, height: f64 },
    Circle { radius: f64 },
}

// === impl Place ===

impl Place {
    /// Whether a geohash can express it.
    pub(crate) fn is_valid(self) -> bool {
        self.lon.abs() <= MAX_LON && self.lat.abs() <= MAX_LAT
    }

    /// The score that stands for this place.
    pub(crate) fn to_score(self) -> f64 {
        encode(self, MAX_LAT, STEPS) as f64
    }

    /// The middle of the cell that a score stands for. A score that is no geohash means what it means to Redis: some
    /// place at the edge.
    pub(crate) fn from_score(score: f64) -> Self {
        let bits = if score.is_finite() { score as i64 as u64 } else { 0 };
        let middle = |cell: u32, max: f64| {
            let scale = 1.0 / f64::from(1_u32 << STEPS);
            let (low, high) = (f64::from(cell) * scale, f64::from(cell.wrapping_add(1)) * scale);
            let (low, high) = (-max + low * (2.0 * max), -max + high * (2.0 * max));
            ((low + high) / 2.0).clamp(-max, max)
        };
        Self { lon: middle(squash(bits >> 1), MAX_LON), lat: middle(squash(bits), MAX_LAT) }
    }

    /// Metres along the surface.
    pub(crate) fn distance(self, other: Self) -> f64 {
        let (lat1, lat2) = (radians(self.lat), radians(other.lat));
        let v = ((radians(other.lon) - radians(self.lon)) / 2.0).sin();
        if v == 0.0 {
            return self.lat_distance(other);
        }
        let u = ((lat2 - lat1) / 2.0).sin();
        let a = u * u + lat1.cos() * lat2.cos() * v * v;
        2.0 * EARTH_RADIUS_M * a.sqrt().asin()
    }

    fn lat_distance(self, other: Self) -> f64 {
        EARTH_RADIUS_M * (radians(other.lat) - radians(self.lat)).abs()
    }

    /// The usual eleven letters, of which the last is always `0`: the score has not enough bits for it.
    pub(crate) fn letters(self) -> [u8; 11] {
        const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = encode(self, 90.0, STEPS);
        std::array::from_fn(|at| {
            let digit = if at < 10 { bits >> (52 - (at + 1) * 5) & 31 } else { 0 };
            ALPHABET.get(digit as usize).copied().unwrap_or(b'0')
        })
    }
}

// === impl Area ===

impl Area {
    /// The distance in metres, if `place` lies within this area around `centre`.
    pub(crate) fn distance(self, centre: Place, place: Place) -> Option<f64> {
        match self {
            Self::Circle { radius } => Some(centre.distance(place)).filter(|distance| *distance <= radius),
            Self::Box { width, height } => {
                let across = Place { lon: centre.lon, lat: place.lat };
                let inside =
                    centre.lat_distance(place) <= height / 2.0 && place.distance(across) <= width / 2.0;
                inside.then(|| centre.distance(place))
            }
        }
    }

    /// Ranges of scores that together hold every place within this area; in ascending order, without overlap.
    pub(crate) fn cover(self, centre: Place) -> Vec<Range<u64>> {
        let reach_m = match self {
            Self::Box { width, height } => (width / 2.0).hypot(height / 2.0),
            Self::Circle { radius } => radius,
        };
        // A little more than the reach, against rounding.
        let lat_reach = (reach_m * 1.01 / EARTH_RADIUS_M).to_degrees();
        // The area spans most degrees of longitude where it comes closest to a pole.
        let closest = radians((centre.lat.abs() + lat_reach).min(90.0)).cos();
        let lon_reach = if closest > 1e-9 { lat_reach / closest } else { f64::INFINITY };
        let step = (1..=STEPS)
            .rev()
            .find(|step| {
                let cells = f64::from(1_u32 << step);
                2.0 * MAX_LAT / cells >= lat_reach && 2.0 * MAX_LON / cells >= lon_reach
            })
            .unwrap_or(0);
        if step < 2 {
            return std::iter::once(0..1 << (2 * STEPS)).collect();
        }
        let cells = 1_i64 << step;
        let middle = encode(centre, MAX_LAT, step);
        let (lat, lon) = (i64::from(squash(middle)), i64::from(squash(middle >> 1)));
        let mut ranges: Vec<Range<u64>> = (-1..=1)
            .flat_map(|up| (-1..=1).map(move |right| (lat + up, (lon + right).rem_euclid(cells))))
            .filter(|(lat, _)| (0..cells).contains(lat))
            .map(|(lat, lon)| {
                let (bits, shift) = (spread(lat as u32) | spread(lon as u32) << 1, 2 * (STEPS - step));
                bits << shift..(bits + 1) << shift
            })
            .collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup();
        ranges
    }
}

fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

fn encode(place: Place, max_lat: f64, steps: u32) -> u64 {
    let cell = |value: f64, max: f64| ((value + max) / (2.0 * max) * f64::from(1_u32 << steps)) as u32;
    // The upper edge belongs to no cell of its own; Redis lets the carry wrap out of the 32 bits it spreads.
    spread(cell(place.lat, max_lat)) | spread(cell(place.lon, MAX_LON)) << 1
}

/// Puts a zero before each bit.
fn spread(bits: u32) -> u64 {
    let mut x = u64::from(bits);
    for (shift, mask) in [
        (16, 0x0000_FFFF_0000_FFFF),
        (8, 0x00FF_00FF_00FF_00FF),
        (4, 0x0F0F_0F0F_0F0F_0F0F),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        x = (x | x << shift) & mask;
    }
    x
}

/// Takes every second bit.
fn squash(bits: u64) -> u32 {
    let mut x = bits & 0x5555_5555_5555_5555;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0F0F_0F0F_0F0F_0F0F),
        (4, 0x00FF_00FF_00FF_00FF),
        (8, 0x0000_FFFF_0000_FFFF),
        (16, 0x0000_0000_FFFF_FFFF),
    ] {
        x = (x | x >> shift) & mask;
    }
    x as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const PALERMO: Place = Place { lon: 13.361389, lat: 38.115556 };
    const CATANIA: Place = Place { lon: 15.087269, lat: 37.502669 };

    #[test]
    fn scores_letters_and_distances_are_those_of_a_server() {
        assert_eq!(PALERMO.to_score(), 3479099956230698.0);
        let stored = Place::from_score(3479099956230698.0);
        assert_eq!(stored, Place { lon: 13.361_389_338_970_184, lat: 38.115_556_395_496_3 });
        assert_eq!(&stored.letters(), b"sqc8b49rny0");
        let distance = stored.distance(Place::from_score(CATANIA.to_score()));
        assert_eq!(format!("{distance:.4}"), "166274.1516");
    }

    #[test]
    fn a_cover_misses_nothing_in_its_area() {
        let mut seed = 88_172_645_463_325_252_u64;
        let mut random = move |max: f64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 11) as f64 / (1_u64 << 53) as f64 * 2.0 * max - max
        };
        for round in 0..300 {
            let centre = Place { lon: random(180.0), lat: random(85.0) };
            let size = 10_f64.powf(3.0 + random(4.0));
            let area = if round % 2 == 0 {
                Area::Circle { radius: size }
            } else {
                Area::Box { width: size, height: 10_f64.powf(3.0 + random(4.0)) }
            };
            let cover = area.cover(centre);
            assert!(cover.windows(2).all(|pair| pair[0].end <= pair[1].start));
            for _ in 0..300 {
                let spread = (size / 50_000.0).min(180.0);
                let place = Place {
                    lon: (centre.lon + random(spread) + 540.0).rem_euclid(360.0) - 180.0,
                    lat: (centre.lat + random(spread)).clamp(-85.0, 85.0),
                };
                let score = place.to_score();
                if area.distance(centre, Place::from_score(score)).is_some() {
                    assert!(
                        cover.iter().any(|range| range.contains(&(score as u64))),
                        "{centre:?} {area:?} {place:?}"
                    );
                }
            }
        }
    }
}
