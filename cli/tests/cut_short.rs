//! What becomes of an answer that the aggregator ends before its end, and of the copy that was there before. An aggregator that is stopped ends it so;
//! after which record cannot be had of one, so it is said here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _, stream};
use partywall_proto::trail::{Hash, link};
use partywall_proto::v1;
use partywall_proto::v1::trail_body::What;
use partywall_proto::v1::trail_service_server::{TrailService, TrailServiceServer};
use prost::Message as _;
use support::{complaint, partywall};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(30);

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What is streamed, then how it ends.
#[derive(Clone, Debug)]
struct Script {
    records: Vec<v1::TrailRecord>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Whole,
    Stopping,
    Never,
}

impl Script {
    fn stream<T: Send + 'static>(&self, items: Vec<T>) -> Streamed<T> {
        let items = stream::iter(items).map(Ok);
        match self.end {
            End::Whole => Box::pin(items),
            End::Stopping => {
                let status = Status::unavailable("the aggregator is stopping");
                Box::pin(items.chain(stream::iter([Err(status)])))
            }
            End::Never => Box::pin(items.chain(stream::pending())),
        }
    }
}

#[tonic::async_trait]
impl TrailService for Script {
    type GetHistoryStream = Streamed<v1::HistoryEntry>;
    type ReadTrailStream = Streamed<v1::TrailRecord>;

    async fn get_history(
        &self,
        _: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<Self::GetHistoryStream>, Status> {
        Ok(Response::new(self.stream(vec![v1::HistoryEntry::default()])))
    }

    async fn audit(&self, _: Request<v1::AuditRequest>) -> Result<Response<v1::AuditAnswer>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn read_trail(
        &self,
        _: Request<v1::ReadTrailRequest>,
    ) -> Result<Response<Self::ReadTrailStream>, Status> {
        Ok(Response::new(self.stream(self.records.clone())))
    }
}

/// Three starts.
fn chain() -> Vec<v1::TrailRecord> {
    let mut out: Vec<v1::TrailRecord> = Vec::new();
    for at in 1..=3 {
        let body = v1::TrailBody {
            at_unix_ns: at * 1_000_000_000,
            what: Some(What::Start(v1::TrailStart {
                version: "0.1.0".into(),
            })),
        };
        let head = out
            .last()
            .map(|last| (last.sequence, Hash::try_from(&last.hash[..]).unwrap()));
        out.push(link(head, body.encode_to_vec().into()));
    }
    out
}

async fn serve(records: &[v1::TrailRecord], end: End) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = TrailServiceServer::new(Script {
        records: records.to_vec(),
        end,
    });
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(served);
    address
}

async fn ask(address: &str, arguments: &[&str]) -> Output {
    let mut command = partywall(arguments);
    command.args(["--aggregator", address]);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_copy_stays_until_the_next_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let export = |format| ["audit", "export", "--format", format, "--out", out];
    let records = chain();
    let whole = serve(&records[..2], End::Whole).await;
    for format in ["jsonl", "csv"] {
        let copied = ask(&whole, &export(format)).await;
        assert_eq!(copied.status.code(), Some(0), "{copied:?}");
    }
    let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let copies = ["trail.jsonl", "trail.csv"].map(read);
    assert_eq!(copies[0].lines().count(), 2);
    // Who may read it is as with any other file.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("other"), "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(
        mode(&dir.path().join("trail.jsonl")),
        mode(&elsewhere.path().join("other"))
    );

    let gap = [records[0].clone(), records[2].clone()];
    for (records, end, code, wanted) in [
        (&records[..1], End::Stopping, 3, "the aggregator is stopping"),
        (&records[..], End::Stopping, 3, "the aggregator is stopping"),
        (&[], End::Stopping, 3, "the aggregator is stopping"),
        (&gap, End::Whole, 1, "records 2 to 2 are missing"),
        (&records[1..], End::Whole, 1, "begins with record 2"),
        (&[], End::Whole, 1, "no record to copy"),
    ] {
        let address = serve(records, end).await;
        let failed = ask(&address, &export("jsonl")).await;
        let line = complaint(&failed);
        assert!(line.contains(wanted), "{wanted:?} is not in {line}");
        assert_eq!(failed.status.code(), Some(code), "{line}");
        if end == End::Stopping {
            let failed = ask(&address, &export("csv")).await;
            assert_eq!(failed.status.code(), Some(3), "{}", complaint(&failed));
        }
        assert_eq!(files(dir.path()), ["trail.csv", "trail.jsonl"], "{line}");
        assert_eq!(["trail.jsonl", "trail.csv"].map(read), copies, "{line}");
    }

    let more = serve(&records, End::Whole).await;
    let copied = ask(&more, &export("jsonl")).await;
    assert_eq!(copied.status.code(), Some(0), "{copied:?}");
    assert_eq!(read("trail.jsonl").lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_copy_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let address = serve(&chain(), End::Never).await;
    let arguments = ["audit", "export", "--format", "jsonl", "--out", out];
    let child = partywall(&arguments)
        .args(["--aggregator", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while files(dir.path()).is_empty() {
        assert!(Instant::now() < deadline, "nothing was begun");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let interrupt = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    assert_eq!(files(dir.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_short_is_not_told_as_whole() {
    let records = chain();
    let stopping = serve(&records[..2], End::Stopping).await;
    for arguments in [
        &["audit", "verify"][..],
        &["audit", "verify", "--json"],
        &["audit", "export", "--format", "jsonl"],
        &["audit", "export", "--format", "csv"],
        &["history"],
        &["history", "--json"],
    ] {
        let output = ask(&stopping, arguments).await;
        let line = complaint(&output);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {line}");
        assert!(
            line.contains("the aggregator is stopping"),
            "{arguments:?}: {line}"
        );
        if !arguments.contains(&"export") {
            assert!(output.stdout.is_empty(), "{arguments:?}");
        }
    }
    let empty = serve(&[], End::Whole).await;
    let output = ask(&empty, &["audit", "verify"]).await;
    assert!(complaint(&output).contains("there is no record to verify"));
    assert_eq!(output.status.code(), Some(4));
}
