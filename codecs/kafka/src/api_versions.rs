//! `ApiVersions`: what clients are told that may be asked for.
//!
//! A client uses the newest version of each API that both it and the broker have. Behind a proxy it must be the newest
//! that all three have: of a version that is not described here, nobody could tell where addresses are. So what a broker
//! answers is narrowed ([`narrow`]) before a client sees it. APIs that are not known are left out, vendors' own ones
//! (10000 and above) stay.
//!
//! A broker that does not know the version of the request itself answers in version 0, with an error and with the
//! versions of `ApiVersions` that it does know; clients then ask again. Whoever answers in a broker's stead does the
//! same ([`answer`]).

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, api_versions_response::ApiVersion};

use crate::guard;
use crate::schema::{Listener, Versions};
use crate::table::{ApiKey, Class, VENDORS, apis};
use crate::wire::Malformed;

/// The error that an unknown version is answered with.
const UNSUPPORTED_VERSION: i16 = 35;

/// Narrows a broker's answer to what may pass, and appends the new body to `out`. `limit` may narrow further: it is
/// given each API with the versions that are left, and returns those that are to stay.
///
/// `version` is that of the request.
///
/// # Errors
/// See [`Malformed`].
pub fn narrow(
    version: i16,
    body: Bytes,
    limit: &mut dyn FnMut(ApiKey, Versions) -> Versions,
    out: &mut BytesMut,
) -> Result<(), Malformed> {
    // The error comes first in all versions, and there are no tagged fields before it.
    let error = body.first_chunk().map(|error| i16::from_be_bytes(*error));
    let version = if error == Some(UNSUPPORTED_VERSION) { 0 } else { version };
    let mut response = guard::response::<ApiVersionsRequest>(version, body)?;
    response.api_keys.retain_mut(|row| {
        let (key, theirs) = (ApiKey(row.api_key), Versions { first: row.min_version, last: row.max_version });
        let left = match key.api() {
            Some(api) => limit(key, theirs.and(api.offered())),
            None if key.0 >= VENDORS => limit(key, theirs),
            None => Versions::NONE,
        };
        (row.min_version, row.max_version) = (left.first, left.last);
        !left.is_empty()
    });
    guard::encode_response::<ApiVersionsRequest>(&response, version, out)
}

/// Answers in a broker's stead, and appends the body to `out`: everything that brokers have for clients, in the versions
/// that are described here, as far as `limit` leaves it (see [`narrow`]).
///
/// # Errors
/// None for what `limit` may return; they are those of the encoder.
pub fn answer(
    version: i16,
    limit: &mut dyn FnMut(ApiKey, Versions) -> Versions,
    out: &mut BytesMut,
) -> Result<(), Malformed> {
    let is_known = ApiKey::API_VERSIONS.versions().has(version);
    let of_brokers =
        |key: ApiKey| key.request().is_some_and(|request| request.listeners.contains(&Listener::Broker));
    let rows = apis()
        .filter(|api| api.class != Class::Controller && of_brokers(api.key))
        .filter(|api| is_known || api.key == ApiKey::API_VERSIONS)
        .map(|api| (api.key, limit(api.key, api.offered())))
        .filter(|(_, versions)| !versions.is_empty());
    let rows = rows.map(|(key, versions)| {
        ApiVersion::default()
            .with_api_key(key.0)
            .with_min_version(versions.first)
            .with_max_version(versions.last)
    });
    let error = if is_known { 0 } else { UNSUPPORTED_VERSION };
    let response = ApiVersionsResponse::default().with_error_code(error).with_api_keys(rows.collect());
    guard::encode_response::<ApiVersionsRequest>(&response, if is_known { version } else { 0 }, out)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::{
        ApiVersionsRequest, ApiVersionsResponse, api_versions_response::ApiVersion,
    };

    use super::{answer, narrow};
    use crate::guard;
    use crate::schema::Versions;
    use crate::table::ApiKey;

    fn row(key: i16, first: i16, last: i16) -> ApiVersion {
        ApiVersion::default().with_api_key(key).with_min_version(first).with_max_version(last)
    }

    fn narrowed(response: &ApiVersionsResponse, asked: i16, answered: i16) -> ApiVersionsResponse {
        let (mut body, mut out) = (BytesMut::new(), BytesMut::new());
        guard::encode_response::<ApiVersionsRequest>(response, answered, &mut body).unwrap();
        narrow(asked, body.freeze(), &mut |_, versions| versions, &mut out).unwrap();
        guard::response::<ApiVersionsRequest>(answered, out.freeze()).unwrap()
    }

    #[test]
    fn clients_are_told_what_all_three_have() {
        let theirs = ApiVersionsResponse::default().with_throttle_time_ms(5).with_api_keys(vec![
            row(0, 0, 99),
            row(1, 4, 7),
            row(3, 13, 99),
            row(8, 0, 1),
            row(999, 0, 3),
            row(10_003, 0, 2),
        ]);
        for version in 0..=4 {
            let ours = narrowed(&theirs, version, version);
            // Old clients look for version 0 of Produce, to know that the broker is not older than they are.
            let rows = [row(0, 0, 13), row(1, 4, 7), row(3, 13, 13), row(10_003, 0, 2)];
            assert_eq!(ours.api_keys, rows, "version {version}");
            assert_eq!(ours.throttle_time_ms, if version == 0 { 0 } else { 5 });
        }
    }

    #[test]
    fn a_broker_that_lacks_the_version_is_understood() {
        let theirs = ApiVersionsResponse::default().with_error_code(35).with_api_keys(vec![row(18, 0, 9)]);
        let ours = narrowed(&theirs, 4, 0);
        assert_eq!((ours.error_code, ours.api_keys), (35, vec![row(18, 0, 4)]));
    }

    #[test]
    fn a_version_that_is_not_known_is_answered_in_version_0() {
        let mut out = BytesMut::new();
        answer(77, &mut |_, versions| versions, &mut out).unwrap();
        let ours = guard::response::<ApiVersionsRequest>(0, out.freeze()).unwrap();
        assert_eq!((ours.error_code, ours.api_keys), (35, vec![row(18, 0, 4)]));
    }

    #[test]
    fn what_is_offered_is_for_clients() {
        let mut out = BytesMut::new();
        let mut limit = |key: ApiKey, versions: Versions| match key {
            ApiKey::FETCH => Versions { last: 12, ..versions },
            ApiKey::SHARE_FETCH => Versions::NONE,
            _ => versions,
        };
        answer(3, &mut limit, &mut out).unwrap();
        let ours = guard::response::<ApiVersionsRequest>(3, out.freeze()).unwrap();
        let find = |key: i16| ours.api_keys.iter().find(|row| row.api_key == key);
        assert_eq!(find(1), Some(&row(1, 4, 12)));
        // Left out by the limit; of controllers; between brokers.
        assert_eq!([find(78), find(52), find(84)], [None, None, None]);
        assert_eq!((ours.error_code, ours.api_keys.len() > 50), (0, true));
    }
}
