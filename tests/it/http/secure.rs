//! HTTP over TLS: the handshake says which version.

use super::client::{Client, Version, run};
use super::counting;
use crate::support::Mecha;
use crate::tls::Folder;

/// A door without TLS before one with TLS before a server, and how many connections there are between the two after ten
/// requests at a time.
fn connections(name: &str, of_cluster: &str) -> f64 {
    let (server, heard) = counting();
    let folder = Folder::new(name);
    let inner = folder.mecha("https", "", &format!("http://127.0.0.1:{}", server.port));
    let outer = Mecha::configured(&format!(
        "workers: 1\nlisteners: [ {{ listen: 'http://127.0.0.1:0', to: inner }} ]\nclusters:\n  inner:\n    \
         to: https://127.0.0.1:{}\n    tls: {{ ca: {}, server_name: localhost{of_cluster} }}\n",
        inner.port,
        folder.file("ca.pem")
    ));
    run(async {
        let mut clients = Vec::new();
        for number in 0..10 {
            clients.push(Client::new(outer.port, Version::BOTH[number % 2]).await);
        }
        let all = clients.iter_mut().map(|client| client.get("/"));
        for answer in join(all).await {
            assert_eq!(answer.unwrap().status(), 200);
        }
    });
    assert_eq!(heard.all().len(), 10);
    assert!(heard.all().iter().all(|request| request.to_lowercase().contains("host: example.com\r\n")));
    outer.metric("mecha_upstream_connections{")
}

/// Waits for all of them at a time.
async fn join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in waiting.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(cx) {
                *output = Some(ready);
            }
        }
        if waiting.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}

#[test]
fn servers_that_agree_to_http2_get_all_requests_on_one_connection() {
    assert_eq!(connections("http-two", ""), 1.0);
}

#[test]
fn servers_that_agree_to_http1_get_a_connection_for_each_request_at_a_time() {
    assert!(connections("http-one", ", alpn: [http/1.1]") > 1.0);
}
