//! Files with certificates → the client's side of an encrypted link. Errors name the option and the file.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::args::Tls;
use crate::text::clean;

impl Tls {
    pub(crate) fn is_given(&self) -> bool {
        self.tls_ca.is_some() || self.tls_cert.is_some() || self.tls_key.is_some()
    }

    /// Whom to trust, and who asks.
    pub(crate) fn config(&self) -> anyhow::Result<ClientTlsConfig> {
        let Some(ca) = &self.tls_ca else {
            bail!("https needs --tls-ca FILE, the certificate of the authority that signed the aggregator's");
        };
        let config =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificates("--tls-ca", ca)?));
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                let identity =
                    Identity::from_pem(certificates("--tls-cert", cert)?, private_key("--tls-key", key)?);
                Ok(config.identity(identity))
            }
            (None, None) => Ok(config),
            (Some(_), None) => Err(anyhow!(
                "--tls-cert needs --tls-key FILE, the key of the certificate"
            )),
            (None, Some(_)) => Err(anyhow!(
                "--tls-key needs --tls-cert FILE, the certificate of the key"
            )),
        }
    }
}

fn read(option: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| named(option, file))
}

fn named(option: &str, file: &Path) -> String {
    format!("{option} {}", clean(&file.display().to_string()))
}

/// The file, once it was seen to hold certificates and nothing that only looks like one.
fn certificates(option: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    let pem = read(option, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.with_context(|| named(option, file))?;
    ensure!(
        !found.is_empty(),
        "{}: holds no certificate in PEM",
        named(option, file)
    );
    Ok(pem)
}

fn private_key(option: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    let pem = read(option, file)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| anyhow!("{}: holds no private key in PEM", named(option, file)))?;
    Ok(pem)
}
