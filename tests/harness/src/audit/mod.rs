//! "Did A reach B between T1 and T2?" against what is known to have happened.
//!
//! A real aggregator that keeps a trail; three nodes that exist in reports alone, so that every connection between their pods is known to the moment. The
//! agent of one is killed with what it counted, another is cut off and tells later, and the aggregator is killed without warning. Then random questions:
//! the aggregator's answer must be the oracle's, each one. [`real`] does the same on one node, with a real agent and real connections.

mod node;
mod oracle;
mod plan;
pub(crate) mod real;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use partywall_proto::{
    trail::Verifier,
    v1::{
        AuditRequest, GetHistoryRequest, Reached, ReadTrailRequest, trail_service_client::TrailServiceClient,
    },
};
use serde::Serialize;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};

use crate::{
    processes::{Binaries, Daemon, free_address},
    restarts::Random,
};
pub(crate) use node::unix_ns as now_ns;
use node::{Done, Node, unix_ns};
use oracle::Oracle;
use plan::{NODES, Plan, S, SLOT, SLOTS, TENANTS, objects, places};

/// Each of the three answers must come so often: a run that only says yes proves nothing.
const LEAST: usize = 10;
const SETTLE: Duration = Duration::from_secs(40);

#[derive(Debug, Serialize)]
pub(crate) struct Audited {
    questions: usize,
    yes: usize,
    no: usize,
    unknown: usize,
    bursts: usize,
    /// Said otherwise by the aggregator.
    wrong: Vec<String>,
    records: u64,
    episodes: usize,
    seed: u64,
}

impl Audited {
    fn new(questions: usize, seed: u64, bursts: usize) -> Self {
        Self {
            questions,
            yes: 0,
            no: 0,
            unknown: 0,
            bursts,
            wrong: Vec::new(),
            records: 0,
            episodes: 0,
            seed,
        }
    }

    pub(crate) fn is_right(&self) -> bool {
        self.wrong.is_empty() && [self.yes, self.no, self.unknown].iter().all(|n| *n >= LEAST)
    }

    /// `what` happened to the agents.
    pub(crate) fn line(&self, what: &str) -> String {
        let right = self.questions - self.wrong.len();
        let mut line = format!(
            "audit: {right} of {} answers right: {} yes, {} no, {} unknown; {} connections, {what}, the aggregator killed; \
             chain of {} records verified, {} breaches in it; seed {}",
            self.questions,
            self.yes,
            self.no,
            self.unknown,
            self.bursts,
            self.records,
            self.episodes,
            self.seed
        );
        for wrong in &self.wrong {
            line.push_str("\n  ");
            line.push_str(wrong);
        }
        line
    }
}

pub(crate) async fn client(grpc: SocketAddr) -> Result<TrailServiceClient<Channel>> {
    let channel = Endpoint::from_shared(format!("http://{grpc}"))?.connect().await?;
    Ok(TrailServiceClient::new(channel).max_decoding_message_size(partywall_proto::MAX_MESSAGE_BYTES))
}

pub(crate) async fn audit(binaries: &Binaries, questions: usize, seed: u64, dir: &Path) -> Result<Audited> {
    let (cluster, state) = (dir.join("cluster"), dir.join("state"));
    fs::create_dir_all(&cluster)?;
    fs::create_dir_all(&state)?;
    fs::write(cluster.join("pods.yaml"), objects())?;
    let grpc = free_address()?;
    let mut aggregator = Daemon::durable_aggregator(binaries, grpc, &cluster, &state, dir)?;
    aggregator.wait_ready().await?;
    let mut random = Random::new(seed);
    // Whole slots, once the agents are known.
    let begins_ns = (unix_ns() + 4 * S).next_multiple_of(SLOT);
    let plan = Plan::new(begins_ns, &mut random);
    let end_ns = begins_ns + SLOTS * SLOT + 2 * S;
    let mut nodes = Vec::new();
    for (number, name) in NODES.iter().enumerate() {
        let own = places()
            .into_iter()
            .filter(|place| place.node == number)
            .collect();
        let bursts = plan.bursts.iter().enumerate();
        let events = bursts.flat_map(|(i, burst)| {
            let opens = (burst.from.node == number).then(|| (i, burst.clone(), true));
            let accepts = (burst.to.node == number).then(|| (i, burst.clone(), false));
            [opens, accepts].into_iter().flatten()
        });
        let node = Node::new(
            name,
            own,
            events.collect(),
            plan.outages[number].iter().copied().collect(),
            end_ns,
        );
        nodes.push(tokio::spawn(node.run(grpc)));
    }
    until(plan.kill_ns).await;
    aggregator.kill()?;
    until(plan.again_ns).await;
    let spawned_ns = unix_ns();
    let mut aggregator = Daemon::durable_aggregator(binaries, grpc, &cluster, &state, dir)?;
    aggregator.wait_ready().await?;
    let ready_ns = unix_ns();
    ensure!(
        spawned_ns / SLOT == ready_ns / SLOT,
        "the aggregator took {} ms to start again: too long for the plan",
        (ready_ns - spawned_ns) / 1_000_000
    );
    let mut done: Vec<Done> = Vec::new();
    for node in nodes {
        done.push(node.await??);
    }
    let mut client = client(grpc).await?;
    settle(&mut client, end_ns).await?;
    let oracle = Oracle {
        plan: &plan,
        done: &done,
        watched_again: ready_ns / SLOT + 1,
    };
    let asked = Asked {
        tenants: &TENANTS,
        begins: plan.begins_ns / SLOT,
        slots: SLOTS,
        answer: &|from, to, first, end| oracle.answer(from, to, first, end),
    };
    let mut audited = Audited::new(questions, seed, plan.bursts.len());
    asked.all(&mut client, &mut random, &mut audited).await?;
    aggregator.stop().await?;
    Ok(audited)
}

async fn until(at_ns: u64) {
    sleep(Duration::from_nanos(at_ns.saturating_sub(unix_ns()))).await;
}

/// Until all slots are written, and what was told late is taken over.
async fn settle(client: &mut TrailServiceClient<Channel>, end_ns: u64) -> Result<()> {
    let began = Instant::now();
    loop {
        let request = AuditRequest {
            from_unix_ns: end_ns - 2 * SLOT,
            from_tenant: TENANTS[0].into(),
            to_tenant: TENANTS[1].into(),
            ..AuditRequest::default()
        };
        if let Ok(answer) = client.audit(request).await
            && answer.into_inner().to_unix_ns >= end_ns - 2 * S
        {
            return Ok(());
        }
        if began.elapsed() > SETTLE {
            bail!("the last slots were not written within {} s", SETTLE.as_secs());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Random questions, and what is right.
struct Asked<'a> {
    tenants: &'a [&'static str],
    /// The first slot, since 1970.
    begins: u64,
    slots: u64,
    /// Of who reached whom from a slot to before another.
    answer: &'a dyn Fn(&str, &str, u64, u64) -> Reached,
}

impl Asked<'_> {
    /// Asks all, and looks at the chain and at the history.
    async fn all(
        &self,
        client: &mut TrailServiceClient<Channel>,
        random: &mut Random,
        audited: &mut Audited,
    ) -> Result<()> {
        for _ in 0..audited.questions {
            self.one(client, random, audited).await?;
        }
        audited.records = verify(client).await?;
        let history = client.get_history(GetHistoryRequest::default()).await?;
        let mut history = history.into_inner();
        while history.message().await?.is_some() {
            audited.episodes += 1;
        }
        ensure!(
            audited.episodes > 0,
            "no breach is in the history of a flat network"
        );
        Ok(())
    }

    async fn one(
        &self,
        client: &mut TrailServiceClient<Channel>,
        random: &mut Random,
        audited: &mut Audited,
    ) -> Result<()> {
        let begins = self.begins;
        let mut any = || self.tenants[random.below(self.tenants.len() as u64) as usize];
        let (from, mut to) = (any(), any());
        while to == from {
            to = any();
        }
        let first = begins + random.below(self.slots);
        let end = (first + 1 + random.below(3)).min(begins + self.slots);
        let request = AuditRequest {
            // Somewhere in its slot: the answer is about all of it.
            from_unix_ns: first * SLOT + random.below(SLOT),
            to_unix_ns: end * SLOT - random.below(SLOT),
            from_tenant: from.into(),
            to_tenant: to.into(),
            ..AuditRequest::default()
        };
        let answer = client.audit(request).await?.into_inner();
        ensure!(
            (answer.from_unix_ns, answer.to_unix_ns) == (first * SLOT, end * SLOT),
            "the answer is about {} to {}",
            answer.from_unix_ns,
            answer.to_unix_ns
        );
        let pair = answer
            .pairs
            .first()
            .context("a question for one pair has an answer")?;
        let right = (self.answer)(from, to, first, end);
        match pair.reached() {
            Reached::Yes => audited.yes += 1,
            Reached::No => audited.no += 1,
            Reached::Unknown => audited.unknown += 1,
            Reached::Unspecified => bail!("no answer"),
        }
        if pair.reached() != right {
            let gaps: Vec<String> = pair
                .gaps
                .iter()
                .map(|gap| {
                    format!(
                        "{}..{} {} {}",
                        gap.from_unix_ns / SLOT - begins,
                        gap.to_unix_ns / SLOT - begins,
                        gap.reason,
                        gap.node
                    )
                })
                .collect();
            audited.wrong.push(format!(
                "{from} to {to}, slots {} to {}: {} said, {} right; {}; gaps: {}",
                first - begins,
                end - begins,
                pair.reached().as_str_name(),
                right.as_str_name(),
                pair.summary,
                gaps.join(", ")
            ));
        }
        Ok(())
    }
}

/// Recomputes the chain. Returns how many records it has.
async fn verify(client: &mut TrailServiceClient<Channel>) -> Result<u64> {
    let mut records = client.read_trail(ReadTrailRequest::default()).await?.into_inner();
    let mut verifier = Verifier::default();
    let mut n = 0;
    while let Some(record) = records.message().await? {
        verifier.take(&record)?;
        n += 1;
    }
    verifier.finish()?;
    ensure!(n > 1, "the chain is empty");
    Ok(n)
}
