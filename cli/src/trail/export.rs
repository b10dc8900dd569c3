//! `partywall audit export`: the trail for others, as a table, as its chain, or as objects of report APIs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use futures::StreamExt;
use partywall_proto::trail::Verifier;
use partywall_proto::v1;
use partywall_proto::v1::trail_body::What;
use tempfile::NamedTempFile;

use super::csv::Sheet;
use super::lines::{Line, hex};
use super::model::Audit;
use super::reports::{self, Api, Span};
use crate::args::{AuditExport, Common, ExportFormat};
use crate::client::Client;
use crate::exit::{Code, Failure, Outcome};
use crate::flows::verdict;
use crate::model::{Breach, seconds};
use crate::output::{aside, print};
use crate::signal;
use crate::text::utc;

pub(super) async fn run(common: &Common, args: &AuditExport) -> Outcome {
    if directory(args).is_none() {
        return export(common, args).await;
    }
    // What was begun beside the last copy is taken away again.
    let interrupted = signal::interrupted()?;
    tokio::select! {
        biased;
        () = interrupted => Err(Failure::new(Code::Interrupted, anyhow!("interrupted"))),
        done = export(common, args) => done,
    }
}

async fn export(common: &Common, args: &AuditExport) -> Outcome {
    let mut client = Client::connect(common, &args.of).await?;
    match args.format {
        ExportFormat::Jsonl => lines(&mut client, args).await,
        ExportFormat::Csv => sheet(&mut client, args).await,
        ExportFormat::Openreports => objects(&mut client, args, Api::OpenReports).await,
        ExportFormat::Policyreport => objects(&mut client, args, Api::PolicyReport).await,
    }
}

/// The chain as it is on the disk. Verified on the way, so that nobody keeps a copy of what is broken.
async fn lines(client: &mut Client, args: &AuditExport) -> Outcome {
    let partial = [
        ("--from", args.from.is_some()),
        ("--to", args.to.is_some()),
        ("--cluster", args.of.cluster.is_some()),
    ];
    if let Some((flag, _)) = partial.into_iter().find(|(_, given)| *given) {
        let why = anyhow!("{flag} goes not with --format jsonl: a chain is whole, or it shows nothing");
        return Err(Failure::new(Code::Usage, why));
    }
    let mut out = Out::new(args, "trail.jsonl")?;
    let mut verifier = Verifier::default();
    let mut records = Box::pin(client.read_trail().await?);
    while let Some(record) = records.next().await {
        let record = record?;
        let body = verifier
            .take(&record)
            .map_err(|broken| anyhow!("the trail is broken: {broken}"))?;
        out.push(&(serde_json::to_string(&Line::new(&record, &body)?)? + "\n"))?;
    }
    verifier
        .finish()
        .map_err(|broken| anyhow!("the trail is broken: {broken}"))?;
    let (sequence, hash) = verifier
        .head()
        .context("there is no record to copy: every trail begins with one")?;
    out.finish()?;
    aside(&format!(
        "the head is {sequence}:{}; note it where the aggregator cannot write",
        hex(&hash)
    ));
    Ok(())
}

/// Everything that the trail holds of the time, a row each.
async fn sheet(client: &mut Client, args: &AuditExport) -> Outcome {
    let (from_ns, to_ns) = super::span(args.from, args.to)?;
    let mut sheet = Sheet::new(&[
        "sequence",
        "hash",
        "at",
        "record",
        "cluster",
        "kind",
        "state",
        "tenant",
        "against_or_to",
        "node",
        "subject",
        "verdict_or_reason",
        "delivered",
        "bytes",
        "packets",
        "connections",
        "summary",
    ])?;
    let mut whole = Whole::default();
    let mut records = Box::pin(client.read_trail().await?);
    while let Some(record) = records.next().await {
        let record = record?;
        let body: v1::TrailBody = prost::Message::decode(record.body.clone())
            .with_context(|| format!("record {}: its body is no TrailBody", record.sequence))?;
        let cluster = args.of.cluster.as_deref().unwrap_or_default();
        whole.take(&body, cluster);
        if is_within(&body, from_ns, to_ns) {
            rows(&mut sheet, &record, &body, cluster)?;
        }
    }
    let mut out = Out::new(args, "trail.csv")?;
    out.push(&sheet.text()?)?;
    out.finish()?;
    aside(&whole.told());
    Ok(())
}

const HOUR_S: u64 = 3_600;

/// Whether a record is of the time. That of an hour is written some time after it is over, and tells of the hour.
fn is_within(body: &v1::TrailBody, from_ns: u64, to_ns: u64) -> bool {
    match &body.what {
        Some(What::Hour(hour)) => {
            let ns = |unix_s: u64| unix_s.saturating_mul(1_000_000_000);
            let end_s = hour.hour_unix_s.saturating_add(HOUR_S);
            ns(hour.hour_unix_s) < to_ns && from_ns < ns(end_s)
        }
        _ => (from_ns..to_ns).contains(&body.at_unix_ns),
    }
}

/// The end of the newest hour that is in the chain, by cluster.
#[derive(Default)]
struct Whole(BTreeMap<String, u64>);

impl Whole {
    fn take(&mut self, body: &v1::TrailBody, only: &str) {
        if let Some(What::Hour(hour)) = &body.what
            && (only.is_empty() || hour.cluster == only)
        {
            let end_s = self.0.entry(hour.cluster.clone()).or_default();
            *end_s = (*end_s).max(hour.hour_unix_s.saturating_add(HOUR_S));
        }
    }

    fn told(&self) -> String {
        match self.0.values().min() {
            Some(end_s) => format!(
                "what crossed and what was not seen is in the chain up to {}; later hours are not complete yet",
                utc(*end_s as f64)
            ),
            None => {
                "no hour is complete yet: what crossed and what was not seen is not in the chain".to_owned()
            }
        }
    }
}

fn rows(sheet: &mut Sheet, record: &v1::TrailRecord, body: &v1::TrailBody, only: &str) -> anyhow::Result<()> {
    let (sequence, hash) = (record.sequence.to_string(), hex(&record.hash));
    let at = utc(seconds(body.at_unix_ns));
    let wanted = |cluster: &str| only.is_empty() || cluster == only;
    let mut row = |what: &str, cells: [&str; 13]| {
        sheet.row([sequence.as_str(), &hash, &at, what].into_iter().chain(cells))
    };
    match &body.what {
        Some(What::Breach(breach)) if wanted(&breach.cluster) => {
            let b = Breach::from(breach.clone());
            row(
                "breach",
                [
                    &b.cluster,
                    &b.kind,
                    b.state.name(),
                    &b.tenant,
                    &b.against,
                    &b.node,
                    &b.subject,
                    "",
                    "",
                    "",
                    "",
                    "",
                    &b.summary,
                ],
            )?;
        }
        Some(What::Hour(hour)) if wanted(&hour.cluster) => {
            let begins = utc(hour.hour_unix_s as f64);
            for c in &hour.crossings {
                let [bytes, packets, connections] =
                    [c.bytes, c.packets, c.connections].map(|n| n.to_string());
                let summary = format!("in the hour from {begins}");
                row(
                    "crossing",
                    [
                        &hour.cluster,
                        "",
                        "",
                        &c.from,
                        &c.to,
                        "",
                        "",
                        &verdict(c.verdict),
                        &c.delivered.to_string(),
                        &bytes,
                        &packets,
                        &connections,
                        &summary,
                    ],
                )?;
            }
            for c in &hour.coverage {
                let summary = format!("not seen in the hour from {begins}");
                row(
                    "not_seen",
                    [
                        &hour.cluster,
                        "",
                        "",
                        &c.tenant,
                        "",
                        &c.node,
                        "",
                        &c.reason,
                        "",
                        "",
                        "",
                        "",
                        &summary,
                    ],
                )?;
            }
        }
        Some(What::Start(start)) => {
            let summary = format!("an aggregator of version {} began to write", start.version);
            row(
                "start",
                ["", "", "", "", "", "", "", "", "", "", "", "", &summary],
            )?;
        }
        Some(What::Pruned(pruned)) => {
            let summary = format!("records up to {} were taken out", pruned.up_to_sequence);
            row(
                "pruned",
                [
                    "",
                    "",
                    "",
                    "",
                    "",
                    "",
                    "",
                    &pruned.reason,
                    "",
                    "",
                    "",
                    "",
                    &summary,
                ],
            )?;
        }
        _ => {}
    }
    Ok(())
}

/// One object for each namespace.
async fn objects(client: &mut Client, args: &AuditExport, api: Api) -> Outcome {
    let (from_unix_ns, to_unix_ns) = super::span(args.from, args.to)?;
    let snapshot = client.snapshot(false).await?;
    let clusters: Vec<&str> = snapshot.clusters.iter().map(|c| c.name.as_str()).collect();
    if clusters.len() > 1 {
        let why = anyhow!(
            "--cluster is needed: the aggregator serves {}, and an object is one cluster's",
            clusters.join(", ")
        );
        return Err(Failure::new(Code::Usage, why));
    }
    let past = client
        .history(v1::GetHistoryRequest {
            from_unix_ns,
            to_unix_ns,
            ..v1::GetHistoryRequest::default()
        })
        .await?;
    // One tenant at a time: of all pairs at once the aggregator tells so many and no more.
    let mut audits: BTreeMap<String, Audit> = BTreeMap::new();
    for tenant in snapshot.tenants.iter().filter(|t| !t.namespaces.is_empty()) {
        let request = v1::AuditRequest {
            from_unix_ns,
            to_unix_ns,
            tenant: tenant.name.clone(),
            ..v1::AuditRequest::default()
        };
        audits.insert(tenant.name.clone(), client.audit(request).await?);
    }
    let span = audits.values().next().map_or_else(
        || Span {
            from: utc(seconds(from_unix_ns)),
            to: utc(seconds(to_unix_ns)),
            to_unix_seconds: seconds(to_unix_ns),
        },
        |audit| Span {
            from: audit.from.clone(),
            to: audit.to.clone(),
            to_unix_seconds: audit.to_unix_seconds,
        },
    );
    let made = reports::reports(&snapshot.tenants, &past.entries, &audits, &span, api);
    if made.placeless > 0 {
        aside(&format!(
            "{} in no object: neither a pod nor a tenant with a namespace is named",
            crate::text::count(made.placeless, "breach is", "breaches are")
        ));
    }
    if directory(args).is_none() {
        let texts: Vec<&str> = made.objects.iter().map(|(_, text)| text.as_str()).collect();
        return Ok(print(&texts.join("---\n"))?);
    }
    for (namespace, text) in &made.objects {
        let mut out = Out::new(args, &format!("{namespace}.yaml"))?;
        out.push(text)?;
        out.finish()?;
    }
    Ok(())
}

/// Where files are written; `None`: to stdout.
fn directory(args: &AuditExport) -> Option<&Path> {
    args.out.as_deref().filter(|dir| *dir != Path::new("-"))
}

/// Where an export goes: stdout, or a file in the directory. That gets its name once it is whole: until then the copy before it keeps it.
struct Out(Option<(NamedTempFile, PathBuf)>);

impl Out {
    fn new(args: &AuditExport, name: &str) -> anyhow::Result<Self> {
        let Some(dir) = directory(args) else {
            return Ok(Self(None));
        };
        fs::create_dir_all(dir).with_context(|| format!("--out {}", dir.display()))?;
        let file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            // As of any new file: the umask takes from it.
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(dir)
            .with_context(|| format!("--out: making a file in {}", dir.display()))?;
        Ok(Self(Some((file, dir.join(name)))))
    }

    fn push(&mut self, text: &str) -> anyhow::Result<()> {
        match &mut self.0 {
            Some((file, _)) => file.write_all(text.as_bytes()).context("--out: writing")?,
            None => print(text)?,
        }
        Ok(())
    }

    fn finish(self) -> Outcome {
        if let Some((file, path)) = self.0 {
            file.as_file().sync_all().context("--out: writing")?;
            file.persist(&path)
                .map_err(|refused| refused.error)
                .with_context(|| format!("--out: making {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_of_its_own_time_not_of_when_it_was_written() {
        let at = |unix_s: u64| unix_s * 1_000_000_000;
        let hour = |hour_unix_s: u64| v1::TrailBody {
            at_unix_ns: at(hour_unix_s + 3_900),
            what: Some(What::Hour(v1::TrailHour {
                cluster: "default".to_owned(),
                hour_unix_s,
                ..v1::TrailHour::default()
            })),
        };
        for (hour_unix_s, wanted) in [(0, false), (3_600, true), (7_200, true), (10_800, false)] {
            let is = is_within(&hour(hour_unix_s), at(7_199), at(10_800));
            assert_eq!(is, wanted, "{hour_unix_s}");
        }
        let other = v1::TrailBody {
            at_unix_ns: at(10_800),
            what: None,
        };
        assert!(!is_within(&other, at(7_199), at(10_800)));
        assert!(is_within(&other, at(7_199), at(10_801)));
        let mut whole = Whole::default();
        assert!(whole.told().contains("no hour"));
        whole.take(&hour(7_200), "");
        whole.take(&hour(3_600), "default");
        whole.take(&hour(36_000), "elsewhere");
        assert!(
            whole.told().contains("up to 1970-01-01T03:00:00"),
            "{}",
            whole.told()
        );
    }
}
