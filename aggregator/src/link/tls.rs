//! Certificates from files, and again when they change.
//!
//! All three files are read and checked together: what is in force is always one set that fits. A set that does not keeps the one before, and says so.
//! Sessions are not resumed, because whoever resumes does not show its certificate again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::unix_ns;
use crate::state::{Shared, State};
use crate::watch::Watch;

/// Longest file that is read, in bytes: the authorities of a large company are some hundred KiB.
const MAX_BYTES: u64 = 1024 * 1024;
/// What is to expire is warned about so long before, or for the last fifth of its life where that is shorter; and again every day.
const WARN_BEFORE_S: i64 = 7 * 24 * 3600;
const WARN_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// `--tls-cert`, `--tls-key`, `--tls-client-ca`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
}

/// When a certificate begins and ceases to be good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub to: i64,
}

/// What is in force, and what is wrong with the files as they are now.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The aggregator's own certificate; `None`: plain text.
    pub own: Option<Validity>,
    /// Of the authorities, the one that ceases first.
    pub client_ca: Option<Validity>,
    /// Why the files on disk are not in force.
    pub error: Option<String>,
    /// Times that changed files were taken over, or were found broken.
    pub loads: u64,
    pub failures: u64,
}

/// One set of files that fits.
#[derive(Clone)]
pub struct Loaded {
    pub config: Arc<ServerConfig>,
    own: Validity,
    client_ca: Validity,
    /// What the files said. Shared: each handshake takes a copy of this, and the key is in it.
    texts: Arc<Texts>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// The three files' contents. No `Debug`: one of them is secret.
#[derive(PartialEq, Eq)]
struct Texts([Vec<u8>; 3]);

impl Texts {
    fn read(files: &Files) -> anyhow::Result<Self> {
        Ok(Self([
            read("--tls-cert", &files.cert)?,
            read("--tls-key", &files.key)?,
            read("--tls-client-ca", &files.client_ca)?,
        ]))
    }
}

fn read(flag: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    let about = || format!("{flag} {}", path.display());
    let length = std::fs::metadata(path).with_context(about)?.len();
    ensure!(
        length <= MAX_BYTES,
        "{}: {length} bytes, at most {MAX_BYTES} are read",
        about()
    );
    std::fs::read(path).with_context(about)
}

/// # Errors
/// A file cannot be read, is no PEM of its kind, or the three do not fit: the flag, the path, and what is wrong.
pub fn load(files: &Files) -> anyhow::Result<Loaded> {
    parse(files, Arc::new(Texts::read(files)?))
}

fn parse(files: &Files, texts: Arc<Texts>) -> anyhow::Result<Loaded> {
    let provider = Arc::new(ring::default_provider());
    let (key, own) = own(files, &texts, &provider)?;
    let (roots, client_ca) = authorities(&files.client_ca, &texts.0[2])
        .with_context(|| format!("--tls-client-ca {}", files.client_ca.display()))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .context("--tls-client-ca")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded {
        config: Arc::new(config),
        own,
        client_ca,
        texts,
    })
}

fn own(files: &Files, texts: &Texts, provider: &CryptoProvider) -> anyhow::Result<(CertifiedKey, Validity)> {
    let about = || format!("--tls-cert {}", files.cert.display());
    let about_key = || format!("--tls-key {}", files.key.display());
    let [cert, key, _] = &texts.0;
    let chain = certificates(cert).with_context(about)?;
    let first = chain.first().context("is empty").with_context(about)?;
    let validity = validity(first).with_context(about)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|e| anyhow::anyhow!("holds no private key in PEM: {e}"))
        .with_context(about_key)?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .with_context(about_key)?;
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .with_context(|| format!("{} does not fit {}", about_key(), about()))?;
    Ok((certified, validity))
}

/// Authorities from the file that `flag` names.
///
/// # Errors
/// It cannot be read, is no PEM or holds no certificate: the flag, the path, and what is wrong.
pub fn roots(flag: &'static str, path: &Path) -> anyhow::Result<RootCertStore> {
    let pem = read(flag, path)?;
    let (roots, _) = authorities(path, &pem).with_context(|| format!("{flag} {}", path.display()))?;
    Ok(roots)
}

fn authorities(path: &Path, pem: &[u8]) -> anyhow::Result<(RootCertStore, Validity)> {
    let mut roots = RootCertStore::empty();
    let mut soonest: Option<Validity> = None;
    for certificate in certificates(pem)? {
        let one = validity(&certificate)?;
        soonest = Some(soonest.filter(|s| s.to <= one.to).unwrap_or(one));
        roots
            .add(certificate)
            .with_context(|| format!("{} can be no authority's", path.display()))?;
    }
    Ok((roots, soonest.context("holds no certificate")?))
}

/// All of a PEM text, at least one.
fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| anyhow::anyhow!("is no PEM: {e}"))?;
    ensure!(!all.is_empty(), "holds no certificate in PEM");
    Ok(all)
}

fn validity(certificate: &CertificateDer<'_>) -> anyhow::Result<Validity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| anyhow::anyhow!("holds a certificate that is none: {e}"))?;
    let validity = parsed.validity();
    Ok(Validity {
        from: validity.not_before.timestamp(),
        to: validity.not_after.timestamp(),
    })
}

/// The configuration that the next handshake takes.
#[derive(Clone, Debug)]
pub struct InForce(Arc<Shared<Option<Loaded>>>);

impl InForce {
    pub fn new(loaded: Loaded, state: &State) -> Self {
        let shared = Shared::default();
        note(state, &loaded);
        shared.update(|now| *now = Some(loaded));
        Self(Arc::new(shared))
    }

    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.0.get().map(|loaded| loaded.config)
    }
}

fn note(state: &State, loaded: &Loaded) {
    state.tls.update(|status| {
        status.own = Some(loaded.own);
        status.client_ca = Some(loaded.client_ca);
        status.error = None;
    });
}

/// Takes over changed files until `stop`, and says what is about to expire.
pub async fn follow(files: Files, in_force: InForce, state: Arc<State>, stop: CancellationToken) {
    // Directories: cert-manager and the kubelet put a new one in the place of a link.
    let mut dirs: Vec<PathBuf> = [&files.cert, &files.key, &files.client_ca]
        .map(|f| dir_of(f))
        .into();
    dirs.dedup();
    let mut watches: Vec<Watch> = dirs.iter().map(|dir| Watch::new(dir)).collect();
    let mut seen = in_force.0.get().map(|loaded| Ok(loaded.texts));
    let mut warned = Warned::default();
    loop {
        warned.look(&state);
        let changed = futures::future::select_all(watches.iter_mut().map(|w| Box::pin(w.changed())));
        if stop.run_until_cancelled(changed).await.is_none() {
            return;
        }
        let texts = Texts::read(&files).map(Arc::new).map_err(|e| format!("{e:#}"));
        if Some(&texts) == seen.as_ref() {
            continue;
        }
        let loaded = match texts.clone() {
            Ok(texts) => parse(&files, texts).map_err(|e| format!("{e:#}")),
            Err(error) => Err(error),
        };
        seen = Some(texts);
        match loaded {
            Ok(loaded) => {
                info!(not_after_unix = loaded.own.to, "certificates reloaded");
                note(&state, &loaded);
                state.tls.update(|status| status.loads += 1);
                in_force.0.update(|now| *now = Some(loaded));
                warned = Warned::default();
            }
            Err(problem) => {
                error!(
                    error = problem,
                    "certificates cannot be used, those before stay in force"
                );
                state.tls.update(|status| {
                    status.error = Some(problem);
                    status.failures += 1;
                });
            }
        }
    }
}

fn dir_of(path: &Path) -> PathBuf {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty());
    dir.unwrap_or(Path::new(".")).to_owned()
}

/// When which warning was given last.
#[derive(Default)]
struct Warned([Option<tokio::time::Instant>; 2]);

impl Warned {
    fn look(&mut self, state: &State) {
        let status = state.tls.get();
        let now = now_s();
        for (last, (flag, validity)) in self
            .0
            .iter_mut()
            .zip([("--tls-cert", status.own), ("--tls-client-ca", status.client_ca)])
        {
            let Some(words) = validity.and_then(|v| concern(v, now)) else {
                continue;
            };
            if last.is_none_or(|at| at.elapsed() >= WARN_AGAIN) {
                *last = Some(tokio::time::Instant::now());
                warn!(file = flag, "{words}");
            }
        }
    }
}

/// Seconds since 1970.
pub fn now_s() -> i64 {
    i64::try_from(unix_ns() / 1_000_000_000).unwrap_or(i64::MAX)
}

/// What is to be said of a certificate at `now`; `None`: nothing.
pub fn concern(validity: Validity, now: i64) -> Option<String> {
    let Validity { from, to } = validity;
    if now < from {
        return Some(format!(
            "the certificate is not valid for another {}",
            span(from - now)
        ));
    }
    if now > to {
        return Some(format!(
            "the certificate expired {} ago: whoever checks it refuses; it is served until another is there",
            span(now - to)
        ));
    }
    let early = WARN_BEFORE_S.min((to - from) / 5);
    (to - now < early).then(|| format!("the certificate expires in {}", span(to - now)))
}

fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    #[test]
    fn what_expires_soon_is_said_by_its_life() {
        let year = Validity {
            from: 0,
            to: 365 * DAY,
        };
        assert_eq!(concern(year, 357 * DAY), None);
        assert_eq!(
            concern(year, 359 * DAY),
            Some("the certificate expires in 6 days".into())
        );
        let day = Validity { from: 0, to: DAY };
        assert_eq!(concern(day, DAY / 2), None);
        assert_eq!(
            concern(day, DAY - 3600),
            Some("the certificate expires in 60 min".into())
        );
        assert!(concern(day, -1).is_some_and(|words| words.contains("not valid for another 1 s")));
        assert!(concern(day, DAY + 60).is_some_and(|words| words.contains("expired 60 s ago")));
    }
}
