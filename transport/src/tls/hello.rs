//! What a client asks for in the first message of its handshake, before anybody answers.

use rustls::server::Acceptor;

/// What the first bytes of a client are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The beginning of a ClientHello, as far as can be told.
    Incomplete,
    /// No TLS.
    None,
    /// A ClientHello (RFC 8446, section 4.1.2).
    Whole {
        /// The name of the server that it wants, in small letters (RFC 6066, section 3).
        name: Option<String>,
        /// What it wants to speak (RFC 7301), in its order.
        alpn: Vec<Vec<u8>>,
    },
}

/// Reads a client's first bytes.
pub fn hello(bytes: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(str::to_ascii_lowercase);
                let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
                return Hello::Whole { name, alpn };
            }
            Err(_) => return Hello::None,
        }
    }
    Hello::Incomplete
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    #[test]
    fn a_hello_is_read_when_it_is_whole_and_not_before() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = ServerName::try_from("App.Example").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(hello(&bytes[..end]), Hello::Incomplete, "{end}");
        }
        let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        assert_eq!(hello(&bytes), Hello::Whole { name: Some("app.example".into()), alpn });
        assert_eq!(hello(b"GET / HTTP/1.1\r\n\r\n"), Hello::None);
        assert_eq!(hello(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00"), Hello::None);
    }
}
