//! Certificates, keys and tokens as they are on disk now.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tonic::metadata::AsciiMetadataValue;

use super::{LinkConfig, TlsFiles};

/// Longest file that is read, in bytes: the authorities of a large company are some hundred KiB.
const MAX_BYTES: u64 = 1024 * 1024;
/// A service account's token has some 1,500 bytes; what an aggregator takes at most.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// What is wrong with a file: the flag, the path, and the problem. Never its contents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {}: {problem}", path.display())]
pub struct FileError {
    flag: &'static str,
    path: PathBuf,
    problem: String,
}

impl FileError {
    fn new(flag: &'static str, path: &Path, problem: impl Into<String>) -> Self {
        Self {
            flag,
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(super) fn panicked() -> Self {
        Self::new("--tls-cert", Path::new(""), "reading it failed")
    }

    pub(super) fn reason(&self) -> &'static str {
        match self.flag {
            "--tls-ca" => "tls_ca",
            "--token-file" => "token",
            _ => "tls_certificate",
        }
    }
}

/// When a certificate begins and ceases to be good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub to: i64,
}

pub(super) fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

impl Validity {
    /// Why it is not good at `now`.
    pub fn problem(self, now: i64) -> Option<String> {
        if now < self.from {
            return Some(format!("is not valid before {}", date(self.from)));
        }
        (now > self.to).then(|| format!("expired at {}", date(self.to)))
    }

    pub(super) fn told(self, path: &Path) -> Result<String, FileError> {
        match self.problem(now_s()) {
            None => Ok(format!("{}: valid until {}", path.display(), date(self.to))),
            Some(problem) => Err(FileError::new("file", path, problem)),
        }
    }
}

fn date(unix_s: i64) -> String {
    let time = x509_parser::time::ASN1Time::from_timestamp(unix_s);
    time.map_or_else(|_| unix_s.to_string(), |time| time.to_string())
}

/// All that a connection needs.
pub(super) struct Read {
    pub(super) tls: Option<Tls>,
    pub(super) token: Option<AsciiMetadataValue>,
}

pub(super) struct Tls {
    pub(super) ca: Vec<u8>,
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) own: Validity,
}

impl Read {
    pub(super) fn new(config: &LinkConfig) -> Result<Self, FileError> {
        let tls = config.tls.as_ref().map(|files| {
            let (cert, key, own) = identity(files)?;
            let (ca, _) = authorities(&files.ca)?;
            Ok(Tls { ca, cert, key, own })
        });
        Ok(Self {
            tls: tls.transpose()?,
            token: config.token.as_deref().map(token).transpose()?,
        })
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, FileError> {
    let told = |e: std::io::Error| FileError::new(flag, path, e.to_string());
    let length = std::fs::metadata(path).map_err(told)?.len();
    if length > MAX_BYTES {
        let problem = format!("{length} bytes, at most {MAX_BYTES} are read");
        return Err(FileError::new(flag, path, problem));
    }
    std::fs::read(path).map_err(told)
}

fn certificates(
    flag: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<(CertificateDer<'static>, Validity)>, FileError> {
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let der = certificate.map_err(|e| FileError::new(flag, path, format!("is no PEM: {e}")))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|e| FileError::new(flag, path, format!("holds a certificate that is none: {e}")))?;
        let (from, to) = (parsed.validity().not_before, parsed.validity().not_after);
        let validity = Validity {
            from: from.timestamp(),
            to: to.timestamp(),
        };
        all.push((der, validity));
    }
    if all.is_empty() {
        return Err(FileError::new(flag, path, "holds no certificate in PEM"));
    }
    Ok(all)
}

/// The agent's certificate and its key, which fit; until when it is good.
pub(super) fn identity(files: &TlsFiles) -> Result<(Vec<u8>, Vec<u8>, Validity), FileError> {
    let (flag, flag_of_key) = ("--tls-cert", "--tls-key");
    let cert = read(flag, &files.cert)?;
    let key = read(flag_of_key, &files.key)?;
    let chain = certificates(flag, &files.cert, &cert)?;
    let own = chain
        .first()
        .map_or(Validity { from: 0, to: 0 }, |(_, validity)| *validity);
    let of_key = |problem: String| FileError::new(flag_of_key, &files.key, problem);
    let parsed = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|e| of_key(format!("holds no private key in PEM: {e}")))?;
    let chain = chain.into_iter().map(|(der, _)| der).collect();
    CertifiedKey::from_der(chain, parsed, &ring::default_provider())
        .map_err(|e| of_key(format!("does not fit {flag} {}: {e}", files.cert.display())))?;
    Ok((cert, key, own))
}

/// The authorities, and which of them ceases first.
pub(super) fn authorities(path: &Path) -> Result<(Vec<u8>, Validity), FileError> {
    let flag = "--tls-ca";
    let pem = read(flag, path)?;
    let all = certificates(flag, path, &pem)?;
    let first = all.iter().map(|(_, validity)| *validity).min_by_key(|v| v.to);
    Ok((pem, first.unwrap_or(Validity { from: 0, to: 0 })))
}

/// As the value of `authorization`.
pub(super) fn token(path: &Path) -> Result<AsciiMetadataValue, FileError> {
    let wrong = |problem: &str| FileError::new("--token-file", path, problem);
    let text = read("--token-file", path)?;
    let text = text.trim_ascii();
    if text.is_empty() {
        return Err(wrong("is empty"));
    }
    if text.len() > MAX_TOKEN_BYTES || !text.iter().all(u8::is_ascii_graphic) {
        return Err(wrong("is no token: one word of at most 8 KiB is wanted"));
    }
    let value = AsciiMetadataValue::try_from([b"Bearer ", text].concat());
    let mut value = value.map_err(|_| wrong("is no token"))?;
    value.set_sensitive(true);
    Ok(value)
}
