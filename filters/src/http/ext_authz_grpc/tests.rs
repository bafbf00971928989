use super::messages::{BoolValue, HeaderValue as Field, HttpStatus};
use super::*;
use crate::http::testing::{answer, cx, head, open, refused};

fn field(key: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
    let header = Some(Field { key: key.into(), value: value.into(), raw_value: Vec::new() });
    HeaderValueOption { header, append: append.map(|value| BoolValue { value }), append_action }
}

#[test]
fn the_question_tells_of_the_client_and_of_the_head() {
    let rules = Rules {
        cluster: "opa".into(),
        timeout: Duration::from_secs(1),
        context: [("policy".to_string(), "shop".to_string())].into(),
        is_open_on_failure: false,
    };
    let fields = [("host", "a.example"), ("x-a", "1"), ("x-a", "2")];
    let cx = HttpCx { length: Some(7), is_tls: true, ..cx() };
    let asked = question(&rules, &head("POST", "/cart?id=7", &fields), &cx).attributes.unwrap();
    let http = asked.request.unwrap().http.unwrap();
    assert_eq!(
        (http.method.as_str(), http.path.as_str(), http.host.as_str()),
        ("POST", "/cart?id=7", "a.example")
    );
    assert_eq!((http.scheme.as_str(), http.size, http.headers["x-a"].as_str()), ("https", 7, "1,2"));
    assert_eq!(asked.context_extensions, rules.context);
}

#[test]
fn who_may_pass_gets_fields_that_nobody_can_forge() {
    let ok = OkHttpResponse {
        headers: vec![
            field("x-user", "alice", None, 0),
            field("x-role", "b", Some(true), 0),
            field("x-kept", "2", None, 1),
            field("x-none", "1", None, 3),
            field("host", "evil", None, 0),
            field("bad name", "1", None, 0),
            field("x-bad", "a\nb", None, 0),
        ],
        headers_to_remove: vec!["x-secret".into(), "content-length".into()],
        response_headers_to_add: vec![field("x-answer", "2", None, 0), field("x-set", "2", Some(false), 0)],
    };
    let fields = [
        ("host", "a"),
        ("x-user", "root"),
        ("x-role", "a"),
        ("x-kept", "1"),
        ("x-secret", "1"),
        ("content-length", "3"),
    ];
    let mut head = head("GET", "/", &fields);
    let step = judged(CheckResponse { ok: Some(ok), ..CheckResponse::default() }, &mut head, false);
    let Step::Follow(mut follow) = step else { panic!("{step:?}") };
    let all = |headers: &HeaderMap, name: &str| {
        headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap().to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (name, value) in [
        ("host", "a"),
        ("x-user", "alice"),
        ("x-role", "a b"),
        ("x-kept", "1"),
        ("x-none", ""),
        ("x-secret", ""),
        ("x-bad", ""),
        ("content-length", "3"),
    ] {
        assert_eq!(all(&head.headers, name), value, "{name}");
    }
    let mut answer = answer(200, &[("x-answer", "1"), ("x-set", "1")]);
    assert!(follow.on_response(&mut answer).is_none());
    assert_eq!((all(&answer.headers, "x-answer"), all(&answer.headers, "x-set")), ("1 2".into(), "2".into()));
}

#[test]
fn who_may_not_is_answered_as_the_server_says() {
    let asked = |code: i32, http: i32, is_grpc| {
        let status = Some(Status { code, message: "no".into() });
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus { code: http }),
            headers: vec![field("location", "/login", None, 0)],
            body: "go away".into(),
        };
        let response = CheckResponse { status, denied: Some(denied), ok: None };
        let Step::Answer(answer) = judged(response, &mut head("GET", "/", &[]), is_grpc) else { panic!() };
        answer
    };
    let answer = asked(16, 302, false);
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["location"]),
        (302, &HeaderValue::from_static("/login"))
    );
    assert_eq!(answer.body(), "go away");
    for nonsense in [0, 99, 100, -1, 70_000] {
        assert_eq!(asked(7, nonsense, false).status(), 403, "{nonsense}");
    }
    let answer = asked(16, 401, true);
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["grpc-status"]),
        (200, &HeaderValue::from_static("16"))
    );
    assert_eq!(answer.headers()["grpc-message"], "go away");
    let plain = CheckResponse {
        status: Some(Status { code: 7, message: String::new() }),
        ..CheckResponse::default()
    };
    let Step::Answer(answer) = judged(plain, &mut head("GET", "/", &[]), false) else { panic!() };
    assert_eq!(answer.status(), 403);
}

#[test]
fn nobody_passes_where_nobody_can_be_asked() {
    let filter = open(&KIND, "- ext_authz_grpc: { cluster: opa }");
    let step = filter.on_request(&mut head("GET", "/", &[]), &cx());
    assert!(matches!(step, Step::Refuse(Refusal::NoRoute, _)), "{step:?}");
    assert!(
        refused(&KIND, "- ext_authz_grpc: { cluster: a, context: [x] }")
            .contains("`x` is no name with a value")
    );
}
