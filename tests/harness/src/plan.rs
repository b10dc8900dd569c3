//! A scenario as a list of things to do, each at its time.

use std::time::Duration;

use crate::scenario::{Scenario, TimedWork};

/// Whose work: an index into the scenario's pods or hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Pod(usize),
    Host(usize),
}

/// The order is the order in which things of one moment are done: what ends makes room before what begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    StopWork(Place, usize),
    RemovePod(usize),
    /// Its work is done: nothing of it runs any more, its object stays.
    CompletePod(usize),
    MakePod(usize),
    /// An index into the scenario's changes.
    Change(usize),
    StartWork(Place, usize),
}

impl Action {
    fn rank(self, scenario: &Scenario) -> u8 {
        match self {
            Self::StopWork(..) => 0,
            Self::RemovePod(_) | Self::CompletePod(_) => 1,
            Self::MakePod(_) => 2,
            Self::Change(_) => 3,
            // A server is there before its clients.
            Self::StartWork(place, index) if work_of(scenario, place, index).work.serves() => 4,
            Self::StartWork(..) => 5,
        }
    }
}

pub(crate) fn work_of(scenario: &Scenario, place: Place, index: usize) -> &TimedWork {
    match place {
        Place::Pod(number) => &scenario.pods[number].work[index],
        Place::Host(number) => &scenario.hosts[number].work[index],
    }
}

/// The work to begin before the agent, servers first.
pub(crate) fn before_agent(scenario: &Scenario) -> Vec<Action> {
    let pods = scenario.pods.iter().enumerate();
    let of_pods = pods.map(|(number, pod)| (Place::Pod(number), &pod.work));
    let hosts = scenario.hosts.iter().enumerate();
    let of_hosts = hosts.map(|(number, host)| (Place::Host(number), &host.work));
    let mut actions: Vec<Action> = of_pods
        .chain(of_hosts)
        .flat_map(|(place, works)| {
            let begun = works.iter().enumerate().filter(|(_, timed)| timed.before_agent);
            begun.map(move |(index, _)| Action::StartWork(place, index))
        })
        .collect();
    actions.sort_by_key(|action| action.rank(scenario));
    actions
}

/// Everything to do after the pods that are there from the start were made, by time since the observation began. What
/// would happen at its end or later is left out: then everything ends.
///
/// `from_s` and `to_s` are on the scenario's clock; work never begins before its pod.
pub(crate) fn plan(scenario: &Scenario) -> Vec<(Duration, Action)> {
    let mut actions = Vec::new();
    let mut works = |place, pod_start: Duration, pod_stop: Option<Duration>, work: &[TimedWork]| {
        for (index, timed) in work.iter().enumerate() {
            let from = timed.from.max(pod_start);
            let ends_unbegun = [timed.to, pod_stop].into_iter().flatten().any(|end| end <= from);
            if ends_unbegun {
                continue;
            }
            if !timed.before_agent {
                actions.push((from, Action::StartWork(place, index)));
            }
            if let Some(to) = timed.to.or(pod_stop) {
                actions.push((
                    pod_stop.map_or(to, |stop| stop.min(to)),
                    Action::StopWork(place, index),
                ));
            }
        }
    };
    for (index, pod) in scenario.pods.iter().enumerate() {
        works(Place::Pod(index), pod.start, pod.end(), &pod.work);
    }
    for (index, host) in scenario.hosts.iter().enumerate() {
        works(Place::Host(index), Duration::ZERO, None, &host.work);
    }
    for (index, pod) in scenario.pods.iter().enumerate() {
        if !pod.start.is_zero() {
            actions.push((pod.start, Action::MakePod(index)));
        }
        if let Some(stop) = pod.stop {
            actions.push((stop, Action::RemovePod(index)));
        }
        if let Some(at) = pod.completed {
            actions.push((at, Action::CompletePod(index)));
        }
    }
    for (index, change) in scenario.changes.iter().enumerate() {
        actions.push((change.at, Action::Change(index)));
    }
    actions.retain(|(at, _)| *at < scenario.observed);
    actions.sort_by_key(|(at, action)| (*at, action.rank(scenario)));
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::parse;

    #[test]
    fn things_are_done_in_time_and_ends_before_beginnings() {
        let text = r#"
name = "x"
about = "x"
seconds = 10
[[pod]]
namespace = "a"
name = "old"
stop_s = 2
[[pod.work]]
kind = "spin"
[[pod.work]]
kind = "spin"
from_s = 3
[[pod]]
namespace = "a"
name = "new"
start_s = 2
stop_s = 10
[[pod.work]]
kind = "spin"
from_s = 1
to_s = 4
[[host]]
cgroup = "/x"
[[host.work]]
kind = "spin"
"#;
        let at = |seconds| Duration::from_secs(seconds);
        assert_eq!(
            plan(&parse(text).unwrap()),
            [
                (at(0), Action::StartWork(Place::Pod(0), 0)),
                (at(0), Action::StartWork(Place::Host(0), 0)),
                (at(2), Action::StopWork(Place::Pod(0), 0)),
                (at(2), Action::RemovePod(0)),
                (at(2), Action::MakePod(1)),
                (at(2), Action::StartWork(Place::Pod(1), 0)),
                (at(4), Action::StopWork(Place::Pod(1), 0)),
            ]
        );
    }

    #[test]
    fn servers_come_first_and_completed_pods_make_room() {
        let text = r#"
name = "x"
about = "x"
seconds = 10
[[pod]]
namespace = "a"
name = "client"
[[pod.work]]
kind = "tcp"
to = "a/web"
port = 80
per_second = 1
bytes = 1
before_agent = true
[[pod.work]]
kind = "icmp"
to = "a/web"
per_second = 1
[[pod]]
namespace = "a"
name = "web"
completed_s = 2
stop_s = 4
[[pod.work]]
kind = "tcp-serve"
port = 80
before_agent = true
[[pod.work]]
kind = "udp-serve"
port = 80
[[pod]]
namespace = "a"
name = "next"
start_s = 2
address_of = "a/web"
[[change]]
at_s = 2
manifests = "kind: NetworkPolicy"
"#;
        let scenario = parse(text).unwrap();
        let work = |pod, index| Action::StartWork(Place::Pod(pod), index);
        assert_eq!(before_agent(&scenario), [work(1, 0), work(0, 0)]);
        let at = |seconds| Duration::from_secs(seconds);
        let stop = |index| Action::StopWork(Place::Pod(1), index);
        assert_eq!(
            plan(&scenario),
            [
                (at(0), work(1, 1)),
                (at(0), work(0, 1)),
                (at(2), stop(0)),
                (at(2), stop(1)),
                (at(2), Action::CompletePod(1)),
                (at(2), Action::MakePod(2)),
                (at(2), Action::Change(0)),
                (at(4), Action::RemovePod(1)),
            ]
        );
    }
}
