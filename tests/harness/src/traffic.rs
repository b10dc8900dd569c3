//! The agent's counts of traffic against what was sent: exact for one flow as for many, and beside a neighbour that opens as many as it can.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use partywall_abi::UNIT_FLOWS;
use partywall_proto::v1::Role;
use partywall_workload::{Family, Network, Pod, PodSpec, Traffic, Work, WorkHandle};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    intake::Intake,
    processes::{Binaries, Daemon},
    run::{boot_ns, cpu_request},
};

const REPORT_PATIENCE: Duration = Duration::from_secs(5);
/// Payload of each datagram.
const BYTES: u32 = 100;
/// IPv4's and UDP's.
const HEADERS: u64 = 28;
/// What an agent may hold with its maps.
const MEMORY_BOUND: u64 = 64 << 20;

struct Case {
    name: &'static str,
    flows: u32,
    per_second: f64,
    /// Somebody beside it opens flows as fast as it can.
    attacked: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "1 flow",
        flows: 1,
        per_second: 10_000.0,
        attacked: false,
    },
    Case {
        name: "1,000 flows",
        flows: 1_000,
        per_second: 10_000.0,
        attacked: false,
    },
    Case {
        name: "50,000 flows",
        flows: 50_000,
        per_second: 10_000.0,
        attacked: false,
    },
    Case {
        name: "20 flows, attacked",
        flows: 20,
        per_second: 1_000.0,
        attacked: true,
    },
];

/// What one sender sent, and what was reported of it.
#[derive(Debug, Serialize)]
pub(crate) struct Account {
    case: &'static str,
    sent_packets: u64,
    /// Ports that were sent to.
    wanted_flows: u64,
    flows: usize,
    reported_packets: u64,
    folded_packets: u64,
    sent_bytes: u64,
    counted_bytes: u64,
    /// The attacker's: packets sent, and reported with what was folded.
    attack: Option<[u64; 2]>,
    resident_bytes: u64,
    map_bytes: u64,
    faults: Vec<String>,
}

impl Account {
    pub(crate) fn is_right(&self) -> bool {
        self.failings().is_empty()
    }

    fn failings(&self) -> Vec<&'static str> {
        let bytes_off = self.counted_bytes.abs_diff(self.sent_bytes);
        let flows = self.flows as u64;
        // No more than a unit may have, so that each of them has its place, whoever is beside it.
        let all_fit = self.wanted_flows <= UNIT_FLOWS;
        let checks = [
            (self.sent_packets > 0, "nothing was sent"),
            (
                self.reported_packets + self.folded_packets == self.sent_packets,
                "packets that are neither reported nor folded",
            ),
            (
                bytes_off * 1_000 <= self.sent_bytes,
                "bytes off by more than 0.1 %",
            ),
            (
                flows >= self.wanted_flows.min(UNIT_FLOWS),
                "flows without a place, though there are some",
            ),
            (!all_fit || flows <= self.wanted_flows, "flows that nobody made"),
            (
                !all_fit || self.folded_packets == 0,
                "packets folded, though each flow has its place",
            ),
            (
                self.attack
                    .is_none_or(|[sent, counted]| sent > 0 && sent == counted),
                "packets of the attacker that are neither reported nor folded",
            ),
            (
                self.resident_bytes + self.map_bytes <= MEMORY_BOUND,
                "an agent of more than 64 MiB",
            ),
            (self.faults.is_empty(), "reports that contradict themselves"),
        ];
        checks
            .into_iter()
            .filter_map(|(right, failing)| (!right).then_some(failing))
            .collect()
    }

    pub(crate) const HEADER: &str =
        "    CASE                      SENT     FLOWS    REPORTED      FOLDED   BYTES OFF   AGENT";

    pub(crate) fn row(&self) -> String {
        let mib = |bytes: u64| crate::measure::nanoseconds(bytes) / 1_048_576.0;
        let attack = self.attack.map_or_else(String::new, |[sent, counted]| {
            format!("\n      attacker: {sent} sent, {counted} reported or folded")
        });
        let wrong: String = self
            .failings()
            .iter()
            .map(|failing| format!("\n      wrong: {failing}"))
            .chain(self.faults.iter().take(5).map(|fault| format!("\n      {fault}")))
            .collect();
        format!(
            "{}  {:<20} {:>10}  {:>8}  {:>10}  {:>10}  {:>10}  {:>4.1} MiB + {:.1} MiB of maps{attack}{wrong}",
            if self.is_right() { "ok" } else { "!!" },
            self.case,
            self.sent_packets,
            self.flows,
            self.reported_packets,
            self.folded_packets,
            self.counted_bytes.abs_diff(self.sent_bytes),
            mib(self.resident_bytes),
            mib(self.map_bytes),
        )
    }
}

pub(crate) async fn traffic(
    binaries: &Binaries,
    cgroup_mount: &Path,
    seconds: f64,
    dir: &Path,
) -> Result<Vec<Account>> {
    let period = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    let mut accounts = Vec::new();
    println!("{}", Account::HEADER);
    for case in &CASES {
        let account = account(case, binaries, cgroup_mount, period, dir)
            .await
            .context(case.name)?;
        println!("{}", account.row());
        accounts.push(account);
    }
    Ok(accounts)
}

/// A pod in the network, and what it does there.
struct Sender {
    pod: Pod,
    work: WorkHandle,
}

impl Sender {
    fn start(
        network: &mut Network,
        cgroup_mount: &Path,
        name: &str,
        number: u8,
        work: &Work,
    ) -> Result<Self> {
        let spec = PodSpec {
            requests: cpu_request(0.1),
            ..PodSpec::new("traffic", name)
        };
        let mut pod = Pod::create(spec, cgroup_mount)?;
        pod.connect(network.connect(&[address(number)])?);
        let work = pod.start(work, None)?;
        Ok(Self { pod, work })
    }

    /// What it sent in all. The pod stays until its last counters were read.
    fn stop(self) -> Result<(Pod, Traffic)> {
        let traffic = self.work.finish().context("a sender without counts")?;
        Ok((self.pod, traffic))
    }
}

fn address(number: u8) -> std::net::IpAddr {
    [10, 77, 0, number].into()
}

async fn account(
    case: &Case,
    binaries: &Binaries,
    cgroup_mount: &Path,
    period: Duration,
    dir: &Path,
) -> Result<Account> {
    let mut network = Network::create()?;
    let intake = Intake::start(None).await?;
    let agent = Daemon::agent(binaries, intake.address, dir).await?;
    intake.report_since(boot_ns(), REPORT_PATIENCE).await?;

    let serve = Work::UdpServe {
        port: 53,
        family: Family::Ipv4,
    };
    // Nobody listens on the ports that are sent to but one: what is sent is counted all the same.
    let receiver = Sender::start(&mut network, cgroup_mount, "receiver", 1, &serve)?;
    let send = |port, per_second, flows| Work::Udp {
        to: SocketAddr::new(address(1), port),
        per_second,
        bytes: BYTES,
        flows,
        source: None,
    };
    let attacker = case
        .attacked
        .then(|| {
            Sender::start(
                &mut network,
                cgroup_mount,
                "attacker",
                3,
                &send(10_000, 1e6, 50_000),
            )
        })
        .transpose()?;
    let sender = Sender::start(
        &mut network,
        cgroup_mount,
        "sender",
        2,
        &send(10_000, case.per_second, case.flows),
    )?;
    sleep(period).await;
    let (sender, sent) = sender.stop()?;
    let attacker = attacker.map(Sender::stop).transpose()?;
    intake.report_since(boot_ns(), REPORT_PATIENCE).await?;
    let resident_bytes = crate::churn::resident_bytes(agent.pid())?;
    agent.stop().await?;
    drop(receiver);

    let record = intake.record();
    let of = |pod: &Pod| {
        let entities = record.entities_of(&pod.spec().uid);
        let (flows, seen) = record.traffic.flows_of(&entities, Role::Opened);
        (flows, seen, record.traffic.folded_of(&entities))
    };
    let (flows, seen, folded) = of(&sender);
    let attack = attacker.map(|(pod, sent)| {
        let (_, seen, folded) = of(&pod);
        [sent.packets_sent, seen.sent_packets + folded.sent_packets]
    });
    Ok(Account {
        case: case.name,
        sent_packets: sent.packets_sent,
        wanted_flows: sent.packets_sent.min(case.flows.into()),
        flows,
        reported_packets: seen.sent_packets,
        folded_packets: folded.sent_packets,
        sent_bytes: sent.bytes_sent + sent.packets_sent * HEADERS,
        counted_bytes: seen.sent_bytes + folded.sent_bytes,
        attack,
        resident_bytes,
        map_bytes: record.cost.as_ref().map_or(0, |cost| cost.map_bytes),
        faults: record.traffic.faults.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(wanted_flows: u64, flows: usize, folded_packets: u64) -> Account {
        let sent_packets = 100_000;
        let sent_bytes = sent_packets * (u64::from(BYTES) + HEADERS);
        Account {
            case: "x",
            sent_packets,
            wanted_flows,
            flows,
            reported_packets: sent_packets - folded_packets,
            folded_packets,
            sent_bytes,
            counted_bytes: sent_bytes,
            attack: None,
            resident_bytes: 0,
            map_bytes: 0,
            faults: Vec::new(),
        }
    }

    #[test]
    fn flows_that_have_their_places_are_told_each_by_itself() {
        for (wanted, flows, folded, failing) in [
            (1, 1, 0, None),
            (1_000, 1_000, 0, None),
            (2_048, 2_048, 0, None),
            (50_000, 2_048, 90_000, None),
            // Everything is accounted for, and nothing of it told.
            (1, 0, 100_000, Some("flows without a place")),
            (1_000, 999, 100, Some("flows without a place")),
            (50_000, 0, 100_000, Some("flows without a place")),
            (1_000, 1_000, 1, Some("packets folded")),
            (20, 21, 0, Some("flows that nobody made")),
        ] {
            let failings = account(wanted, flows, folded).failings();
            let first = failings.first().copied();
            match failing {
                None => assert_eq!(first, None, "{wanted} wanted, {flows} told"),
                Some(failing) => assert!(
                    first.is_some_and(|first| first.starts_with(failing)),
                    "{failings:?}"
                ),
            }
        }
    }

    #[test]
    fn packets_are_exact_and_bytes_within_a_thousandth() {
        let right = || account(1, 1, 0);
        let lacking = Account {
            reported_packets: right().sent_packets - 1,
            ..right()
        };
        assert_eq!(
            lacking.failings(),
            ["packets that are neither reported nor folded"]
        );
        let off = |bytes| Account {
            counted_bytes: right().sent_bytes - bytes,
            ..right()
        };
        let thousandth = right().sent_bytes / 1_000;
        assert!(off(thousandth).is_right());
        assert_eq!(off(thousandth + 1).failings(), ["bytes off by more than 0.1 %"]);
        let attack = Account {
            attack: Some([5, 4]),
            ..right()
        };
        assert!(!attack.is_right());
    }
}
