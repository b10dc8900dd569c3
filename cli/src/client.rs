//! The aggregator's query service, with errors that say what to do.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use anyhow::anyhow;
use partywall_proto::v1::query_service_client::QueryServiceClient;
use partywall_proto::v1::trail_service_client::TrailServiceClient;
use partywall_proto::v1::{
    AuditRequest, ExplainBreachRequest, ExplainNamespaceRequest, GetFlowsRequest, GetHeadroomRequest,
    GetHistoryRequest, GetSnapshotRequest, ReadTrailRequest, TrailRecord, WatchBreachesRequest,
};
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code as Grpc, Status};

use crate::args::{Common, Of, Tls};
use crate::evidence::Evidence;
use crate::exit::{Code, Failure};
use crate::explain::Explanation;
use crate::flows::Flows;
use crate::headroom::Headroom;
use crate::model::{Breach, Snapshot};
use crate::text::clean;
use crate::trail::{Audit, Entry, Past};

/// A LAN takes milliseconds; three seconds is one lost SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For a snapshot of the whole cluster.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A month of hours, in a large cluster.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Entries of a history that are asked for at once.
const HISTORY_PAGE: usize = 1_000;
/// Notices a peer that went without a word while `--watch` waits.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A snapshot is one message: some 300 bytes a pod, so this is 200,000 pods.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

pub(crate) struct Client {
    service: QueryServiceClient<Channel>,
    trail: TrailServiceClient<Channel>,
    address: String,
    /// The cluster that is asked about; empty: all.
    cluster: String,
    /// A first answer came: it is an aggregator.
    answered: bool,
}

impl Client {
    /// Connects to the aggregator that was named, to ask about the clusters that were.
    pub(crate) async fn connect(common: &Common, of: &Of) -> Result<Self, Failure> {
        let mut client = Self::connect_to(&common.aggregator, &common.tls).await?;
        client.cluster = of.cluster.clone().unwrap_or_default();
        Ok(client)
    }

    /// Connects to `typed`: `http://host:port`, `https://host:port`, or `host:port` without encryption.
    pub(crate) async fn connect_to(typed: &str, tls: &Tls) -> Result<Self, Failure> {
        let (address, endpoint) = endpoint(typed, tls)?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| unreachable(&address, &error))?;
        let trail = TrailServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        let service = QueryServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self {
            service,
            trail,
            address,
            cluster: String::new(),
            answered: false,
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn snapshot(&mut self, include_resolved: bool) -> Result<Snapshot, Failure> {
        let request = GetSnapshotRequest {
            include_resolved,
            cluster: self.cluster.clone(),
            ..GetSnapshotRequest::default()
        };
        let asked = self.service.get_snapshot(request);
        match within(&self.address, ANSWER_TIMEOUT, asked).await? {
            Ok(answer) => {
                self.answered = true;
                Ok(answer.into_inner().into())
            }
            Err(status) => Err(refused(&self.address, &status, self.answered)),
        }
    }

    /// The flows that the request admits.
    pub(crate) async fn flows(&mut self, mut request: GetFlowsRequest) -> Result<Flows, Failure> {
        request.cluster.clone_from(&self.cluster);
        let asked = self.service.get_flows(request);
        match within(&self.address, ANSWER_TIMEOUT, asked).await? {
            Ok(answer) => {
                self.answered = true;
                Ok(answer.into_inner().into())
            }
            Err(status) => Err(refused(&self.address, &status, self.answered)),
        }
    }

    /// By which rule a namespace got its tenant; of the aggregator's own cluster where none was named.
    pub(crate) async fn explain(&mut self, namespace: &str) -> Result<Explanation, Failure> {
        let request = ExplainNamespaceRequest {
            namespace: namespace.to_owned(),
            cluster: self.cluster.clone(),
        };
        let asked = self.service.explain_namespace(request);
        match within(&self.address, ANSWER_TIMEOUT, asked).await? {
            Ok(answer) => {
                self.answered = true;
                Ok(answer.into_inner().into())
            }
            Err(status) => Err(refused(&self.address, &status, self.answered)),
        }
    }

    /// The whole evidence of a breach, by the first digits of its fingerprint.
    pub(crate) async fn explain_breach(&mut self, fingerprint: &str) -> Result<Evidence, Failure> {
        let request = ExplainBreachRequest {
            fingerprint: fingerprint.to_owned(),
            cluster: self.cluster.clone(),
        };
        let asked = self.service.explain_breach(request);
        match within(&self.address, ANSWER_TIMEOUT, asked).await? {
            Ok(answer) => {
                self.answered = true;
                Ok(answer.into_inner().into())
            }
            Err(status) => Err(refused(&self.address, &status, self.answered)),
        }
    }

    /// Use against capacity, and whether a zone may be lost.
    pub(crate) async fn headroom(&mut self) -> Result<Headroom, Failure> {
        let request = GetHeadroomRequest {
            cluster: self.cluster.clone(),
        };
        let asked = self.service.get_headroom(request);
        match within(&self.address, ANSWER_TIMEOUT, asked).await? {
            Ok(answer) => {
                self.answered = true;
                Ok(answer.into_inner().into())
            }
            Err(status) => Err(refused(&self.address, &status, self.answered)),
        }
    }

    /// Each time that a breach fired, as many of the newest as `limit` says; 0: all. Asked for in pages.
    pub(crate) async fn history(&mut self, mut request: GetHistoryRequest) -> Result<Past, Failure> {
        request.cluster.clone_from(&self.cluster);
        let wanted = match request.limit {
            0 => usize::MAX,
            limit => limit as usize,
        };
        // Newest first.
        let mut entries = Vec::new();
        loop {
            // One more than is wanted: whether there is.
            let ask = (wanted - entries.len()).saturating_add(1).min(HISTORY_PAGE);
            request.limit = u32::try_from(ask).unwrap_or(u32::MAX);
            let page = self.page(request.clone()).await?;
            let is_last = page.len() < ask;
            if let Some(oldest) = page.first() {
                request.before.clone_from(&oldest.cursor);
            }
            entries.extend(page.into_iter().rev());
            if is_last || entries.len() > wanted {
                break;
            }
        }
        let is_cut = entries.len() > wanted;
        entries.truncate(wanted);
        entries.reverse();
        Ok(Past { entries, is_cut })
    }

    async fn page(&mut self, request: GetHistoryRequest) -> Result<Vec<Entry>, Failure> {
        let entries = within(&self.address, ANSWER_TIMEOUT, self.trail.get_history(request))
            .await?
            .map_err(|status| refused_question(&self.address, &status, self.answered))?;
        self.answered = true;
        let mut entries = entries.into_inner();
        let mut out = Vec::new();
        loop {
            match within(&self.address, ANSWER_TIMEOUT, entries.message()).await? {
                Ok(Some(entry)) => out.push(Entry::from(entry)),
                Ok(None) => return Ok(out),
                Err(status) => return Err(refused_question(&self.address, &status, true)),
            }
        }
    }

    /// Did a tenant reach another?
    pub(crate) async fn audit(&mut self, mut request: AuditRequest) -> Result<Audit, Failure> {
        request.cluster.clone_from(&self.cluster);
        let asked = self.trail.audit(request);
        match within(&self.address, AUDIT_TIMEOUT, asked).await? {
            Ok(answer) => {
                self.answered = true;
                Ok(answer.into_inner().into())
            }
            Err(status) => Err(refused_question(&self.address, &status, self.answered)),
        }
    }

    /// The whole trail, in the order of its chain.
    pub(crate) async fn read_trail(
        &mut self,
    ) -> Result<impl Stream<Item = Result<TrailRecord, Failure>> + use<>, Failure> {
        let request = ReadTrailRequest::default();
        let records = within(&self.address, ANSWER_TIMEOUT, self.trail.read_trail(request))
            .await?
            .map_err(|status| refused_question(&self.address, &status, self.answered))?;
        let address = self.address.clone();
        let records = records.into_inner();
        Ok(records.map(move |record| record.map_err(|status| refused_question(&address, &status, true))))
    }

    /// The live breaches, then every change of one. `tenant` empty: all.
    pub(crate) async fn watch(
        &mut self,
        tenant: &str,
    ) -> Result<impl Stream<Item = Result<Breach, Failure>> + use<>, Failure> {
        let request = WatchBreachesRequest {
            tenant: tenant.to_owned(),
            cluster: self.cluster.clone(),
        };
        let answer = self.service.watch_breaches(request).await;
        let changes = answer
            .map_err(|status| refused(&self.address, &status, self.answered))?
            .into_inner();
        let address = self.address.clone();
        Ok(changes.map(move |change| {
            change
                .map(Breach::from)
                .map_err(|status| refused(&address, &status, true))
        }))
    }
}

/// What comes within `patience`.
async fn within<T>(address: &str, patience: Duration, answer: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(patience, answer).await.map_err(|_| {
        let late = anyhow!("{address} did not answer within {} s", patience.as_secs());
        Failure::new(Code::NoAggregator, late)
    })
}

/// What was typed, as the address that is meant and how to get there.
fn endpoint(typed: &str, tls: &Tls) -> Result<(String, Endpoint), Failure> {
    let bad = |why: &str| Failure::new(Code::Usage, anyhow!("--aggregator {:?}: {why}", clean(typed)));
    let address = if typed.contains("://") {
        typed.to_owned()
    } else {
        format!("http://{typed}")
    };
    let uri: Uri = address
        .parse()
        .map_err(|_| bad("not an address; write https://HOST:PORT or http://HOST:PORT"))?;
    let encrypted = match uri.scheme_str() {
        Some("https") => true,
        // Whoever names certificates does not mean to send in plain text.
        Some("http") if tls.is_given() => {
            return Err(bad(
                "--tls-ca, --tls-cert and --tls-key are for https; write https://HOST:PORT",
            ));
        }
        Some("http") => false,
        _ => return Err(bad("not an address; write https://HOST:PORT or http://HOST:PORT")),
    };
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("names no host; write https://HOST:PORT or http://HOST:PORT"));
    }
    if uri.port_u16().is_none() {
        return Err(bad("names no port; the aggregator's default is 7441"));
    }
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .user_agent(concat!("partywall/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| bad("cannot be used"))?;
    if !encrypted {
        return Ok((address, endpoint));
    }
    let config = tls.config().map_err(|error| Failure::new(Code::Usage, error))?;
    let endpoint = endpoint.tls_config(config).map_err(|error| {
        let why = root_cause(&error);
        Failure::new(Code::Usage, anyhow!("--tls-ca, --tls-cert, --tls-key: {why}"))
    })?;
    Ok((address, endpoint))
}

fn unreachable(address: &str, error: &tonic::transport::Error) -> Failure {
    let why = root_cause(error);
    let advice = if is_of_tls(address, error) {
        TLS_ADVICE
    } else {
        "start one with `partywall up`, or name another with --aggregator"
    };
    Failure::new(
        Code::NoAggregator,
        anyhow!("no aggregator at {address}: {why}; {advice}"),
    )
}

/// As [`refused`], of a question about the past: such are refused for what they ask for.
fn refused_question(address: &str, status: &Status, answered: bool) -> Failure {
    match (status.code(), status.source()) {
        // It keeps no trail, or the question is too large.
        (Grpc::FailedPrecondition | Grpc::ResourceExhausted, None) => {
            Failure::new(Code::Failed, anyhow!(clean(status.message())))
        }
        _ => refused(address, status, answered),
    }
}

fn refused(address: &str, status: &Status, answered: bool) -> Failure {
    let message = clean(status.message());
    let error = match (status.code(), status.source()) {
        (Grpc::Unimplemented, _) => {
            anyhow!("{address} answers, but is no aggregator of this version: {message}")
        }
        // It has too much to do, does not wait for a slow reader, or stops: its words say which.
        (Grpc::ResourceExhausted | Grpc::Unavailable, None) => anyhow!("{address}: {message}"),
        // It answers, and cannot use what was typed.
        (Grpc::InvalidArgument, None) => return Failure::new(Code::Usage, anyhow!(message)),
        // It answers, and has no such thing.
        (Grpc::NotFound, None) => return Failure::new(Code::Failed, anyhow!(message)),
        // Clients that are not trusted are let go without a word that can be relied on.
        (_, Some(source)) if !answered && address.starts_with("https:") => {
            anyhow!("lost {address}: {}; {TLS_ADVICE}", root_cause(source))
        }
        // The transport failed. A peer that never answered may be a web server, or the metrics' port.
        (_, Some(source)) => {
            let hint = if answered {
                ""
            } else {
                "; does it speak gRPC on that port?"
            };
            anyhow!("lost {address}: {}{hint}", root_cause(source))
        }
        (code, None) => anyhow!("{address} refused: {message} ({code:?})"),
    };
    Failure::new(Code::NoAggregator, error)
}

const TLS_ADVICE: &str = "--tls-ca must hold the authority of its certificate, which must name this host, and --tls-cert one that it trusts";

/// Whether it may be that the two could not agree whom to trust.
fn is_of_tls(address: &str, error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let found = match error.downcast_ref::<io::Error>() {
            // Its source is not the error inside, but that one's source.
            Some(error) => {
                let inside = error
                    .get_ref()
                    .and_then(|inside| inside.downcast_ref::<rustls::Error>());
                inside.is_some() || was_cut(error.kind())
            }
            None => error.is::<rustls::Error>(),
        };
        if found {
            return address.starts_with("https:");
        }
        cause = error.source();
    }
    false
}

fn was_cut(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// The innermost error: the operating system's words where it has some, without its number.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    loop {
        if let Some(words) = cause
            .downcast_ref::<io::Error>()
            .and_then(|error| plain_words(error.kind()))
        {
            return words.to_owned();
        }
        match cause.source() {
            Some(next) => cause = next,
            None => break,
        }
    }
    clean(&cause.to_string())
}

fn plain_words(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::ConnectionRefused => Some("connection refused"),
        io::ErrorKind::ConnectionReset => Some("connection reset"),
        io::ErrorKind::TimedOut => Some("no answer in time"),
        io::ErrorKind::HostUnreachable => Some("host unreachable"),
        io::ErrorKind::NetworkUnreachable => Some("network unreachable"),
        io::ErrorKind::BrokenPipe => Some("connection closed by the other side"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        for (typed, meant) in [
            ("http://127.0.0.1:7441", "http://127.0.0.1:7441"),
            ("127.0.0.1:7441", "http://127.0.0.1:7441"),
            ("[::1]:7441", "http://[::1]:7441"),
            (
                "aggregator.partywall.svc:7441",
                "http://aggregator.partywall.svc:7441",
            ),
        ] {
            let (address, _) = endpoint(typed, &Tls::default()).expect(typed);
            assert_eq!(address, meant);
        }
        for (typed, why) in [
            ("https://a:1", "https needs --tls-ca"),
            ("ftp://a:1", "not an address"),
            ("http://a", "names no port"),
            ("a b:1", "not an address"),
            ("", "not an address"),
            ("http://:7441", ""),
            ("http://a:99999", ""),
        ] {
            let Err(failure) = endpoint(typed, &Tls::default()) else {
                panic!("{typed:?} was taken")
            };
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.to_string().contains(why), "{typed:?}: {failure}");
            let option = if typed.starts_with("https") {
                "--tls-ca"
            } else {
                "--aggregator"
            };
            assert!(failure.to_string().contains(option), "{failure}");
        }
    }

    #[test]
    fn who_has_no_time_is_told_in_its_own_words() {
        for status in [
            Status::resource_exhausted("256 clients watch already"),
            Status::resource_exhausted("too many questions at once; ask again later"),
            Status::unavailable("the aggregator is stopping"),
        ] {
            let failure = refused("http://a:1", &status, true);
            assert_eq!(failure.code, Code::NoAggregator);
            assert_eq!(failure.to_string(), format!("http://a:1: {}", status.message()));
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_late_says_how_long_it_was_waited_for() {
        let never = std::future::pending::<()>();
        let failure = within("http://a:1", Duration::from_secs(1), never)
            .await
            .expect_err("no answer");
        assert_eq!(failure.code, Code::NoAggregator);
        assert_eq!(failure.to_string(), "http://a:1 did not answer within 1 s");
    }

    #[tokio::test]
    async fn a_closed_port_says_how_to_start_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        drop(listener);
        let Err(failure) = Client::connect_to(&address.to_string(), &Tls::default()).await else {
            panic!("connected to a closed port")
        };
        assert_eq!(failure.code, Code::NoAggregator);
        assert_eq!(
            failure.to_string(),
            format!(
                "no aggregator at http://{address}: connection refused; start one with `partywall up`, \
                 or name another with --aggregator"
            )
        );
    }
}
