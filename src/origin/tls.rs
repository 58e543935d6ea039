//! TLS as a pure pipe between a socket's bytes and a session's; certificates are always verified.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, RootCertStore};

use crate::origin::OriginFailed;

/// Plain bytes handed out at once, at most.
const PLAIN_LEN_MAX: usize = 64 * 1024;

/// The roots are of no use; ends the start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRoots {
    #[error("the CA file holds no usable certificate: {0}")]
    CaFile(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// One client connection. After each input: drain `poll_cipher` to the socket and `poll_plain` to
/// the session.
pub struct Tls {
    conn: ClientConnection,
    /// Decrypted and not yet handed out.
    plain: Vec<u8>,
    closed: bool,
}

impl Tls {
    /// `name`: the URL's host, which the certificate must be for.
    pub fn new(config: Arc<ClientConfig>, name: &str) -> Result<Self, OriginFailed> {
        // A URL writes IPv6 addresses in brackets.
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| OriginFailed::lasting("no name that a certificate can be for"))?;
        let mut conn = ClientConnection::new(config, name)
            .map_err(|error| OriginFailed::lasting(format!("TLS: {error}")))?;
        // Requests are short, and are queued whole before the handshake is over.
        conn.set_buffer_limit(None);
        Ok(Self {
            conn,
            plain: Vec::new(),
            closed: false,
        })
    }

    /// Takes all of `bytes`. On an error `poll_cipher` still holds the alert for the other side.
    pub fn handle_cipher(&mut self, mut bytes: &[u8]) -> Result<(), OriginFailed> {
        while !bytes.is_empty() && !self.closed {
            let read = self.conn.read_tls(&mut bytes);
            let read = read.expect("a slice is read without error, and `drain` empties the buffer");
            let state = self
                .conn
                .process_new_packets()
                .map_err(|error| OriginFailed::lasting(format!("TLS: {error}")))?;
            self.closed = state.peer_has_closed();
            self.drain(state.plaintext_bytes_to_read());
            if read == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Decrypted bytes, in order.
    pub fn poll_plain(&mut self) -> Option<Vec<u8>> {
        if self.plain.is_empty() {
            return None;
        }
        if self.plain.len() <= PLAIN_LEN_MAX {
            return Some(std::mem::take(&mut self.plain));
        }
        let rest = self.plain.split_off(PLAIN_LEN_MAX);
        Some(std::mem::replace(&mut self.plain, rest))
    }

    /// Bytes for the other side; before the handshake is over they wait for it.
    pub fn send_plain(&mut self, bytes: &[u8]) {
        let sent = self.conn.writer().write_all(bytes);
        sent.expect("the buffer has no limit");
    }

    /// Bytes for the socket.
    pub fn poll_cipher(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        while self.conn.wants_write() {
            let wrote = self.conn.write_tls(&mut out);
            wrote.expect("a Vec takes all");
        }
        (!out.is_empty()).then_some(out)
    }

    /// The handshake is over and the certificate good.
    pub fn established(&self) -> bool {
        !self.conn.is_handshaking()
    }

    /// The other side said that nothing follows; a socket that ends before was cut.
    pub const fn closed_cleanly(&self) -> bool {
        self.closed
    }

    /// Says that nothing follows.
    pub fn close(&mut self) {
        self.conn.send_close_notify();
    }

    fn drain(&mut self, len: usize) {
        let start = self.plain.len();
        self.plain.resize(start + len, 0);
        let read = self.conn.reader().read_exact(&mut self.plain[start..]);
        read.expect("rustls has just counted them");
    }
}

/// Verifies against the PEM roots of `ca_file` and the machine's own, or those of Mozilla where
/// the machine has none. Reads the machine's roots: for start-up only.
pub fn config(ca_file: Option<&[u8]>) -> Result<Arc<ClientConfig>, BadRoots> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(pem) = ca_file {
        add_pem(&mut roots, pem)?;
    }
    with_roots(roots)
}

fn add_pem(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), BadRoots> {
    let mut found = false;
    for cert in CertificateDer::pem_slice_iter(pem) {
        let cert = cert.map_err(|error| BadRoots::CaFile(error.to_string()))?;
        let added = roots.add(cert);
        added.map_err(|error| BadRoots::CaFile(error.to_string()))?;
        found = true;
    }
    if found {
        Ok(())
    } else {
        Err(BadRoots::CaFile(String::from("no CERTIFICATE section")))
    }
}

fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, BadRoots> {
    // Named here: with two providers in the build the process-wide default would panic.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BadRoots::Setup(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection};
    use url::Url;

    use super::*;
    use crate::origin::pool::{Output, Pool};
    use crate::units::{ByteRange, Time};

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    fn authority() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A server with a certificate for `names`, signed by `issuer` or by itself.
    fn server(names: &[&str], issuer: Option<&Authority>, last_year: i32) -> ServerConnection {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(last_year, 1, 1);
        let cert = match issuer {
            Some(authority) => params.signed_by(&key, &authority.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        ServerConnection::new(Arc::new(config)).unwrap()
    }

    fn client(authority: &Authority, name: &str) -> Tls {
        let mut roots = RootCertStore::empty();
        add_pem(&mut roots, authority.pem.as_bytes()).unwrap();
        Tls::new(with_roots(roots).unwrap(), name).unwrap()
    }

    /// Carries bytes to and fro, `step` at a time, until both are silent; what the server read.
    fn carry(tls: &mut Tls, server: &mut ServerConnection, step: usize) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        loop {
            let mut moved = false;
            if let Some(cipher) = tls.poll_cipher() {
                moved = true;
                server.read_tls(&mut cipher.as_slice()).unwrap();
                // A server that gets our alert is at its end too.
                if let Ok(state) = server.process_new_packets() {
                    let start = plain.len();
                    plain.resize(start + state.plaintext_bytes_to_read(), 0);
                    server.reader().read_exact(&mut plain[start..]).unwrap();
                }
            }
            let mut cipher = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut cipher).unwrap();
            }
            for part in cipher.chunks(step) {
                moved = true;
                if let Err(error) = tls.handle_cipher(part) {
                    assert!(tls.poll_cipher().is_some(), "the other side is told");
                    assert_eq!(error.retry, None);
                    return Err(error.why);
                }
            }
            if !moved {
                return Ok(plain);
            }
        }
    }

    fn read_all(tls: &mut Tls) -> Vec<u8> {
        std::iter::from_fn(|| tls.poll_plain()).flatten().collect()
    }

    #[test]
    fn a_good_certificate_is_taken_and_bytes_flow() {
        let authority = authority();
        for (name, in_url) in [
            ("host.example", "host.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "[::1]"),
        ] {
            let mut server = server(&[name], Some(&authority), 4000);
            let mut tls = client(&authority, in_url);
            tls.send_plain(b"GET / HTTP/1.1\r\n\r\n");
            assert!(!tls.established());
            let asked = carry(&mut tls, &mut server, 1000).unwrap();
            assert_eq!(asked, b"GET / HTTP/1.1\r\n\r\n");
            assert!(tls.established());
            assert_eq!(server.alpn_protocol(), Some(b"http/1.1".as_slice()));
        }
    }

    #[test]
    fn much_arrives_whole_in_any_pieces() {
        let authority = authority();
        let body: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        for step in [1, 7, 16_400, 1 << 20] {
            let mut server = server(&["host"], Some(&authority), 4000);
            let mut tls = client(&authority, "host");
            carry(&mut tls, &mut server, step).unwrap();
            server.set_buffer_limit(None);
            server.writer().write_all(&body).unwrap();
            carry(&mut tls, &mut server, step).unwrap();
            assert_eq!(read_all(&mut tls), body, "in pieces of {step}");
        }
    }

    #[test]
    fn bad_certificates_are_refused() {
        let authority = authority();
        for (mut server, why) in [
            (
                server(&["other.example"], Some(&authority), 4000),
                "wrong host",
            ),
            (server(&["host.example"], Some(&authority), 2020), "expired"),
            (server(&["host.example"], None, 4000), "self-signed"),
            (
                server(&["host.example"], Some(&self::authority()), 4000),
                "unknown authority",
            ),
        ] {
            let mut tls = client(&authority, "host.example");
            tls.send_plain(b"GET / HTTP/1.1\r\n\r\n");
            let error = carry(&mut tls, &mut server, 1 << 20).expect_err(why);
            assert!(error.contains("certificate"), "{why}: {error}");
            assert!(!tls.established(), "{why}");
        }
    }

    /// A body that only the connection's end delimits, by TLS; `cleanly`: with `close_notify`.
    fn body_until_close(cleanly: bool) -> Vec<String> {
        let authority = authority();
        let mut server = server(&["host"], Some(&authority), 4000);
        let mut tls = client(&authority, "host");
        let mut pool = Pool::new(
            Url::parse("https://host/film").unwrap(),
            String::from("bittube-1"),
        );
        let now = Time::from_secs(1);
        pool.fetch(now, 1, ByteRange::new(0, u64::MAX), false);
        let Some(Output::Connect { conn, .. }) = pool.poll_output() else {
            panic!("it connects first");
        };
        pool.handle_connected(now, conn, Ok(()));
        let Some(Output::Send { bytes, .. }) = pool.poll_output() else {
            panic!("then it asks");
        };
        tls.send_plain(&bytes);
        carry(&mut tls, &mut server, 99).unwrap();
        server
            .writer()
            .write_all(b"HTTP/1.0 200 OK\r\n\r\nhalf a film")
            .unwrap();
        if cleanly {
            server.send_close_notify();
        }
        carry(&mut tls, &mut server, 99).unwrap();
        let plain = read_all(&mut tls);
        assert_eq!(pool.handle_bytes(now, conn, &plain), plain.len());
        if tls.closed_cleanly() {
            pool.handle_closed(now, conn);
        } else {
            pool.handle_broken(now, conn);
        }
        let outputs = std::iter::from_fn(|| pool.poll_output());
        outputs.map(|output| format!("{output:?}")).collect()
    }

    #[test]
    fn a_missing_close_notify_is_a_body_cut_short() {
        let clean = body_until_close(true);
        assert!(
            clean.iter().any(|output| output.starts_with("Done")),
            "{clean:?}"
        );
        let cut = body_until_close(false);
        assert!(
            !cut.iter().any(|output| output.starts_with("Done")),
            "{cut:?}"
        );
        assert!(
            cut.iter().any(|output| output.starts_with("Connect")),
            "{cut:?}"
        );
    }

    #[test]
    fn closing_is_said() {
        let authority = authority();
        let mut server = server(&["host"], Some(&authority), 4000);
        let mut tls = client(&authority, "host");
        carry(&mut tls, &mut server, 999).unwrap();
        tls.close();
        let cipher = tls.poll_cipher().unwrap();
        server.read_tls(&mut cipher.as_slice()).unwrap();
        assert!(server.process_new_packets().unwrap().peer_has_closed());
    }

    #[test]
    fn a_ca_file_holds_certificates() {
        let authority = authority();
        assert!(config(Some(authority.pem.as_bytes())).is_ok());
        assert!(matches!(config(Some(b"")), Err(BadRoots::CaFile(_))));
        let torn = authority.pem.replace("-----END", "-----");
        assert!(matches!(
            config(Some(torn.as_bytes())),
            Err(BadRoots::CaFile(_))
        ));
        let key = KeyPair::generate().unwrap().serialize_pem();
        assert!(matches!(
            config(Some(key.as_bytes())),
            Err(BadRoots::CaFile(_))
        ));
    }

    #[test]
    fn a_name_must_be_one() {
        let authority = authority();
        let mut roots = RootCertStore::empty();
        add_pem(&mut roots, authority.pem.as_bytes()).unwrap();
        let config = with_roots(roots).unwrap();
        assert!(Tls::new(config, "not a name").is_err());
    }
}
