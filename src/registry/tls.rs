//! TLS settings: the system's trust store, read once and only when https is first needed, plus a registry's own
//! `ca`, client certificate and `insecure`.
//!
//! rustls runs on ring. `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured by rustls-native-certs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::state::RegistrySettings;
use crate::sys;

/// Larger PEM files are no certificates, in bytes.
const MAX_PEM: u64 = 16 << 20;

/// The system's trusted roots.
pub(super) fn system_roots() -> Result<Vec<Certificate<'static>>, String> {
    if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
        // The crate opens whatever has this name, and would wait for the writer of a fifo.
        sys::open_regular(Path::new(&file))
            .map_err(|error| format!("cannot read SSL_CERT_FILE {}: {error}", Path::new(&file).display()))?;
    }
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reason = found.errors.first().map_or_else(|| "it is empty".to_owned(), ToString::to_string);
        return Err(format!("cannot read the system's trusted certificates: {reason}"));
    }
    Ok(found.certs.iter().map(|certificate| Certificate::from_der(certificate.as_ref()).to_owned()).collect())
}

/// One registry's TLS settings, read from its files.
pub(super) struct TlsSettings {
    roots: Arc<Vec<Certificate<'static>>>,
    identity: Option<ClientCert>,
    provider: Arc<CryptoProvider>,
}

impl TlsSettings {
    /// Reads what `settings` names, and the roots of `more_ca`, on top of `system`.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else, with its path.
    pub(super) fn load(
        settings: &RegistrySettings,
        more_ca: &[PathBuf],
        system: &[Certificate<'static>],
    ) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = system.to_vec();
        for path in settings.ca.iter().chain(more_ca) {
            let certificates = certificates("ca", path)?;
            for certificate in &certificates {
                // rustls ignores roots it cannot parse; for a file the user named that would be a riddle.
                rustls::RootCertStore::empty()
                    .add(CertificateDer::from(certificate.der()))
                    .map_err(|error| format!("ca {}: {error}", path.display()))?;
            }
            roots.extend(certificates);
        }
        let identity = match (&settings.client_cert, &settings.client_key) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some(identity(chain, key, &provider)?),
            (Some(_), None) => return Err("client-cert needs client-key".to_owned()),
            (None, Some(_)) => return Err("client-key needs client-cert".to_owned()),
        };
        Ok(Self { roots: Arc::new(roots), identity, provider })
    }

    /// The configuration of a connection: `identified` presents the client certificate, `verified` checks the
    /// server's.
    pub(super) fn config(&self, identified: bool, verified: bool) -> TlsConfig {
        TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::clone(&self.provider))
            .root_certs(RootCerts::Specific(Arc::clone(&self.roots)))
            .client_cert(self.identity.clone().filter(|_| identified))
            .disable_verification(!verified)
            .build()
    }
}

fn identity(chain: &Path, key: &Path, provider: &CryptoProvider) -> Result<ClientCert, String> {
    let certificates = certificates("client-cert", chain)?;
    let pem = read("client-key", key)?;
    // The parsers' own words could quote the file.
    let no_key = || format!("client-key {} holds no PEM private key", key.display());
    let private = PrivateKey::from_pem(&pem).map_err(|_| no_key())?;
    // ureq panics on a key that rustls refuses, so rustls is asked first.
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| no_key())?;
    let ders =
        certificates.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    CertifiedKey::from_der(ders, der, provider).map_err(|error| {
        format!("client-cert {} and client-key {} do not fit: {error}", chain.display(), key.display())
    })?;
    Ok(ClientCert::new_with_certs(&certificates, private))
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    sys::read_regular(path, MAX_PEM).map_err(|error| format!("{setting} {}: {error}", path.display()))
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = read(setting, path)?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(format!("{setting} {}: {error}", path.display())),
        }
    }
    if certificates.is_empty() {
        return Err(format!("{setting} {} holds no PEM certificate", path.display()));
    }
    Ok(certificates)
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
        for (path, expected) in [
            (empty.clone(), "no PEM certificate"),
            (broken, "broken.pem"),
            (folder.path().join("missing.pem"), "missing.pem"),
            (folder.path().to_owned(), "not a regular file but a directory"),
        ] {
            let settings = RegistrySettings { ca: Some(path), ..RegistrySettings::default() };
            let error = TlsSettings::load(&settings, &[], &[]).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let settings = RegistrySettings { client_cert: Some(empty), ..RegistrySettings::default() };
        assert!(TlsSettings::load(&settings, &[], &[]).is_err());
    }
}
