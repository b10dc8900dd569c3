//! What happened when.

use super::{Cx, Moment};
use crate::breach::{BreachKind, BreachState};
use crate::finding::duration;
use crate::limits::NS_PER_S;

/// Earlier times that it fired, as far as they are told one by one.
const EARLIER_SHOWN: usize = 5;

pub(super) fn timeline(cx: &Cx<'_>) -> Vec<Moment> {
    let (story, breach) = (&cx.story, cx.breach());
    let timing = breach.key.kind.timing(cx.thresholds());
    let mut out = Vec::new();
    let mut tell = |at_unix_ns: u64, what: String| {
        if at_unix_ns > 0 {
            out.push(Moment { at_unix_ns, what });
        }
    };
    let skipped = story.before.len().saturating_sub(EARLIER_SHOWN);
    for (i, (fired, resolved)) in story.before.iter().enumerate().skip(skipped) {
        let lasted = duration(resolved.saturating_sub(*fired) / NS_PER_S);
        let more = match skipped {
            n if n > 0 && i == skipped => format!(" ({n} times before that)"),
            _ => String::new(),
        };
        tell(*fired, format!("it had fired before, for {lasted}{more}"));
    }
    for (policies, at_unix_ns) in policy_changes(cx) {
        tell(
            at_unix_ns,
            format!("the NetworkPolicies of namespace {policies} changed last"),
        );
    }
    tell(breach.since_unix_ns, "the condition began to hold".to_owned());
    let waited = match timing.for_seconds {
        s if s > 0.0 => format!("it fired, having held for {s} s"),
        _ => "it fired at once".to_owned(),
    };
    tell(breach.firing_unix_ns, waited);
    if let Some((at, worst)) = &story.worst {
        tell(*at, format!("at its worst: {worst}"));
    }
    let held = story.held_unix_ns;
    match breach.state {
        BreachState::Resolved => {
            tell(held, "the condition held for the last time".to_owned());
            let gone = timing.clear_after_seconds;
            tell(
                breach.resolved_unix_ns,
                format!("it was resolved, the condition having been gone for {gone} s"),
            );
        }
        // Told by the trail: how it is now is not in it.
        _ if story.worst.is_none() => {}
        state => {
            let holds = match state {
                BreachState::Pending => "it holds, and has not fired yet",
                _ if held == cx.judged.unix_ns => "it holds still",
                _ => "it does not hold now, and is resolved when it stays so",
            };
            tell(cx.judged.unix_ns, format!("{holds}: {}", breach.summary));
        }
    }
    out.sort_by_key(|moment| moment.at_unix_ns);
    out
}

/// When what the fence says of both ends changed last, where it is about the fence.
fn policy_changes(cx: &Cx<'_>) -> Vec<(String, u64)> {
    if !matches!(cx.kind(), BreachKind::FlatNetwork | BreachKind::FenceLeak) {
        return Vec::new();
    }
    let mut namespaces: Vec<&str> = cx
        .reached()
        .iter()
        .flat_map(|reached| [&reached.from, &reached.to])
        .filter_map(|end| end.split_once('/').map(|(namespace, _)| namespace))
        .collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let changed = |namespace: &str| match cx.directory.policies_since_ns(namespace) {
        0 => None,
        at_ns => Some((
            namespace.to_owned(),
            cx.now
                .unix_ns
                .saturating_sub(cx.now.mono_ns.saturating_sub(at_ns)),
        )),
    };
    namespaces.into_iter().filter_map(changed).collect()
}
