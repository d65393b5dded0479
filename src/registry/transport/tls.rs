//! TLS: the system's trust store, read once and only when https is first needed, plus a registry's
//! own `ca`, client certificate and `insecure`; and the connector that puts it on a connection.
//!
//! A server certificate that is itself in `ca` is trusted, whoever issued it. Those that `openssl
//! req -x509` makes call themselves authorities, which the rules of the web allow no server. Name
//! and dates count as ever.
//!
//! rustls runs on ring. `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured by rustls-native-certs.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::handshake::{ClientCertificate, certificate_words, is_authority, is_strange};
use crate::error::named;
use crate::state::RegistrySettings;
use crate::sys;

/// Larger PEM files are no certificates, in bytes.
const MAX_PEM: u64 = 16 << 20;

/// The system's trusted roots.
pub(super) fn system_roots() -> Result<Vec<CertificateDer<'static>>, String> {
    if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
        // The crate opens whatever has this name, and would wait for the writer of a fifo.
        sys::open_regular(Path::new(&file))
            .map_err(|error| format!("cannot read SSL_CERT_FILE {}: {error}", Path::new(&file).display()))?;
    }
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reason = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(format!("cannot read the system's trusted certificates: {reason}"));
    }
    Ok(found.certs)
}

/// One registry's TLS settings, read from its files.
pub(super) struct TlsSettings {
    roots: Arc<RootCertStore>,
    /// The certificates of the registry's own files, which are trusted as a server's certificate
    /// too.
    own: Arc<Vec<CertificateDer<'static>>>,
    identity: Option<Arc<CertifiedKey>>,
    provider: Arc<CryptoProvider>,
}

impl TlsSettings {
    /// Reads what `settings` names, and the roots of `more_ca`, on top of `system`, which may be
    /// missing where the settings do without it.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else, with its path.
    pub(super) fn load(
        settings: &RegistrySettings,
        more_ca: &[PathBuf],
        system: Result<&[CertificateDer<'static>], String>,
    ) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let mut own = Vec::new();
        for path in settings.ca.iter().chain(more_ca) {
            for certificate in certificates("ca", path)? {
                // For a file that the user named, a root that is passed over would be a riddle.
                roots
                    .add(certificate.clone())
                    .map_err(|error| format!("ca {}: {}", named(path), unusable(&error)))?;
                own.push(certificate);
            }
        }
        match system {
            Ok(system) => drop(roots.add_parsable_certificates(system.iter().cloned())),
            Err(_) if settings.insecure || !own.is_empty() => {}
            Err(reason) => return Err(reason),
        }
        let identity = match (&settings.client_cert, &settings.client_key) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some(Arc::new(identity(chain, key, &provider)?)),
            (Some(_), None) => return Err("client-cert needs client-key".to_owned()),
            (None, Some(_)) => return Err("client-key needs client-cert".to_owned()),
        };
        Ok(Self { roots: Arc::new(roots), own: Arc::new(own), identity, provider })
    }

    /// Makes the connector: `identified` connections present the client certificate, `verified`
    /// ones check the server's.
    ///
    /// # Errors
    /// There is nothing to check a certificate with.
    pub(super) fn connector(&self, identified: bool, verified: bool) -> Result<Tls, String> {
        let verifier: Arc<dyn ServerCertVerifier> = if verified {
            let inner = WebPkiServerVerifier::builder_with_provider(
                Arc::clone(&self.roots),
                Arc::clone(&self.provider),
            );
            let inner = inner.build().map_err(|_| "there is no trusted certificate at all".to_owned())?;
            Arc::new(Trusting { inner, own: Arc::clone(&self.own) })
        } else {
            Arc::new(Unchecked)
        };
        let wish = Arc::new(Wish {
            identity: self.identity.clone().filter(|_| identified),
            asked: AtomicBool::new(false),
        });
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|_| "no TLS version can be spoken".to_owned())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::clone(&wish) as _);
        Ok(Tls { config: Arc::new(config), wish })
    }
}

/// Tells why a certificate of a file cannot be used.
fn unusable(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(reason) => {
            format!("a certificate in it {}", certificate_words(reason))
        }
        _ => "a certificate in it cannot be used".to_owned(),
    }
}

// ------------------------------------------------------------------------------ whom is trusted

/// Trusts what the web's rules allow, and the certificates that the registry's own files hold.
#[derive(Debug)]
struct Trusting {
    inner: Arc<WebPkiServerVerifier>,
    own: Arc<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if verdict.is_ok() || !self.own.iter().any(|own| own.as_ref() == end_entity.as_ref()) {
            return verdict;
        }
        // Alone: what is wrong with the rest of a chain says nothing of it.
        match self.inner.verify_server_cert(end_entity, &[], server_name, ocsp_response, now) {
            // webpki looks at a certificate's dates before it looks at its kind, and at its issuer
            // last.
            Err(rustls::Error::InvalidCertificate(reason))
                if is_authority(&reason) || is_strange(&reason) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Trusts everybody (`insecure`).
#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        // Old ones too: who checks nothing need not refuse how it is signed.
        vec![
            SignatureScheme::RSA_PKCS1_SHA1,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::ED448,
        ]
    }
}

/// Our certificate, and whether a server wanted to see one.
#[derive(Debug)]
struct Wish {
    identity: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Wish {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}

// -------------------------------------------------------------------------------- the connector

/// Puts TLS on connections to https URLs.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    wish: Arc<Wish>,
}

impl Tls {
    /// Tells what servers wanted of us so far.
    pub(super) fn client_certificate(&self) -> ClientCertificate {
        match (self.wish.asked.load(Ordering::Relaxed), &self.wish.identity) {
            (false, _) => ClientCertificate::Unasked,
            (true, None) => ClientCertificate::Missing,
            (true, Some(_)) => ClientCertificate::Shown,
        }
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::Tls("the host's name cannot be in a certificate"))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name)?;
        let boxed: Box<dyn Transport> = Box::new(transport);
        let mut socket = TransportAdapter::new(boxed, details.current_time.clone());
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned { conn: connection, sock: socket };
        Ok(Some(Either::B(TlsTransport { buffers, stream })))
    }
}

pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsTransport").finish_non_exhaustive()
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

// ------------------------------------------------------------------------------------ PEM files

fn identity(chain: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let certificates = certificates("client-cert", chain)?;
    let pem = read("client-key", key)?;
    // The parser's own words could quote the file.
    let private = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| format!("client-key {} holds no PEM private key", named(key)))?;
    CertifiedKey::from_der(certificates, private, provider).map_err(|_| {
        format!("client-cert {} and client-key {} do not fit each other", named(chain), named(key))
    })
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    sys::read_regular(path, MAX_PEM).map_err(|error| format!("{setting} {}: {error}", named(path)))
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(setting, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{setting} {} holds no PEM certificate", named(path)))
        }
        Ok(certificates) => Ok(certificates),
        // The parser's own words quote the file as numbers.
        Err(_) => Err(format!("{setting} {} is not PEM as it should be", named(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_what_they_should_be_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        let broken = folder.path().join("broken.pem");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let cut = folder.path().join("cut.pem");
        std::fs::write(&cut, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
        for (path, expected) in [
            (empty.clone(), "no PEM certificate"),
            (broken, "broken.pem: a certificate in it cannot be read"),
            (cut, "cut.pem is not PEM as it should be"),
            (folder.path().join("missing.pem"), "missing.pem"),
            (folder.path().to_owned(), "not a regular file but a directory"),
        ] {
            let settings = RegistrySettings { ca: Some(path), ..RegistrySettings::default() };
            let error = TlsSettings::load(&settings, &[], Ok(&[])).map(|_| ()).unwrap_err();
            assert!(error.contains(expected) && !error.contains("BadEncoding"), "{error}");
        }
        let settings = RegistrySettings { client_cert: Some(empty), ..RegistrySettings::default() };
        assert!(TlsSettings::load(&settings, &[], Ok(&[])).is_err());
    }

    #[test]
    fn a_machine_without_trusted_certificates_can_do_with_the_registrys_own() {
        let none = || Err("none".to_owned());
        let plain = RegistrySettings::default();
        assert_eq!(TlsSettings::load(&plain, &[], none()).map(|_| ()).unwrap_err(), "none");
        let insecure = RegistrySettings { insecure: true, ..plain.clone() };
        assert!(TlsSettings::load(&insecure, &[], none()).unwrap().connector(true, false).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let authority = rcgen::generate_simple_self_signed(vec!["a.corp".to_owned()]).unwrap();
        std::fs::write(&ca, authority.cert.pem()).unwrap();
        let own = RegistrySettings { ca: Some(ca), ..plain };
        assert!(TlsSettings::load(&own, &[], none()).unwrap().connector(true, true).is_ok());
    }
}
