//! The way to the aggregator: its address, the certificates on both sides, the token that says which node this is.
//!
//! All files are read again for each new connection, and the aggregator ends streams after a while: what is replaced takes effect without a signal. What is
//! broken, missing or expired is named, and tried again like an aggregator that is away; the agent goes on counting.

mod files;

use std::path::PathBuf;
use std::time::Duration;

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::surroundings::Surrounding;
use files::Read;
pub use files::{FileError, Validity};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle stream's peer is asked for a sign of life so often. tonic's servers allow it by default.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Tells the aggregator which cluster a stream is about before its first report.
const CLUSTER_KEY: &str = "partywall-cluster";

/// Where the aggregator is, and how to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// `https://host:port`, or `http://host:port` where there is no `tls`.
    pub endpoint: String,
    /// Empty: the aggregator's own.
    pub cluster: String,
    pub tls: Option<TlsFiles>,
    /// A service account's token.
    pub token: Option<PathBuf>,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities of the aggregator's certificate.
    pub ca: PathBuf,
    /// The agent's own certificate and its key.
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl LinkConfig {
    /// Without TLS and without a token.
    pub fn plaintext(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            cluster: String::new(),
            tls: None,
            token: None,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("aggregator {endpoint:?}: {source}")]
    Endpoint {
        endpoint: String,
        source: tonic::transport::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot connect: {}{}", innermost(.source), .hint.as_deref().unwrap_or_default())]
    Connect {
        source: tonic::transport::Error,
        /// What is known to be wrong here.
        hint: Option<String>,
    },
}

impl LinkError {
    /// For the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Endpoint { .. } => "endpoint",
            Self::File(error) => error.reason(),
            Self::Connect { .. } => "connect",
        }
    }
}

/// tonic's transport errors say what happened only in their sources.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |source| source.source());
    sources
        .map(ToString::to_string)
        .last()
        .unwrap_or_else(|| error.to_string())
}

/// Makes connections.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    endpoint: Endpoint,
}

/// A connection, and what each stream on it must say first.
#[derive(Debug)]
pub struct Opened {
    pub channel: Channel,
    pub metadata: MetadataMap,
}

impl Link {
    /// # Errors
    /// The endpoint is no URL.
    pub fn new(config: LinkConfig) -> Result<Self, LinkError> {
        let endpoint = Endpoint::from_shared(config.endpoint.clone())
            .and_then(|endpoint| endpoint.user_agent(concat!("partywall-agent/", env!("CARGO_PKG_VERSION"))))
            .map_err(|source| LinkError::Endpoint {
                endpoint: config.endpoint.clone(),
                source,
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(Self { config, endpoint })
    }

    pub fn uri(&self) -> &tonic::transport::Uri {
        self.endpoint.uri()
    }

    /// Reads the files and connects. `read` is told until when the agent's certificate is good, once that is known.
    ///
    /// # Errors
    /// A file cannot be used, or nobody answers who can be trusted and trusts this agent.
    pub async fn open(&self, read: impl FnOnce(Option<Validity>)) -> Result<Opened, LinkError> {
        let config = self.config.clone();
        let files = tokio::task::spawn_blocking(move || Read::new(&config)).await;
        let files = files.map_err(|_| FileError::panicked())??;
        let validity = files.tls.as_ref().map(|tls| tls.own);
        read(validity);
        let mut endpoint = self.endpoint.clone();
        if let Some(tls) = files.tls {
            let host = endpoint.uri().host().unwrap_or_default();
            let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let settings = ClientTlsConfig::new()
                .domain_name(name)
                .ca_certificate(Certificate::from_pem(tls.ca))
                .identity(Identity::from_pem(tls.cert, tls.key))
                .timeout(CONNECT_TIMEOUT);
            endpoint = endpoint
                .tls_config(settings)
                .map_err(|source| LinkError::Connect { source, hint: None })?;
        }
        let channel = endpoint.connect().await.map_err(|source| LinkError::Connect {
            source,
            hint: self.hint(validity),
        })?;
        Ok(Opened {
            channel,
            metadata: self.metadata(files.token),
        })
    }

    /// What is wrong with the agent's certificate: aggregators do not say much to whom they refuse.
    pub fn hint(&self, validity: Option<Validity>) -> Option<String> {
        let concern = validity?.problem(files::now_s())?;
        let cert = &self.config.tls.as_ref()?.cert;
        Some(format!("; --tls-cert {} {concern}", cert.display()))
    }

    fn metadata(&self, token: Option<AsciiMetadataValue>) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        if let Some(token) = token {
            metadata.insert("authorization", token);
        }
        // Checked when the agent was started: it is no name otherwise.
        if let Ok(cluster) = self.config.cluster.parse()
            && !self.config.cluster.is_empty()
        {
            metadata.insert(CLUSTER_KEY, cluster);
        }
        metadata
    }
}

/// How the files are, for `partywall-agent check`.
pub fn look(tls: Option<&TlsFiles>, token: Option<&PathBuf>) -> Vec<Surrounding> {
    let mut all = Vec::new();
    if let Some(files) = tls {
        let certificate = files::identity(files).and_then(|(_, _, own)| own.told(&files.cert));
        all.push(Surrounding::new(
            "tls_certificate",
            certificate.map_err(|e| e.to_string()),
            "no aggregator lets the agent in; reports wait as in an outage until the file is good",
        ));
        let authorities = files::authorities(&files.ca).and_then(|(_, first)| first.told(&files.ca));
        all.push(Surrounding::new(
            "tls_ca",
            authorities.map_err(|e| e.to_string()),
            "no aggregator is trusted; reports wait as in an outage until the file is good",
        ));
    }
    if let Some(path) = token {
        let readable = files::token(path).map(|_| format!("{}: readable", path.display()));
        all.push(Surrounding::new(
            "token",
            readable.map_err(|e| e.to_string()),
            "an aggregator that wants tokens refuses the agent; reports wait as in an outage",
        ));
    }
    all
}
