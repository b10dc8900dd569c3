//! The flows that suggestions and comparisons are made from: those of an aggregator, or a file of `partywall flows --json`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail, ensure};
use partywall_aggregator_core::identity::{Protocol, is_namespace_name};
use partywall_proto::v1;
use serde::Deserialize as _;
use serde_json::Value;

use super::usage;
use crate::args::{Common, Of};
use crate::client::Client;
use crate::exit::{Code, Failure};
use crate::flows::{self, End, Flow, Flows};
use crate::text::clean;

/// Longest file that is read, in bytes: some 400,000 flows.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// A flow whose texts were looked at.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub flow: Flow,
    pub protocol: Protocol,
    pub port: u16,
    pub from: Option<IpAddr>,
    pub to: Option<IpAddr>,
}

#[derive(Debug, Default)]
pub(super) struct AllSeen {
    /// Of one cluster. Each once, in an order that does not depend on who listed them.
    pub flows: Vec<Seen>,
    /// That the aggregator knew besides.
    pub left_out: u64,
}

impl AllSeen {
    /// When the last packet was seen.
    pub(super) fn until_unix_seconds(&self) -> f64 {
        let last = self.flows.iter().map(|s| s.flow.last_seen_unix_seconds);
        last.fold(0.0, f64::max)
    }
}

pub(super) fn read(common: &Common, of: &Of, file: Option<&Path>) -> Result<AllSeen, Failure> {
    if let Some(file) = file {
        let lists = from_file(file).map_err(usage)?;
        return all(lists, of.cluster.as_deref(), &file.display().to_string());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Code::Missing, error))?;
    runtime.block_on(async {
        let mut client = Client::connect(common, of).await?;
        ask(&mut client).await
    })
}

/// Everything that the aggregator lists.
pub(super) async fn ask(client: &mut Client) -> Result<AllSeen, Failure> {
    let list = flows::all(client, &v1::GetFlowsRequest::default()).await?;
    all(vec![list], None, client.address())
}

/// `source`: where they are from. `cluster`: the one that they are wanted of.
fn all(lists: Vec<Flows>, cluster: Option<&str>, source: &str) -> Result<AllSeen, Failure> {
    // Several lists are one that was saved several times: what was left out of them is mostly the same.
    let left_out = lists.iter().map(|list| list.left_out).max().unwrap_or_default();
    let flows = lists.into_iter().flat_map(|list| list.flows);
    let place = |i: usize| format!("{source}: flow {i}");
    let checked = flows.enumerate().map(|(i, flow)| check(flow).context(place(i)));
    let checked: Vec<Seen> = checked.collect::<anyhow::Result<_>>().map_err(usage)?;
    let flows = of_one_cluster(checked, cluster).with_context(|| source.to_owned());
    Ok(AllSeen {
        flows: once(flows.map_err(usage)?),
        left_out,
    })
}

/// Policies are of one cluster, and namespaces and pods of another may bear the same names. A flow that names none was saved when there was one only.
fn of_one_cluster(flows: Vec<Seen>, wanted: Option<&str>) -> anyhow::Result<Vec<Seen>> {
    let names = flows.iter().map(|seen| seen.flow.cluster.as_str());
    let there_are: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    let listed = there_are.iter().copied().collect::<Vec<_>>().join(", ");
    match wanted {
        None if there_are.len() > 1 => {
            bail!("flows of several clusters: {listed}; say by --cluster which one is meant")
        }
        None => Ok(flows),
        Some(name) => {
            let is_there = there_are.is_empty() || there_are.contains(name);
            ensure!(
                is_there,
                "--cluster {:?}: no flow is of it; there are those of {listed}",
                clean(name)
            );
            let is_of_it = |seen: &Seen| seen.flow.cluster.is_empty() || seen.flow.cluster == name;
            Ok(flows.into_iter().filter(is_of_it).collect())
        }
    }
}

fn from_file(file: &Path) -> anyhow::Result<Vec<Flows>> {
    let name = || file.display().to_string();
    let length = std::fs::metadata(file).with_context(name)?.len();
    ensure!(
        length <= MAX_BYTES,
        "{}: {length} bytes, at most {MAX_BYTES} are read",
        name()
    );
    let text = std::fs::read_to_string(file).with_context(name)?;
    parse(&text).with_context(name)
}

/// Documents of `flows --json`, lines of `flows --watch --json` (flows, and documents of what was left out), or some of both.
fn parse(text: &str) -> anyhow::Result<Vec<Flows>> {
    let mut lists = Vec::new();
    let mut lines = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let document = document?;
        if document.get("flows").is_some() {
            lists.push(Flows::deserialize(document)?);
        } else if document.get("verdict").is_some() {
            lines.push(Flow::deserialize(document)?);
        } else {
            bail!("it is not what `partywall flows --json` writes: neither flows nor verdict is there");
        }
    }
    lists.push(Flows {
        flows: lines,
        ..Flows::default()
    });
    Ok(lists)
}

fn check(mut flow: Flow) -> anyhow::Result<Seen> {
    let protocol = protocol(&flow.protocol).ok_or_else(|| {
        anyhow!(
            "protocol: {:?} is neither a name nor a number of one",
            flow.protocol
        )
    })?;
    let port =
        u16::try_from(flow.port).map_err(|_| anyhow!("port: {} is no port, from 0 to 65535", flow.port))?;
    let (from, to) = (end("from", &mut flow.from)?, end("to", &mut flow.to)?);
    let texts = [
        &mut flow.cluster,
        &mut flow.protocol,
        &mut flow.verdict,
        &mut flow.reason,
    ];
    for text in texts {
        *text = clean(text);
    }
    Ok(Seen {
        flow,
        protocol,
        port,
        from,
        to,
    })
}

/// As the aggregator writes it.
fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "ICMP" => Some(Protocol::Other(1)),
        "ICMPv6" => Some(Protocol::Other(58)),
        other => Protocol::from_object(other).or_else(|| other.parse().ok().map(Protocol::from_number)),
    }
}

fn end(which: &str, end: &mut End) -> anyhow::Result<Option<IpAddr>> {
    let texts = [
        &mut end.tenant,
        &mut end.pod,
        &mut end.uid,
        &mut end.node,
        &mut end.kind,
        &mut end.unattributed,
    ];
    for text in texts {
        *text = clean(text);
    }
    ensure!(
        end.namespace.is_empty() || is_namespace_name(&end.namespace),
        "{which}.namespace: {:?} is no name of a namespace",
        end.namespace
    );
    if end.address.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = end
        .address
        .parse()
        .map_err(|_| anyhow!("{which}.address: {:?} is no IP address", end.address))?;
    end.address = address.to_canonical().to_string();
    Ok(Some(address.to_canonical()))
}

/// Of a flow that is listed several times, what was said last: its counters are cumulative.
fn once(all: Vec<Seen>) -> Vec<Seen> {
    let mut last: BTreeMap<_, Seen> = BTreeMap::new();
    for seen in all {
        let id = |end: &End| {
            (
                end.namespace.clone(),
                end.pod.clone(),
                end.uid.clone(),
                end.address.clone(),
            )
        };
        let key = (id(&seen.flow.to), id(&seen.flow.from), seen.protocol, seen.port);
        let newer = |old: &Seen| old.flow.last_seen_unix_seconds <= seen.flow.last_seen_unix_seconds;
        if last.get(&key).is_none_or(newer) {
            last.insert(key, seen);
        }
    }
    last.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(last: f64, opened: u64) -> String {
        let end = |pod: &str| End {
            namespace: "blue".into(),
            pod: pod.into(),
            address: "::ffff:10.0.0.1".into(),
            ..End::default()
        };
        let mut flow = Flow {
            from: end("a"),
            to: end("b\n---"),
            protocol: "TCP".into(),
            verdict: "open".into(),
            last_seen_unix_seconds: last,
            ..Flow::default()
        };
        flow.traffic.opened = opened;
        serde_json::to_string(&flow).unwrap()
    }

    #[test]
    fn what_was_said_last_of_a_flow_counts() {
        let text = format!(
            "{}\n{}\n{{\"judged_unix_seconds\":1,\"window_seconds\":1,\"left_out\":0,\"flows\":[{}]}}",
            line(5.0, 1),
            line(9.0, 7),
            line(7.0, 3)
        );
        let lists = parse(&text).unwrap();
        let flows: Vec<_> = lists.into_iter().flat_map(|l| l.flows).collect();
        let flows = once(flows.into_iter().map(|f| check(f).unwrap()).collect());
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0].flow.traffic.opened, 7);
        assert_eq!(flows[0].from.unwrap().to_string(), "10.0.0.1");
        assert_eq!(flows[0].flow.to.pod, "b\\u{a}---");
    }

    #[test]
    fn flows_of_two_clusters_are_not_mixed() {
        let named = "\"cluster\":\"\"";
        let of = |cluster: &str, opened| {
            line(1.0, opened).replacen(named, &format!("\"cluster\":\"{cluster}\""), 1)
        };
        let text = [of("eu-1", 1), of("us-1", 2)].join("\n");
        let asked = |text: &str, cluster| all(parse(text).unwrap(), cluster, "flows.json");
        let error = asked(&text, None).unwrap_err().to_string();
        assert!(
            error.contains("eu-1, us-1") && error.contains("--cluster"),
            "{error}"
        );
        let error = asked(&text, Some("asia")).unwrap_err().to_string();
        assert!(
            error.contains("\"asia\"") && error.contains("eu-1, us-1"),
            "{error}"
        );
        let seen = asked(&text, Some("us-1")).unwrap();
        assert_eq!(seen.flows.len(), 1);
        assert_eq!(seen.flows[0].flow.traffic.opened, 2);
        // Saved when there was one only.
        let old = line(1.0, 3).replacen(&format!("{named},"), "", 1);
        assert!(!old.contains("cluster"));
        assert_eq!(asked(&old, Some("eu-1")).unwrap().flows.len(), 1);
    }

    #[test]
    fn what_was_left_out_is_told_whatever_number_it_is() {
        let list = |left_out: u64| {
            format!("{{\"judged_unix_seconds\":1,\"window_seconds\":1,\"left_out\":{left_out},\"flows\":[]}}")
        };
        let text = [line(1.0, 1), list(3), list(u64::MAX), list(u64::MAX)].join("\n");
        let seen = all(parse(&text).unwrap(), None, "flows.json").unwrap();
        assert_eq!((seen.flows.len(), seen.left_out), (1, u64::MAX));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        for (from, to, needles) in [
            ("\"TCP\"", "\"TPC\"", &["protocol", "\"TPC\""][..]),
            ("\"port\":0", "\"port\":65536", &["port", "65536"]),
            ("::ffff:10.0.0.1", "10.0.0", &["from.address", "\"10.0.0\""]),
            ("\"blue\"", "\"Blue:\"", &["from.namespace", "\"Blue:\""]),
        ] {
            let text = line(1.0, 1).replace(from, to);
            let flow = parse(&text).unwrap().remove(0).flows.remove(0);
            let error = check(flow).unwrap_err().to_string();
            assert!(needles.iter().all(|n| error.contains(n)), "{error}");
        }
        for (text, needle) in [
            ("[1", "line 1"),
            ("{}", "flows --json"),
            ("{\"flows\":3}", "expected a sequence"),
            ("{\"flows\":[{}]}", "missing field"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
