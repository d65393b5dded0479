//! https: which certificates are trusted by whom, and the way through a proxy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// A certificate authority.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn write(&self, folder: &Path, name: &str) -> std::path::PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.0.pem()).unwrap();
        path
    }

    /// A certificate for 127.0.0.1 and localhost, good for server and client, with its key.
    fn issue(&self) -> (rcgen::Certificate, KeyPair) {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (parameters.signed_by(&key, &*self.0).unwrap(), key)
    }
}

/// A front that speaks TLS and passes everything on to `server`, one request a connection.
pub(super) fn tls_front(authority: &Authority, clients: bool, server: &Server) -> u16 {
    let (certificate, key) = authority.issue();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if clients {
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    front(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap(), server)
}

fn front(config: ServerConfig, server: &Server) -> u16 {
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let behind = server.name();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (config, behind) = (Arc::clone(&config), behind.clone());
            std::thread::spawn(move || {
                let connection = ServerConnection::new(config).unwrap();
                let mut tls = StreamOwned::new(connection, stream.unwrap());
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    if !matches!(tls.read(&mut byte), Ok(1)) {
                        return;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap().replacen("\r\n", "\r\nConnection: close\r\n", 1);
                let mut inner = TcpStream::connect(behind).unwrap();
                inner.write_all(head.as_bytes()).unwrap();
                inner.shutdown(std::net::Shutdown::Write).unwrap();
                let _ = std::io::copy(&mut inner, &mut tls);
                tls.conn.send_close_notify();
                let _ = tls.flush();
            });
        }
    });
    port
}

struct World {
    folder: tempfile::TempDir,
    authority: Authority,
    server: Server,
    digest: BlobDigest,
}

impl World {
    fn new() -> Self {
        let app = Image::new("layer");
        let content = serve(&app);
        let server = Server::start(move |request| content.answer(request).header("Connection", "close"));
        let folder = tempfile::tempdir().unwrap();
        Self { folder, authority: Authority::new(), server, digest: app.digest() }
    }

    fn settings(&self, port: u16) -> RegistrySettings {
        RegistrySettings {
            name: "registry.corp".to_owned(),
            endpoint: Some(format!("https://127.0.0.1:{port}")),
            ca: Some(self.authority.write(self.folder.path(), "ca.pem")),
            ..RegistrySettings::default()
        }
    }

    fn ask(&self, setup: &Setup) -> Result<(), RegistryError> {
        let reference = ImageRef::in_registry("registry.corp", "team/app:1").unwrap();
        let found = resolve(&setup.build(), &reference)?;
        assert_eq!(found.digest, self.digest);
        Ok(())
    }
}

#[test]
fn a_registrys_ca_is_trusted_and_nobody_elses() {
    let world = World::new();
    let port = tls_front(&world.authority, false, &world.server);
    let settings = world.settings(port);
    world.ask(&Setup::new().with(settings.clone())).unwrap();

    let stranger = Authority::new().write(world.folder.path(), "stranger.pem");
    let distrusting = Setup::new().with(RegistrySettings { ca: Some(stranger), ..settings.clone() });
    let error = world.ask(&distrusting).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("the certificate of 127.0.0.1:{port} is not trusted")),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("ca ="));
    assert!(!distrusting.ear.all().contains("trying again"));

    let insecure = Setup::new().with(RegistrySettings { ca: None, insecure: true, ..settings });
    world.ask(&insecure).unwrap();
    assert_eq!(insecure.ear.all().matches("certificates are not checked").count(), 1);
}

#[test]
fn a_ca_counts_where_the_registry_redirects_to() {
    let world = World::new();
    let cdn = tls_front(&world.authority, false, &world.server);
    let front = Server::start(move |request| {
        Response::redirect(&format!("https://localhost:{cdn}{}", request.target))
            .header("Connection", "close")
    });
    let port = tls_front(&world.authority, false, &front);
    world.ask(&Setup::new().with(world.settings(port))).unwrap();
    // `insecure` is about the registry's own host.
    let insecure = RegistrySettings { ca: None, insecure: true, ..world.settings(port) };
    assert_eq!(world.ask(&Setup::new().with(insecure)).unwrap_err().kind(), "tls");
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    let world = World::new();
    let plain = world.server.name();
    let front = Server::start(move |request| {
        Response::redirect(&format!("http://{plain}{}", request.target)).header("Connection", "close")
    });
    let port = tls_front(&world.authority, false, &front);
    assert_eq!(world.ask(&Setup::new().with(world.settings(port))).unwrap_err().kind(), "redirect");
    assert_eq!(world.server.lines().len(), 0);
}

#[test]
fn a_client_certificate_is_presented() {
    let world = World::new();
    let port = tls_front(&world.authority, true, &world.server);
    let settings = world.settings(port);
    assert!(world.ask(&Setup::new().with(settings.clone())).is_err());
    let (certificate, key) = world.authority.issue();
    let (chain, private) = (world.folder.path().join("cert.pem"), world.folder.path().join("key.pem"));
    std::fs::write(&chain, certificate.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let own =
        RegistrySettings { client_cert: Some(chain), client_key: Some(private.clone()), ..settings.clone() };
    world.ask(&Setup::new().with(own.clone())).unwrap();

    std::fs::write(&private, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let error = world.ask(&Setup::new().with(own)).unwrap_err();
    assert!(error.to_string().contains("do not fit"), "{error}");
}

#[test]
fn plain_http_on_an_https_port_is_said_plainly() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let error = world.ask(&Setup::new().with(world.settings(port))).unwrap_err();
    assert!(error.to_string().starts_with("no TLS connection to 127.0.0.1"), "{error}");
    assert!(error.hint().unwrap().contains("http://"));
}

#[test]
fn https_goes_through_a_proxy_by_connect() {
    let world = World::new();
    let port = tls_front(&world.authority, false, &world.server);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut lines = Vec::new();
            while lines.last().is_none_or(|line: &String| line != "\r\n") {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                lines.push(line);
            }
            assert_eq!(lines[0], "CONNECT registry.invalid:443 HTTP/1.1\r\n");
            let authorized =
                |line: &String| line.trim().eq_ignore_ascii_case("proxy-authorization: Basic dXNlcjpwYXNz");
            assert!(lines.iter().any(authorized), "{lines:?}");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let inner = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut from, mut to) = (inner.try_clone().unwrap(), inner);
            let mut back = stream.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut from, &mut back));
            std::thread::spawn(move || std::io::copy(&mut stream, &mut to));
        }
    });
    let settings =
        RegistrySettings { endpoint: Some("https://registry.invalid".to_owned()), ..world.settings(port) };
    let setup = Setup::new().with(settings).variable("HTTPS_PROXY", &format!("http://user:pass@{proxy}"));
    // The certificate is for 127.0.0.1: that it is refused for that reason shows that the tunnel
    // works.
    let error = world.ask(&setup).unwrap_err();
    assert!(error.to_string().contains("certificate of registry.invalid is not trusted"), "{error}");
}

/// A program of openssl's in `folder`.
fn openssl(folder: &Path, arguments: &[&str]) -> bool {
    let run = std::process::Command::new("openssl").args(arguments).current_dir(folder).output();
    let Ok(output) = run else {
        std::io::Write::write_all(&mut std::io::stderr(), b"openssl is not installed: not tried\n").unwrap();
        return false;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    true
}

/// A front with the certificate `cert.pem` and `key.pem` of `folder`.
fn front_with_files(folder: &Path, server: &Server) -> u16 {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    front(config, server)
}

/// `openssl req -x509` for 127.0.0.1 as it is, and with what it is told besides.
fn self_signed(folder: &Path, more: &[&str]) -> bool {
    let arguments = [
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj",
        "/CN=x",
    ];
    openssl(folder, &[&arguments[..], more].concat())
}

#[test]
fn a_self_signed_certificate_that_is_its_own_ca_is_trusted_for_its_name_and_time() {
    let name = ["-addext", "subjectAltName=IP:127.0.0.1"];
    for (more, expected) in [
        (&name[..], Ok(())),
        (
            &["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
            Ok(()),
        ),
        (&["-addext", "subjectAltName=DNS:a.corp"], Err("it is for a.corp")),
        (&[], Err("names no host")),
        (
            &[name[0], name[1], "-not_before", "20200101000000Z", "-not_after", "20210101000000Z"],
            Err("it expired on 2021-01-01"),
        ),
        (
            &[name[0], name[1], "-not_before", "21000101000000Z", "-not_after", "21010101000000Z"],
            Err("but from 2100-01-01 on"),
        ),
    ] {
        let world = World::new();
        let folder = world.folder.path();
        if !self_signed_at(folder, more) {
            return;
        }
        let port = front_with_files(folder, &world.server);
        let settings = RegistrySettings { ca: Some(folder.join("cert.pem")), ..world.settings(port) };
        let found = world.ask(&Setup::new().with(settings.clone()));
        match (&found, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(words)) => {
                assert!(error.to_string().contains(words), "{more:?}: {error}");
                assert!(!error.hint().unwrap().contains("http://"), "{:?}", error.hint());
            }
            _ => panic!("{more:?}: {found:?}"),
        }
        // Without it, nobody here trusts it, whatever it calls itself.
        if expected.is_ok() {
            let error = world.ask(&Setup::new().with(world.settings(port))).unwrap_err();
            let text = format!("{error}");
            assert!(text.contains("nobody") && !text.contains("CaUsed"), "{text}");
            assert!(error.hint().unwrap().contains("`ca = "), "{:?}", error.hint());
        }
    }
}

#[test]
fn a_certificate_of_somebody_elses_ca_is_trusted_where_it_is_in_ca_itself_for_its_name_and_time() {
    let valid = (2020, 2100);
    for (name, (from, until), expected) in [
        ("127.0.0.1", valid, Ok(())),
        ("a.corp", valid, Err("it is for a.corp")),
        ("127.0.0.1", (2020, 2021), Err("it expired on 2021-01-01")),
        ("127.0.0.1", (2100, 2101), Err("but from 2100-01-01 on")),
    ] {
        let world = World::new();
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &*world.authority.0).unwrap();
        let folder = world.folder.path();
        std::fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        let port = front_with_files(folder, &world.server);
        let own = RegistrySettings { ca: Some(folder.join("cert.pem")), ..world.settings(port) };
        match (world.ask(&Setup::new().with(own.clone())), expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (found, _) => panic!("{name} {from}: {found:?}"),
        }
        // It vouches for nobody else: not for another one of the same issuer.
        let other = tls_front(&world.authority, false, &world.server);
        let own = RegistrySettings { endpoint: Some(format!("https://127.0.0.1:{other}")), ..own };
        assert_eq!(world.ask(&Setup::new().with(own)).unwrap_err().kind(), "tls");
    }
}

/// [`self_signed`], also where openssl is too old to be told the dates.
fn self_signed_at(folder: &Path, more: &[&str]) -> bool {
    let Some(dates) = more.iter().position(|word| *word == "-not_before") else {
        return self_signed(folder, more);
    };
    // openssl x509 and req take dates from 3.4 on; openssl ca always did.
    let time = |word: &str| word.trim_end_matches('Z').to_owned() + "Z";
    let (before, after) = (time(more[dates + 1]), time(more[dates + 3]));
    std::fs::write(folder.join("index.txt"), "").unwrap();
    std::fs::write(folder.join("serial"), "01\n").unwrap();
    let config = "[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=.\ndatabase=index.txt\nserial=serial\ndefault_md=sha256\n\
                  policy=p\nx509_extensions=e\n[p]\ncommonName=supplied\n[e]\nsubjectAltName=IP:127.0.0.1\n\
                  basicConstraints=critical,CA:TRUE\n";
    std::fs::write(folder.join("ca.cnf"), config).unwrap();
    let request = [
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "req.pem", "-subj",
        "/CN=x",
    ];
    openssl(folder, &request)
        && openssl(
            folder,
            &[
                "ca",
                "-batch",
                "-config",
                "ca.cnf",
                "-selfsign",
                "-keyfile",
                "key.pem",
                "-in",
                "req.pem",
                "-out",
                "cert.pem",
                "-startdate",
                &before,
                "-enddate",
                &after,
                "-notext",
            ],
        )
}

#[test]
fn tls_settings_mean_https_on_loopback_too() {
    let world = World::new();
    let port = tls_front(&world.authority, false, &world.server);
    let name = format!("127.0.0.1:{port}");
    let reference = ImageRef::in_registry(&name, "team/app:1").unwrap();
    let plain = RegistrySettings { name, ..RegistrySettings::default() };
    let ca = RegistrySettings { ca: world.settings(port).ca, ..plain.clone() };
    resolve(&Setup::new().with(ca).build(), &reference).unwrap();
    let insecure = RegistrySettings { insecure: true, ..plain.clone() };
    resolve(&Setup::new().with(insecure).build(), &reference).unwrap();
    // Without them it is asked over plain http, and does not understand.
    assert!(resolve(&Setup::new().with(plain).build(), &reference).is_err());
}

#[test]
fn a_client_certificate_that_is_wanted_is_said_so() {
    let world = World::new();
    let port = tls_front(&world.authority, true, &world.server);
    let error = world.ask(&Setup::new().with(world.settings(port))).unwrap_err();
    assert!(error.hint().unwrap().contains("`client-cert`"), "{error}: {:?}", error.hint());

    let stranger = Authority::new();
    let (certificate, key) = stranger.issue();
    let (chain, private) = (world.folder.path().join("cert.pem"), world.folder.path().join("key.pem"));
    std::fs::write(&chain, certificate.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let own =
        RegistrySettings { client_cert: Some(chain), client_key: Some(private), ..world.settings(port) };
    let error = world.ask(&Setup::new().with(own)).unwrap_err();
    assert!(matches!(error.kind(), "tls" | "unreachable"), "{error}");
}
