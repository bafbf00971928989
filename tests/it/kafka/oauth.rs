//! Clients that show a token which somebody else has signed.
//!
//! The client is another mecha, which shows the token of a file for kcat; what it says is known to be right before Kafka itself.

use std::io::{Read, Write};

use super::sasl::{File, turned_away};
use super::{answer, connect, kcat, records, request, topic};
use crate::support::{Issuer, Mecha, kafka};

/// A mecha that shows this token to another one.
fn showing(token: &File, to: u16) -> Mecha {
    Mecha::configured(&format!(
        "listeners:\n- {{ listen: \"kafka://127.0.0.1:0\", to: other }}\nclusters:\n  other:\n    to: \"kafka://127.0.0.1:{to}\"\n    \
         auth: {{ mechanism: OAUTHBEARER, password_file: {} }}\nworkers: 1\n",
        token.path()
    ))
}

#[test]
fn tokens_of_the_issuer_let_clients_in_until_they_end() {
    let Some(kafka) = kafka() else { return };
    let issuer = Issuer::new();
    let keys = File::with("keys.json", &issuer.jwks());
    let mecha = Mecha::configured(&format!(
        "listeners:\n- listen: \"kafka://127.0.0.1:0\"\n  to: \"{}\"\n  oauth: {{ jwks_file: {}, audience: kafka }}\nworkers: 1\n",
        kafka.target(),
        keys.path()
    ));
    let good = File::with("good.token", &issuer.token("kafka", 3600));
    let client = showing(&good, mecha.port);
    topic(&client, "by-token", 1);
    kcat(&client, &["-P", "-t", "by-token"], "1\n2\n");
    assert_eq!(records(&client, "by-token")[&0], [1, 2]);
    // Signed by somebody else, for somebody else.
    for (at, token) in [Issuer::new().token("kafka", 3600), issuer.token("other", 3600)].iter().enumerate() {
        let token = File::with(&format!("bad-{at}.token"), token);
        turned_away(&showing(&token, mecha.port), &[]);
    }
    turned_away(&mecha, &[]);
    let pages = ["/config", "/metrics", "/clusters"].map(|page| client.get(page) + &mecha.get(page)).concat();
    assert!(!pages.contains(&std::fs::read_to_string(good.path()).unwrap()), "{pages}");

    let ending = File::with("ending.token", &issuer.token("kafka", 2));
    let client = showing(&ending, mecha.port);
    let mut open = connect(&client);
    open.write_all(&request(3, 1, 7, &[0; 4])).unwrap();
    assert_eq!(answer(&mut open)[..4], [0, 0, 0, 7]);
    // It ends in an orderly way, without a request having been made.
    assert_eq!(open.read(&mut [0]).unwrap(), 0);
}
