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
    MakePod(usize),
    StartWork(Place, usize),
}

impl Action {
    fn rank(self) -> u8 {
        match self {
            Self::StopWork(..) => 0,
            Self::RemovePod(_) => 1,
            Self::MakePod(_) => 2,
            Self::StartWork(..) => 3,
        }
    }
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
            actions.push((from, Action::StartWork(place, index)));
            if let Some(to) = timed.to.or(pod_stop) {
                actions.push((
                    pod_stop.map_or(to, |stop| stop.min(to)),
                    Action::StopWork(place, index),
                ));
            }
        }
    };
    for (index, pod) in scenario.pods.iter().enumerate() {
        works(Place::Pod(index), pod.start, pod.stop, &pod.work);
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
    }
    actions.retain(|(at, _)| *at < scenario.observed);
    actions.sort_by_key(|(at, action)| (*at, action.rank()));
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
}
