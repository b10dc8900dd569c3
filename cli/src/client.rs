//! The aggregator's query service, with errors that say what to do.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use anyhow::anyhow;
use partywall_proto::v1::query_service_client::QueryServiceClient;
use partywall_proto::v1::{GetFlowsRequest, GetSnapshotRequest, WatchBreachesRequest};
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code as Grpc, Status};

use crate::exit::{Code, Failure};
use crate::flows::Flows;
use crate::model::{Breach, Snapshot};
use crate::text::clean;

/// A LAN takes milliseconds; three seconds is one lost SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For a snapshot of the whole cluster.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Notices a peer that went without a word while `--watch` waits.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A snapshot is one message: some 300 bytes a pod, so this is 200,000 pods.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

pub(crate) struct Client {
    service: QueryServiceClient<Channel>,
    address: String,
    /// A first answer came: it is an aggregator.
    answered: bool,
}

impl Client {
    /// Connects to `typed`: `http://host:port`, or `host:port`.
    pub(crate) async fn connect(typed: &str) -> Result<Self, Failure> {
        let (address, endpoint) = endpoint(typed)?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| unreachable(&address, &error))?;
        let service = QueryServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self {
            service,
            address,
            answered: false,
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn snapshot(&mut self, include_resolved: bool) -> Result<Snapshot, Failure> {
        let request = GetSnapshotRequest {
            node: String::new(),
            include_resolved,
        };
        match timeout(ANSWER_TIMEOUT, self.service.get_snapshot(request)).await {
            Ok(Ok(answer)) => {
                self.answered = true;
                Ok(answer.into_inner().into())
            }
            Ok(Err(status)) => Err(refused(&self.address, &status, self.answered)),
            Err(_) => Err(self.late()),
        }
    }

    /// The flows that the request admits.
    pub(crate) async fn flows(&mut self, request: GetFlowsRequest) -> Result<Flows, Failure> {
        match timeout(ANSWER_TIMEOUT, self.service.get_flows(request)).await {
            Ok(Ok(answer)) => {
                self.answered = true;
                Ok(answer.into_inner().into())
            }
            Ok(Err(status)) => Err(refused(&self.address, &status, self.answered)),
            Err(_) => Err(self.late()),
        }
    }

    fn late(&self) -> Failure {
        let late = anyhow!(
            "{} did not answer within {} s",
            self.address,
            ANSWER_TIMEOUT.as_secs()
        );
        Failure::new(Code::NoAggregator, late)
    }

    /// The live breaches, then every change of one. `tenant` empty: all.
    pub(crate) async fn watch(
        &mut self,
        tenant: &str,
    ) -> Result<impl Stream<Item = Result<Breach, Failure>> + use<>, Failure> {
        let request = WatchBreachesRequest {
            tenant: tenant.to_owned(),
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

/// What was typed, as the address that is meant and how to get there.
fn endpoint(typed: &str) -> Result<(String, Endpoint), Failure> {
    let bad = |why: &str| Failure::new(Code::Usage, anyhow!("--aggregator {:?}: {why}", clean(typed)));
    let address = if typed.contains("://") {
        typed.to_owned()
    } else {
        format!("http://{typed}")
    };
    let uri: Uri = address
        .parse()
        .map_err(|_| bad("not an address; write http://HOST:PORT"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(bad(
                "https is not supported; write http://HOST:PORT, through a tunnel if need be",
            ));
        }
        _ => return Err(bad("not an address; write http://HOST:PORT")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("names no host; write http://HOST:PORT"));
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
    Ok((address, endpoint))
}

fn unreachable(address: &str, error: &tonic::transport::Error) -> Failure {
    let why = root_cause(error);
    Failure::new(
        Code::NoAggregator,
        anyhow!(
            "no aggregator at {address}: {why}; start one with `partywall up`, or name another with --aggregator"
        ),
    )
}

fn refused(address: &str, status: &Status, answered: bool) -> Failure {
    let message = clean(status.message());
    let error = match (status.code(), status.source()) {
        (Grpc::Unimplemented, _) => {
            anyhow!("{address} answers, but is no aggregator of this version: {message}")
        }
        (Grpc::ResourceExhausted, _) => {
            anyhow!("{address} let this client go because it read too slowly: {message}")
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
            let (address, _) = endpoint(typed).expect(typed);
            assert_eq!(address, meant);
        }
        for (typed, why) in [
            ("https://a:1", "https is not supported"),
            ("ftp://a:1", "not an address"),
            ("http://a", "names no port"),
            ("a b:1", "not an address"),
            ("", "not an address"),
            ("http://:7441", ""),
            ("http://a:99999", ""),
        ] {
            let Err(failure) = endpoint(typed) else {
                panic!("{typed:?} was taken")
            };
            assert!(failure.to_string().contains(why), "{typed:?}: {failure}");
            assert!(failure.to_string().contains("--aggregator"), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_says_how_to_start_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        drop(listener);
        let Err(failure) = Client::connect(&address.to_string()).await else {
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
