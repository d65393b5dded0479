//! Root certificates of an owner's own: for signatures, and for timestamps.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::super::finding::shown;
use super::requirements::{self, Use};

/// Root certificates. An entry is a CA's certificate, or a signer's own that it has signed itself.
pub(in super::super) struct Roots {
    all: Vec<Root>,
}

/// A root certificate, in DER and as read.
struct Root {
    der: CertificateDer<'static>,
    certificate: Certificate,
}

impl Roots {
    /// Reads PEM certificates; the error says what is wrong, without the content.
    pub(in super::super) fn parse(pem: &[u8]) -> Result<Self, String> {
        let mut all = Vec::new();
        for (position, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let wrong = || format!("certificate {} cannot be read", position + 1);
            let der = der.map_err(|_| wrong())?;
            let certificate = Certificate::from_der(&der).map_err(|_| wrong())?;
            let tbs = &certificate.tbs_certificate;
            if !requirements::is_authority(&certificate) && tbs.issuer != tbs.subject {
                return Err(format!(
                    "certificate {} ({}) is neither a CA's nor signed by itself",
                    position + 1,
                    shown(&tbs.subject.to_string())
                ));
            }
            all.push(Root { der, certificate });
        }
        if all.is_empty() {
            return Err("it has no certificate in PEM".to_owned());
        }
        Ok(Self { all })
    }

    /// The bytes by which roots are compared, whatever is around them in their file: the
    /// certificates, in an order of their own.
    pub(in super::super) fn canonical(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = self.all.iter().map(|root| root.der.to_vec()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// True if a certificate is one of them.
    pub(super) fn contain(&self, der: &[u8]) -> bool {
        self.all.iter().any(|root| *root.der == *der)
    }

    /// The CAs that may be the end of a chain of that use and were good then.
    pub(super) fn for_use(&self, wanted: Use, time: i64) -> impl Iterator<Item = &CertificateDer<'static>> {
        let fit = move |root: &&Root| {
            requirements::check_authority(&root.certificate, wanted, None).is_ok()
                && requirements::valid_during(&root.certificate, time, time)
        };
        self.all.iter().filter(fit).map(|root| &root.der)
    }
}
