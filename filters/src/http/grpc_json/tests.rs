use std::sync::LazyLock;

use prost::Message;
use prost_reflect::DynamicMessage;

use super::*;
use crate::http::testing::{answer as answer_head, cx, head, refused};

static SET: &[u8] = include_bytes!("shop.pb");
static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| Arc::new(Rules::new(SET, &[], true).unwrap()));

fn style(has_lines: bool) -> Style {
    Style { has_defaults: false, has_own_names: false, has_lines, max_message: 1 << 20 }
}

fn transcoder(style: Style, ignores_unknown: bool) -> Transcoder {
    Transcoder { rules: Arc::clone(&RULES), style: Rc::new(style), ignores_unknown }
}

/// The path that is called, and the messages of the request as JSON, one a line; or the error.
fn asked(method: &str, target: &str, body: &str) -> Result<(String, String), String> {
    asked_of(&transcoder(style(false), false), method, target, body)
}

fn asked_of(filter: &Transcoder, method: &str, target: &str, body: &str) -> Result<(String, String), String> {
    let mut head = head(method, target, &[("host", "a"), ("content-type", "application/json")]);
    let mut follow = match filter.on_request(&mut head, &cx()) {
        Step::Follow(follow) => follow,
        Step::Pass => return Err("nobody knows it".into()),
        Step::Answer(answer) => {
            let error: Value = serde_json::from_slice(answer.body()).unwrap();
            assert_eq!((answer.status().as_u16(), &error["code"]), (400, &json!(3)));
            return Err(error["message"].as_str().unwrap().into());
        }
        other => panic!("{other:?}"),
    };
    assert_eq!((&head.method, &head.headers["te"]), (&Method::POST, &HeaderValue::from_static("trailers")));
    let mut transform = follow.request_body().unwrap();
    for byte in body.as_bytes().chunks(3) {
        let taken = transform.data(Bytes::copy_from_slice(byte)).map_err(|why| format!("{why:?}"))?;
        assert_eq!(taken, "");
    }
    let path = head.uri.path().to_string();
    match transform.end(None) {
        Ok((frames, None)) => {
            let (_, name) = path.rsplit_once('/').unwrap();
            let method = RULES.pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
            let input = method.into_iter().find(|method| method.name() == name).unwrap().input();
            let (mut rest, mut lines) = (&frames[..], Vec::new());
            while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX>() {
                let (message, more) =
                    after.split_at(u32::from_be_bytes(*prefix.last_chunk().unwrap()) as usize);
                let message = DynamicMessage::decode(input.clone(), message).unwrap();
                lines.push(serde_json::to_string(&message).unwrap());
                rest = more;
            }
            Ok((path, lines.join("\n")))
        }
        Ok((_, Some(trailers))) => panic!("{trailers:?}"),
        Err(Refusal::Malformed) => {
            let mut head = answer_head(400, &[("mecha-refused", "malformed")]).clone();
            assert!(follow.holds(&head).is_some());
            let body = follow.on_whole(&mut head, None);
            let error: Value = serde_json::from_slice(&body).unwrap();
            Err(error["message"].as_str().unwrap().into())
        }
        Err(why) => Err(format!("{why:?}")),
    }
}

#[test]
fn paths_queries_and_bodies_become_messages() {
    for (method, target, body, path, message) in [
        ("GET", "/v1/shelves/1/items/2", "", "GetItem", r#"{"name":"shelves/1/items/2"}"#),
        (
            "GET",
            "/v1/items/a%2Fb?view=full%20one&years=1&years=2&deep=true",
            "",
            "GetItem",
            r#"{"name":"a/b","view":"full one","years":[1,2],"deep":true}"#,
        ),
        (
            "GET",
            "/v1/items/a?maker.name=x&maker.country=y&rating=3&size=LARGE&within=1.5s",
            "",
            "GetItem",
            r#"{"name":"a","maker":{"name":"x","country":"y"},"rating":3,"size":"LARGE","within":"1.500s"}"#,
        ),
        ("GET", "/v1/items/a?size=1", "", "GetItem", r#"{"name":"a","size":"SMALL"}"#),
        (
            "POST",
            "/v1/shelves/7/items?dryRun=true",
            r#"{"name":"b","price_cents":"12","tags":["x"]}"#,
            "CreateItem",
            r#"{"shelf":"7","item":{"name":"b","priceCents":"12","tags":["x"]},"dryRun":true}"#,
        ),
        ("POST", "/v1/shelves/7/items?dry_run=true", "", "CreateItem", r#"{"shelf":"7","dryRun":true}"#),
        (
            "PUT",
            "/v1/items",
            r#"{"shelf":"1","item":{"photo":"AQI=","made":"2024-01-02T03:04:05Z","stock":{"a":1},"rating":5}}"#,
            "CreateItem",
            r#"{"shelf":"1","item":{"photo":"AQI=","made":"2024-01-02T03:04:05Z","stock":{"a":1},"rating":5}}"#,
        ),
        // What the path says wins, however a body spells it, and nothing of a query counts.
        (
            "POST",
            "/v1/items/a:reserve?view=x",
            r#"{"name":"b","view":"y"}"#,
            "ReserveItem",
            r#"{"name":"a","view":"y"}"#,
        ),
        ("POST", "/v1/items/a:reserve", "", "ReserveItem", r#"{"name":"a"}"#),
        ("DELETE", "/v1/shelves/1/items/2", "", "DeleteItem", r#"{"name":"shelves/1/items/2"}"#),
        ("GET", "/v1/shelves/1/items:watch?page_size=3", "", "WatchItems", r#"{"shelf":"1","pageSize":3}"#),
        ("GET", "/v1/photos/a/b/c", "", "GetPhoto", r#"{"name":"a/b/c"}"#),
        (
            "POST",
            "/v1/items:add",
            "[{\"name\":\"a\"},{\"name\":\"b\"}]",
            "AddItems",
            "{\"name\":\"a\"}\n{\"name\":\"b\"}",
        ),
        (
            "POST",
            "/v1/items:add",
            "{\"name\":\"a\"}\n{\"name\":\"b\"}\n",
            "AddItems",
            "{\"name\":\"a\"}\n{\"name\":\"b\"}",
        ),
        ("POST", "/shop.v1.Shop/Ping", "{}", "Ping", "{}"),
    ] {
        let expected = (format!("/shop.v1.Shop/{path}"), message.to_string());
        assert_eq!(asked(method, target, body), Ok(expected), "{method} {target} {body}");
    }
}

#[test]
fn what_makes_no_message_is_the_clients_fault() {
    for (method, target, body, why) in [
        ("GET", "/v1/items/a?colour=red", "", "there is no field `colour`"),
        ("GET", "/v1/items/a?name=b", "", "`name` stands in the path already"),
        ("GET", "/v1/items/a?view=1&view=2", "", "`view` is there twice"),
        ("GET", "/v1/items/a?years=x", "", "`years` is a number"),
        ("GET", "/v1/items/a?deep=1", "", "`deep` is true or false"),
        ("GET", "/v1/items/a?maker=x", "", "`maker` is a message"),
        ("GET", "/v1/items/a?maker.name.x=1", "", "there is no field"),
        ("GET", "/v1/items/a?view=%ff", "", "`%ff` is no text"),
        ("GET", "/v1/items/a?size=HUGE", "", "HUGE"),
        ("GET", "/v1/items/a?years=9999999999", "", ""),
        ("GET", "/v1/items/a", "{}", "this request has no body"),
        ("PUT", "/v1/items", "{", "the body is no JSON"),
        ("PUT", "/v1/items", "[]", ""),
        ("PUT", "/v1/items", r#"{"shelf":1}"#, ""),
        ("PUT", "/v1/items", r#"{"colour":"red"}"#, "colour"),
        ("POST", "/v1/items:add", "{} x", "the body is no JSON"),
        ("GET", "/v2/items/a", "", "nobody knows it"),
        ("PATCH", "/v1/items/a", "", "nobody knows it"),
    ] {
        let wrong = asked(method, target, body).expect_err(target);
        assert!(wrong.contains(why), "{target}: {wrong}");
    }
    let lenient = transcoder(style(false), true);
    assert!(asked_of(&lenient, "GET", "/v1/items/a?colour=red", "").is_ok());
    assert!(asked_of(&lenient, "PUT", "/v1/items", r#"{"colour":"red"}"#).is_ok());
    let small = transcoder(Style { max_message: 4, ..style(false) }, false);
    assert_eq!(asked_of(&small, "PUT", "/v1/items", "{    }").unwrap_err(), "TooLarge");
    // gRPC itself passes.
    let mut grpc = head("POST", "/v1/items:add", &[("content-type", "application/grpc+proto")]);
    assert!(matches!(transcoder(style(false), false).on_request(&mut grpc, &cx()), Step::Pass));
    let mut zipped = head("PUT", "/v1/items", &[("content-encoding", "gzip")]);
    let step = transcoder(style(false), false).on_request(&mut zipped, &cx());
    assert!(matches!(&step, Step::Answer(answer) if answer.status() == 415), "{step:?}");
}

/// What follows a request.
fn follow(filter: &Transcoder, method: &str, target: &str) -> Box<dyn Follow> {
    match filter.on_request(&mut head(method, target, &[]), &cx()) {
        Step::Follow(follow) => follow,
        other => panic!("{other:?}"),
    }
}

fn item(json: Value) -> Vec<u8> {
    let item = RULES.pool.get_message_by_name("shop.v1.Item").unwrap();
    let message = DynamicMessage::deserialize(item, json).unwrap().encode_to_vec();
    [&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat()
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

#[test]
fn a_message_becomes_json_and_an_error_a_status() {
    let filter = transcoder(style(false), false);
    let told = |target: &str,
                head: &[(&str, &str)],
                body: &[u8],
                trailers: &[(&'static str, &'static str)]| {
        let mut follow = follow(&filter, "GET", target);
        let mut head = answer_head(200, head);
        assert!(follow.holds(&head).is_some());
        let body = follow.on_whole(&mut head, Some((Bytes::copy_from_slice(body), fields(trailers))));
        assert!(!head.headers.contains_key("grpc-status") && !head.headers.contains_key("content-length"));
        let kind = head.headers["content-type"].to_str().unwrap().to_string();
        (head.status.as_u16(), kind, String::from_utf8_lossy(&body).into_owned())
    };
    let one =
        item(json!({ "name": "a", "priceCents": "9007199254740993", "size": "LARGE", "photo": "AQI=" }));
    let (status, kind, body) =
        told("/v1/items/a", &[GRPC, ("content-length", "9")], &one, &[("grpc-status", "0")]);
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    assert_eq!(body, r#"{"name":"a","priceCents":"9007199254740993","size":"LARGE","photo":"AQI="}"#);
    let missing = [("grpc-status", "5"), ("grpc-message", "no 100%25 item")];
    let expected = r#"{"code":5,"details":[],"message":"no 100% item"}"#;
    assert_eq!(
        told("/v1/items/a", &[GRPC], b"", &missing),
        (404, "application/json".into(), expected.into())
    );
    assert_eq!(told("/v1/items/a", &[GRPC, missing[0], missing[1]], b"", &[]).2, expected);
    // What is no answer of the method is nobody's.
    for (body, trailers) in [
        (&one[..], &[][..]),
        (&one[..one.len() - 1], &[("grpc-status", "0")]),
        (&[&one[..], &one].concat(), &[("grpc-status", "0")]),
        (&[&[1], &one[1..]].concat(), &[("grpc-status", "0")]),
        (b"\0\0\0\0\x01\xff", &[("grpc-status", "0")]),
        (b"", &[("grpc-status", "0")]),
    ] {
        let (status, _, body) = told("/v1/items/a", &[GRPC], body, trailers);
        assert!(status == 500 && body.contains("\"code\":13"), "{status} {body}");
    }
    let mut broken = follow(&filter, "GET", "/v1/items/a");
    let mut head = answer_head(200, &[GRPC]);
    broken.on_whole(&mut head, None);
    assert_eq!(head.status, 500);
    // mecha's own answers, and those of other servers, are left alone.
    assert_eq!(
        follow(&filter, "GET", "/v1/items/a").holds(&answer_head(503, &[("content-type", "text/plain")])),
        None
    );
    let photo = RULES.pool.get_message_by_name("google.api.HttpBody").unwrap();
    let photo =
        DynamicMessage::deserialize(photo, json!({ "contentType": "image/png", "data": "AQI=" })).unwrap();
    let photo = photo.encode_to_vec();
    let frame = [&[0], &(photo.len() as u32).to_be_bytes()[..], &photo].concat();
    assert_eq!(
        told("/v1/photos/a", &[GRPC], &frame, &[("grpc-status", "0")]),
        (200, "image/png".into(), "\u{1}\u{2}".into())
    );
}

#[test]
fn a_part_of_the_answer_can_be_its_body_and_styles_count() {
    let body = |style: Style, method: &str, target: &str| {
        let mut follow = follow(&transcoder(style, false), method, target);
        let frame = item(json!({ "name": "a", "isNew": false, "priceCents": "1" }));
        let whole = Some((frame.into(), fields(&[("grpc-status", "0")])));
        String::from_utf8(follow.on_whole(&mut answer_head(200, &[GRPC]), whole).to_vec()).unwrap()
    };
    assert_eq!(body(style(false), "POST", "/v1/items/a:reserve"), "[]");
    let own = body(Style { has_own_names: true, ..style(false) }, "GET", "/v1/items/a");
    assert_eq!(own, r#"{"name":"a","price_cents":"1"}"#);
    let all = body(Style { has_defaults: true, ..style(false) }, "GET", "/v1/items/a");
    assert!(all.contains(r#""isNew":false"#) && all.contains(r#""tags":[]"#), "{all}");
}

#[test]
fn a_stream_is_an_array_or_lines_in_whatever_pieces_it_comes() {
    let frames = [item(json!({ "name": "a" })), item(json!({})), item(json!({ "name": "b" }))].concat();
    let told = |has_lines, frames: &[u8], status: &'static str, size: usize| {
        let mut follow = follow(&transcoder(style(has_lines), false), "GET", "/v1/shelves/1/items:watch");
        let mut head = answer_head(200, &[GRPC]);
        assert_eq!(follow.holds(&head), None);
        let mut transform = follow.on_response(&mut head).unwrap();
        let mut out = Vec::new();
        for piece in frames.chunks(size) {
            out.extend(transform.data(Bytes::copy_from_slice(piece))?);
        }
        let (rest, trailers) = transform.end(Some(fields(&[("grpc-status", status)])))?;
        assert!(trailers.is_none());
        out.extend(rest);
        Ok::<_, Refusal>(String::from_utf8(out).unwrap())
    };
    for size in [1, 2, 7, 1000] {
        assert_eq!(told(false, &frames, "0", size).as_deref(), Ok(r#"[{"name":"a"},{},{"name":"b"}]"#));
        assert_eq!(told(true, &frames, "0", size).as_deref(), Ok("{\"name\":\"a\"}\n{}\n{\"name\":\"b\"}\n"));
    }
    assert_eq!(told(false, b"", "0", 1).as_deref(), Ok("[]"));
    let error = r#"{"error":{"code":14,"details":[],"message":""}}"#;
    assert_eq!(told(false, &item(json!({})), "14", 9), Ok(format!("[{{}},{error}]")));
    assert_eq!(told(true, b"", "14", 9), Ok(format!("{error}\n")));
    assert_eq!(told(false, &frames[..frames.len() - 1], "0", 9), Err(Refusal::UpstreamGone));
    assert_eq!(told(false, b"\x01\0\0\0\0", "0", 9), Err(Refusal::UpstreamConfused));
    assert_eq!(told(false, b"\0\xff\0\0\0", "0", 9), Err(Refusal::TooLarge));
    // One that fails at once has its status.
    let mut follow = follow(&transcoder(style(false), false), "GET", "/v1/shelves/1/items:watch");
    let mut head = answer_head(200, &[GRPC, ("grpc-status", "7")]);
    assert!(follow.holds(&head).is_some());
    follow.on_whole(&mut head, Some((Bytes::new(), HeaderMap::new())));
    assert_eq!(head.status, 403);
}

#[test]
fn a_set_that_tells_of_nothing_is_an_error_of_the_configuration() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/grpc_json/shop.pb");
    assert!(Rules::new(SET, &["shop.v1.Shop".into()], false).is_ok());
    assert!(Rules::new(SET, &["shop.v1.Cart".into()], false).unwrap_err().contains("there is shop.v1.Shop"));
    assert!(Rules::new(b"\xff\xff", &[], false).unwrap_err().contains("this is no set"));
    assert!(Rules::new(b"", &[], false).unwrap_err().contains("--include_imports"));
    let said = refused(&KIND, &format!("- grpc_json: {{ descriptors: {path}, services: [x.Y] }}"));
    assert!(said.contains("descriptors: there is no service `x.Y`") && said.contains("protoc"), "{said}");
    assert!(refused(&KIND, "- grpc_json: { descriptors: /nowhere.pb }").contains("/nowhere.pb"));
}
