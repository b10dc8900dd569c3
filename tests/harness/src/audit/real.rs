//! The same with nothing made up: pods in network namespaces of their own that really connect, an agent that is killed and another that follows it, an
//! aggregator that is killed. There is one node, so of what its agent did not tell nobody knows.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use partywall_proto::v1::Reached;
use partywall_workload::{Family, Network, Pod, PodSpec, Work, WorkHandle};
use tokio::time::sleep;

use super::{Asked, Audited, client, node::unix_ns, plan::S, plan::SLOT, settle, until};
use crate::{
    cluster::Cluster,
    manifests::Documents,
    processes::{Binaries, Daemon, free_address},
    restarts::Random,
    run::cpu_request,
};

const TENANTS: [&str; 4] = ["red", "blue", "green", "amber"];
const SLOTS: u64 = 11;
/// Slots in which some connect. In `UNHEARD` no agent lives; those of the last follow the aggregator's restart.
const BUSY: [u64; 6] = [0, 1, 2, UNHEARD, 6, 10];
const UNHEARD: u64 = 4;
/// In tenths of a second from the beginning.
const AGENT_KILLED: u64 = 350;
const AGENT_AGAIN: u64 = 520;
const AGGREGATOR_KILLED: u64 = 760;
/// Into its slot, so that all of it lies within.
const BURST_AT: u64 = 20;
const BURST: Duration = Duration::from_millis(1_200);
/// An agent reports once a second: what is closer to its end or beginning it may not have told.
const INTERVAL: u64 = S + S / 2;

/// An aggregator takes what an agent's first ten reports tell for what may have been before it began.
const CATCH_UP: u64 = 10 * S;

/// Who connects to whom in a slot, by their places in [`TENANTS`].
type Pair = (usize, usize);

/// What happened, as this program saw it.
struct Truth {
    begins: u64,
    connected: BTreeSet<(u64, Pair)>,
    /// Times in which no agent told everything, and slots of which no aggregator lived from the beginning until they were written.
    deaf: (u64, u64),
    away: (u64, u64),
}

impl Truth {
    fn is_seen(&self, slot: u64) -> bool {
        let deaf = slot * SLOT < self.deaf.1 && (slot + 1) * SLOT > self.deaf.0;
        !deaf && !(self.away.0..self.away.1).contains(&slot)
    }

    fn answer(&self, from: &str, to: &str, first: u64, end: u64) -> Reached {
        let is = |(a, b): Pair| (TENANTS[a], TENANTS[b]) == (from, to);
        let mut reached = (first..end).filter(|slot| self.is_seen(*slot));
        if reached.any(|slot| self.connected.iter().any(|(at, pair)| *at == slot && is(*pair))) {
            Reached::Yes
        } else if (first..end).all(|slot| self.is_seen(slot)) {
            Reached::No
        } else {
            Reached::Unknown
        }
    }
}

/// A pod that answers on two ports.
struct Member {
    pod: Pod,
    address: IpAddr,
    _serve: [WorkHandle; 2],
}

/// Of what is met after the aggregator's restart the counters begin after it: what was met before would be measured against its past.
const PORTS: [u16; 2] = [80, 81];

impl Member {
    fn create(number: usize, network: &mut Network, cluster: &Cluster, cgroup_mount: &Path) -> Result<Self> {
        let address: IpAddr = [10, 78, 0, u8::try_from(number)? + 1].into();
        let spec = PodSpec {
            requests: cpu_request(0.1),
            pod_ips: vec![address.to_string()],
            ..PodSpec::new(TENANTS[number], "pod")
        };
        cluster.add_pod(&spec)?;
        let mut pod = Pod::create(spec, cgroup_mount)?;
        pod.connect(network.connect(&[address])?);
        let serve = |port| {
            let family = Family::Ipv4;
            pod.start(&Work::TcpServe { port, family }, None)
        };
        let [a, b] = PORTS;
        Ok(Self {
            _serve: [serve(a)?, serve(b)?],
            address,
            pod,
        })
    }
}

/// Each of `pairs` connects, several times in a second.
async fn burst(members: &[Member], pairs: &[Pair], port: u16) -> Result<()> {
    let mut clients = Vec::new();
    for (from, to) in pairs {
        let work = Work::Tcp {
            to: SocketAddr::new(members[*to].address, port),
            per_second: 10.0,
            bytes: 500,
            keep: false,
        };
        clients.push(members[*from].pod.start(&work, None)?);
    }
    sleep(BURST).await;
    for (client, (from, to)) in clients.into_iter().zip(pairs) {
        let traffic = client.finish().context("a client without counts")?;
        let (from, to) = (TENANTS[*from], TENANTS[*to]);
        ensure!(traffic.established > 0, "{from} did not reach {to}: {traffic:?}");
    }
    Ok(())
}

pub(crate) async fn audit(
    binaries: &Binaries,
    cgroup_mount: &Path,
    questions: usize,
    seed: u64,
    dir: &Path,
) -> Result<Audited> {
    let (state, grpc) = (dir.join("state"), free_address()?);
    std::fs::create_dir_all(&state)?;
    let namespaces = TENANTS.into_iter().collect();
    let cluster = Cluster::create(dir.join("cluster"), None, &Documents::default(), &namespaces)?;
    cluster.add_node()?;
    let mut network = Network::create()?;
    let members = (0..TENANTS.len())
        .map(|number| Member::create(number, &mut network, &cluster, cgroup_mount))
        .collect::<Result<Vec<_>>>()?;
    let mut aggregator = Daemon::durable_aggregator(binaries, grpc, cluster.dir(), &state, dir)?;
    aggregator.wait_ready().await?;
    let agent = Daemon::agent(binaries, grpc, dir).await?;

    let mut random = Random::new(seed);
    let begins_ns = (unix_ns() + 3 * S).next_multiple_of(SLOT);
    let at = |tenths: u64| begins_ns + tenths * S / 10;
    let mut truth = Truth {
        begins: begins_ns / SLOT,
        connected: BTreeSet::new(),
        deaf: (at(AGENT_KILLED) - INTERVAL, 0),
        away: (0, 0),
    };
    let mut agent = Some(agent);
    for slot in 0..SLOTS {
        let is_after_restart = slot * 100 > AGGREGATOR_KILLED;
        if BUSY.contains(&slot) {
            let all = (0..TENANTS.len()).flat_map(|a| (0..TENANTS.len()).map(move |b| (a, b)));
            let pairs: Vec<Pair> = all.filter(|(a, b)| a != b && random.below(100) < 40).collect();
            until(at(slot * 100 + BURST_AT)).await;
            burst(&members, &pairs, PORTS[usize::from(is_after_restart)]).await?;
            ensure!(
                unix_ns() / SLOT == truth.begins + slot,
                "a burst outlived its slot"
            );
            truth
                .connected
                .extend(pairs.into_iter().map(|pair| (truth.begins + slot, pair)));
        }
        let ends = (slot + 1) * 100;
        if (slot * 100..ends).contains(&AGENT_KILLED) {
            until(at(AGENT_KILLED)).await;
            agent.take().context("one agent is killed")?.kill()?;
        }
        if (slot * 100..ends).contains(&AGENT_AGAIN) {
            until(at(AGENT_AGAIN)).await;
            agent = Some(Daemon::agent(binaries, grpc, dir).await?);
            truth.deaf.1 = unix_ns() + INTERVAL;
        }
        if (slot * 100..ends).contains(&AGGREGATOR_KILLED) {
            until(at(AGGREGATOR_KILLED)).await;
            aggregator.kill_now()?;
            aggregator = Daemon::durable_aggregator(binaries, grpc, cluster.dir(), &state, dir)?;
            aggregator.wait_ready().await?;
            // A slot is written five seconds after its end.
            let written = (at(AGGREGATOR_KILLED) - 5 * S) / SLOT;
            truth.away = (written, (unix_ns() + CATCH_UP + INTERVAL) / SLOT + 1);
        }
        until(at(ends)).await;
    }
    let mut client = client(grpc).await?;
    settle(&mut client, at(SLOTS * 100)).await?;
    let asked = Asked {
        tenants: &TENANTS,
        begins: truth.begins,
        slots: SLOTS,
        answer: &|from, to, first, end| truth.answer(from, to, first, end),
    };
    let mut audited = Audited::new(questions, seed, truth.connected.len());
    asked.all(&mut client, &mut random, &mut audited).await?;
    agent.context("an agent lives")?.stop().await?;
    aggregator.stop().await?;
    for member in members {
        let Member { pod, _serve, .. } = member;
        drop(_serve);
        pod.remove()?;
    }
    Ok(audited)
}
