//! The measurements, a function for each section of the table.

use std::time::Duration;

use anyhow::Result;
use partywall_workload::{Pod, PodSpec, Work, cgroup2_mount};

use crate::{
    figure::{Bounds, Figure, ratios},
    load::{Turns, pipe_microseconds, thread_sleep},
    processes::{self, Agent, Aggregator},
    programs::{self, Cost},
    reference::{CLASSIC, EMPTY, Reference},
};

/// How much is measured.
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) pipe_operations: u32,
    pub(crate) turns: Duration,
    pub(crate) idle: Duration,
}

/// What is attached during a measurement.
#[derive(Clone, Copy)]
enum Subject {
    Empty,
    Classic,
    Ours,
}

enum Attached {
    Reference(Reference),
    Agent(Agent),
}

impl Subject {
    /// In this order within a round, beginning elsewhere each round.
    const ALL: [Self; 3] = [Self::Empty, Self::Classic, Self::Ours];

    fn attach(self, aggregator: &Aggregator) -> Result<Attached> {
        Ok(match self {
            Self::Empty => Attached::Reference(Reference::attach(EMPTY)?),
            Self::Classic => Attached::Reference(Reference::attach(CLASSIC)?),
            Self::Ours => Attached::Agent(Agent::start(aggregator)?),
        })
    }
}

impl Attached {
    fn ids(&self) -> &[u32] {
        match self {
            Self::Reference(reference) => &reference.ids,
            Self::Agent(agent) => &agent.ids,
        }
    }
}

/// One value for each round and subject.
#[derive(Default)]
struct Series([Vec<f64>; Subject::ALL.len()]);

impl Series {
    fn push(&mut self, subject: Subject, value: f64) {
        self.0[subject as usize].push(value);
    }

    fn of(&self, subject: Subject) -> &[f64] {
        &self.0[subject as usize]
    }
}

/// Runs `measure` for each subject by turns. The order shifts each round, so that none is always the first.
fn alternate(rounds: usize, mut measure: impl FnMut(Subject) -> Result<()>) -> Result<()> {
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for turn in 0..Subject::ALL.len() {
            measure(Subject::ALL[(round + turn) % Subject::ALL.len()])?;
        }
    }
    Ok(())
}

/// Nanoseconds in eBPF per switch while `work` runs.
fn cost_per_switch(attached: &Attached, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let _counting = programs::count()?;
    let before = programs::loaded()?;
    work()?;
    Cost::between(&before, &programs::loaded()?, attached.ids()).per_switch()
}

/// Two processes that send each other a byte on one CPU: the most switches that a machine can be made to do.
pub(crate) fn switches(effort: &Effort, aggregator: &Aggregator) -> Result<Vec<Figure>> {
    eprintln!("switches on one CPU");
    let (mut cost, mut slowdown) = (Series::default(), Series::default());
    let mut bare_ns = Vec::new();
    alternate(effort.rounds, |subject| {
        // Each is set against a run without it just before: a noisy machine is another one a minute later.
        let bare = pipe_microseconds(effort.pipe_operations)?;
        bare_ns.push(bare * 1e3 / 2.0);
        let attached = subject.attach(aggregator)?;
        let time = pipe_microseconds(effort.pipe_operations)?;
        slowdown.push(subject, (time / bare - 1.0) * 100.0);
        let work = || pipe_microseconds(effort.pipe_operations).map(drop);
        cost.push(subject, cost_per_switch(&attached, work)?);
        Ok(())
    })?;
    let section = "a switch: perf bench sched pipe, both ends on one CPU";
    let mut figures = vec![Figure::new(
        section,
        "a switch, nothing attached",
        "ns",
        &bare_ns,
        Bounds::NONE,
    )];
    figures.extend(costs(
        section,
        &cost,
        Bounds::new(3.0, 2.0),
        Bounds::new(0.45, 0.3),
    ));
    let slowdowns = [
        (Subject::Empty, "slow-down, empty", Bounds::NONE),
        (Subject::Classic, "slow-down, classic", Bounds::NONE),
        (Subject::Ours, "slow-down, the whole agent", Bounds::new(8.0, 5.0)),
    ];
    let slowdowns = slowdowns
        .map(|(subject, name, bounds)| Figure::new(section, name, "%", slowdown.of(subject), bounds));
    figures.extend(slowdowns);
    Ok(figures)
}

fn costs(section: &'static str, cost: &Series, over_empty: Bounds, over_classic: Bounds) -> Vec<Figure> {
    let (empty, classic, ours) = (
        cost.of(Subject::Empty),
        cost.of(Subject::Classic),
        cost.of(Subject::Ours),
    );
    vec![
        Figure::new(section, "in eBPF per switch, empty", "ns", empty, Bounds::NONE),
        Figure::new(
            section,
            "in eBPF per switch, classic",
            "ns",
            classic,
            Bounds::NONE,
        ),
        Figure::new(section, "in eBPF per switch, ours", "ns", ours, Bounds::NONE),
        Figure::new(section, "ours over empty", "×", &ratios(ours, empty), over_empty),
        Figure::new(
            section,
            "ours over classic",
            "×",
            &ratios(ours, classic),
            over_classic,
        ),
    ]
}

/// Many cgroups on one CPU, each of which waits for all the others.
pub(crate) fn turns(effort: &Effort, aggregator: &Aggregator) -> Result<Vec<Figure>> {
    const CGROUPS: usize = 200;
    eprintln!("{CGROUPS} cgroups on one CPU");
    let turns = Turns::start(CGROUPS)?;
    let mut cost = Series::default();
    alternate(effort.rounds, |subject| {
        let attached = subject.attach(aggregator)?;
        let work = || {
            thread_sleep(effort.turns);
            Ok(())
        };
        cost.push(subject, cost_per_switch(&attached, work)?);
        Ok(())
    })?;
    drop(turns);
    let section = "200 cgroups taking turns on one CPU";
    Ok(costs(section, &cost, Bounds::aim(4.0), Bounds::keep(1.0)))
}

/// The agent on a node with 110 pods that do next to nothing.
pub(crate) fn idle(effort: &Effort, aggregator: &Aggregator) -> Result<Vec<Figure>> {
    const PODS: usize = 110;
    eprintln!("the agent with {PODS} idle pods for {} s", effort.idle.as_secs());
    let mount = cgroup2_mount()?;
    let (mut pods, mut work) = (Vec::new(), Vec::new());
    for index in 0..PODS {
        let pod = Pod::create(PodSpec::new("bench", format!("idle-{index}")), &mount)?;
        work.push(pod.start(
            &Work::Duty {
                busy_ms: 0.1,
                idle_ms: 1000.0,
                threads: 1,
            },
            None,
        )?);
        pods.push(pod);
    }
    let agent = Agent::start(aggregator)?;
    // The first intervals find the pods, and fill buffers for the first time.
    thread_sleep(Duration::from_secs(3));
    let counting = programs::count()?;
    let (mut process, mut kernel, mut wire) = (Vec::new(), Vec::new(), Vec::new());
    let mut reclaims = Vec::new();
    let slices = 3;
    for _ in 0..slices {
        let (cpu, runs, sent) = (
            agent.cpu_microseconds()?,
            programs::loaded()?,
            agent.sent_bytes()?,
        );
        let length = effort.idle / slices;
        thread_sleep(length);
        let microseconds = length.as_secs_f64() * 1e6;
        process.push((agent.cpu_microseconds()? - cpu) / microseconds * 100.0);
        let cost = Cost::between(&runs, &programs::loaded()?, &agent.ids);
        kernel.push(cost.nanoseconds / 1e3 / microseconds * 100.0);
        reclaims.push(cost.reclaims);
        wire.push((agent.sent_bytes()? - sent) / length.as_secs_f64() / PODS as f64);
    }
    drop(counting);
    let both: Vec<f64> = process
        .iter()
        .zip(&kernel)
        .map(|(process, kernel)| process + kernel)
        .collect();
    let section = "the agent, 110 idle pods, every second";
    const MIB: f64 = 1024.0 * 1024.0;
    let (own, ebpf) = (agent.own_bytes()? / MIB, agent.ebpf_bytes()? / MIB);
    let total = agent.memory_current().map_or(own + ebpf, |bytes| bytes / MIB);
    let total_name = match agent.memory_current() {
        Some(_) => "memory.current",
        None => "memory, process and eBPF (no memory.current here)",
    };
    let figures = vec![
        Figure::new(
            section,
            "CPU of the process",
            "% of a core",
            &process,
            Bounds::NONE,
        ),
        Figure::new(
            section,
            "CPU of its eBPF programs",
            "% of a core",
            &kernel,
            Bounds::NONE,
        ),
        Figure::new(
            section,
            "runs of the reclaim programs: nothing reclaims",
            "runs",
            &reclaims,
            Bounds::NONE,
        ),
        Figure::new(section, "CPU in all", "% of a core", &both, Bounds::new(1.0, 0.5)),
        Figure::new(
            section,
            "on the wire per pod and second",
            "bytes",
            &wire,
            Bounds::new(64.0, 16.0),
        ),
        Figure::new(section, "memory of the process", "MiB", &[own], Bounds::NONE),
        Figure::new(
            section,
            "memory of maps and programs",
            "MiB",
            &[ebpf],
            Bounds::NONE,
        ),
        Figure::new(section, total_name, "MiB", &[total], Bounds::new(64.0, 32.0)),
        Figure::new(
            section,
            "maps on 320 possible CPUs, by formula",
            "MiB",
            &[processes::map_bytes_320_cpus()? / MIB],
            Bounds::new(64.0, 32.0),
        ),
    ];
    drop(agent);
    drop(work);
    Ok(figures)
}
