//! Every version on either side.

use bytes::Bytes;
use hyper::header::HeaderMap;
use hyper::{Request, Response};

use super::client::{Client, Pieces, Version, run, serve};
use crate::support::Mecha;

/// The scheme of a cluster whose servers speak `version`.
fn scheme(version: Version) -> &'static str {
    match version {
        Version::One => "http",
        Version::Two => "h2c",
    }
}

/// Runs `test` for each version of clients with each of servers that answer with `answer`.
fn each_pair<A>(answer: A, test: impl AsyncFn(&mut Client, &str))
where
    A: Fn(super::client::Whole<hyper::http::request::Parts>) -> Response<Pieces> + Clone + 'static,
{
    for front in Version::BOTH {
        for back in Version::BOTH {
            let answer = answer.clone();
            run(async {
                let port = serve(back, answer).await;
                let mecha = Mecha::start("http", &format!("{}://127.0.0.1:{port}", scheme(back)));
                let mut client = Client::new(mecha.port, front).await;
                test(&mut client, &format!("{front:?} to {back:?}")).await;
                assert!(mecha.metric("mecha_upstream_replies_total{") > 0.0, "it went another way");
            });
        }
    }
}

/// What no copy by chance is equal to.
fn noise(count: usize) -> Vec<u8> {
    (0..count as u32).flat_map(|at| at.wrapping_mul(0x9e37_79b1).to_le_bytes()).take(count).collect()
}

#[test]
fn requests_and_answers_arrive_as_they_were_sent() {
    let echo = |request: super::client::Whole<hyper::http::request::Parts>| {
        let head = request.head;
        let host = head.uri.authority().map(ToString::to_string);
        let host = host.unwrap_or_else(|| head.headers["host"].to_str().unwrap().to_string());
        Response::builder()
            .status(201)
            .header("x-line", format!("{} {} {host}", head.method, head.uri.path_and_query().unwrap()))
            .header("x-given", head.headers.get("x-given").cloned().unwrap_or("none".parse().unwrap()))
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(Pieces::of([request.body]))
            .unwrap()
    };
    each_pair(echo, async |client, pair| {
        for size in [0, 1, 70_000, 3 << 20] {
            let body = noise(size);
            let pieces = body.chunks(16_000).map(Bytes::copy_from_slice);
            let request = Request::put("/a%20b?c=%2F&d")
                .header("x-given", "as it is")
                .body(Pieces::of(pieces))
                .unwrap();
            let answer = client.send(request).await.unwrap();
            assert_eq!(answer.status(), 201, "{pair}");
            assert_eq!(answer.header("x-line"), "PUT /a%20b?c=%2F&d example.com", "{pair}");
            assert_eq!(answer.header("x-given"), "as it is", "{pair}");
            assert_eq!(answer.head.headers.get_all("set-cookie").iter().count(), 2, "{pair}");
            assert!(answer.body == body, "{pair}: {} of {size} bytes, or others", answer.body.len());
        }
    });
}

#[test]
fn trailers_pass_in_both_directions() {
    let answer = |request: super::client::Whole<hyper::http::request::Parts>| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", request.trailers.get("x-asked").cloned().unwrap_or("none".parse().unwrap()));
        Response::builder()
            .header("trailer", "x-sum")
            .body(Pieces::of(["answer"]).with_trailers(trailers))
            .unwrap()
    };
    each_pair(answer, async |client, pair| {
        let trailers = HeaderMap::from_iter([("x-asked".parse().unwrap(), "7".parse().unwrap())]);
        let request = Request::post("/")
            .header("te", "trailers")
            .header("trailer", "x-asked")
            .body(Pieces::of(["question"]).with_trailers(trailers))
            .unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.body, "answer", "{pair}");
        assert_eq!(answer.trailers.get("x-sum").map(|value| value.to_str().unwrap()), Some("7"), "{pair}");
    });
}

#[test]
fn answers_without_a_body_end() {
    let answer = |request: super::client::Whole<hyper::http::request::Parts>| {
        let status = request.head.uri.path().trim_start_matches('/').parse::<u16>().unwrap();
        Response::builder().status(status).header("x-is", "there").body(Pieces::default()).unwrap()
    };
    each_pair(answer, async |client, pair| {
        for status in [204, 304, 200, 404, 503, 200] {
            let answer = client.get(&format!("/{status}")).await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.header("x-is")), (status, "there"), "{pair}");
            let head = Request::head(format!("/{status}")).body(Pieces::default()).unwrap();
            assert_eq!(client.send(head).await.unwrap().status().as_u16(), status, "{pair}");
        }
    });
}
