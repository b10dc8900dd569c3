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

/// What is attached during a measurement. In this order within a round, beginning elsewhere each round.
#[derive(Clone, Copy, PartialEq)]
enum Subject {
    Nothing,
    Empty,
    Classic,
    Ours,
}

enum Attached {
    Nothing,
    Reference(Reference),
    Agent(Agent),
}

impl Subject {
    fn attach(self, aggregator: &Aggregator) -> Result<Attached> {
        Ok(match self {
            Self::Nothing => Attached::Nothing,
            Self::Empty => Attached::Reference(Reference::attach(EMPTY)?),
            Self::Classic => Attached::Reference(Reference::attach(CLASSIC)?),
            Self::Ours => Attached::Agent(Agent::start(aggregator)?),
        })
    }
}

impl Attached {
    fn ids(&self) -> &[u32] {
        match self {
            Self::Nothing => &[],
            Self::Reference(reference) => &reference.ids,
            Self::Agent(agent) => &agent.ids,
        }
    }
}

const SUBJECTS: [Subject; 4] = [Subject::Nothing, Subject::Empty, Subject::Classic, Subject::Ours];

/// One value for each round and subject.
#[derive(Default)]
struct Series([Vec<f64>; 4]);

impl Series {
    fn push(&mut self, subject: Subject, value: f64) {
        self.0[subject as usize].push(value);
    }

    fn of(&self, subject: Subject) -> &[f64] {
        &self.0[subject as usize]
    }
}

/// Runs `measure` for each subject by turns. The order shifts each round, so that none is always the first.
fn alternate(
    rounds: usize,
    aggregator: &Aggregator,
    subjects: &[Subject],
    mut measure: impl FnMut(Subject, &Attached) -> Result<()>,
) -> Result<()> {
    for round in 0..rounds {
        eprintln!("  round {} of {rounds}", round + 1);
        for turn in 0..subjects.len() {
            let subject = subjects[(round + turn) % subjects.len()];
            let attached = subject.attach(aggregator)?;
            measure(subject, &attached)?;
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
    let (mut cost, mut time) = (Series::default(), Series::default());
    alternate(effort.rounds, aggregator, &SUBJECTS, |subject, attached| {
        time.push(subject, pipe_microseconds(effort.pipe_operations)?);
        if subject != Subject::Nothing {
            let work = || pipe_microseconds(effort.pipe_operations).map(drop);
            cost.push(subject, cost_per_switch(attached, work)?);
        }
        Ok(())
    })?;
    let section = "a switch: perf bench sched pipe, both ends on one CPU";
    let switch_ns: Vec<f64> = time
        .of(Subject::Nothing)
        .iter()
        .map(|us| us * 1e3 / 2.0)
        .collect();
    let mut figures = vec![Figure::new(
        section,
        "a switch, nothing attached",
        "ns",
        &switch_ns,
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
    figures.extend(slowdowns.map(|(subject, name, bounds)| {
        let ratios = ratios(time.of(subject), time.of(Subject::Nothing));
        let percent: Vec<f64> = ratios.iter().map(|ratio| (ratio - 1.0) * 100.0).collect();
        Figure::new(section, name, "%", &percent, bounds)
    }));
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
    let turns = Turns::start(CGROUPS)?;
    let mut cost = Series::default();
    alternate(effort.rounds, aggregator, &SUBJECTS[1..], |subject, attached| {
        let work = || {
            thread_sleep(effort.turns);
            Ok(())
        };
        cost.push(subject, cost_per_switch(attached, work)?);
        Ok(())
    })?;
    drop(turns);
    let section = "200 cgroups taking turns on one CPU";
    Ok(costs(
        section,
        &cost,
        Bounds::new(f64::INFINITY, 4.0),
        Bounds::new(1.0, 1.0),
    ))
}

/// The agent on a node with 110 pods that do next to nothing.
pub(crate) fn idle(effort: &Effort, aggregator: &Aggregator) -> Result<Vec<Figure>> {
    const PODS: usize = 110;
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
    let (mut process, mut kernel) = (Vec::new(), Vec::new());
    let slices = 3;
    for _ in 0..slices {
        let (cpu, runs) = (agent.cpu_microseconds()?, programs::loaded()?);
        let length = effort.idle / slices;
        thread_sleep(length);
        let microseconds = length.as_secs_f64() * 1e6;
        process.push((agent.cpu_microseconds()? - cpu) / microseconds * 100.0);
        let cost = Cost::between(&runs, &programs::loaded()?, &agent.ids);
        kernel.push(cost.nanoseconds / 1e3 / microseconds * 100.0);
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
        Figure::new(section, "CPU in all", "% of a core", &both, Bounds::new(1.0, 0.5)),
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
