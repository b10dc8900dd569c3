//! Flows → policies, and what becomes of each flow under them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partywall_aggregator_core::fence::{Direction, End, Exemption, NetworkPolicy, Stand, Traffic};
use partywall_aggregator_core::identity::SYSTEM;
use partywall_aggregator_core::policy::Policy;

use super::super::Known;
use super::super::resolve::resolve;
use super::super::seen::Seen;
use super::draft::{Draft, Noted};
use super::fate::{Fate, Told};
use super::groups::{Group, Groups};
use super::scene::Scene;
use super::wish::{Wish, wish};
use crate::args::PolicySuggest;
use crate::text::count;

/// Pods without a policy that are named in a note.
const LISTED: usize = 12;

pub(super) struct Plan {
    /// By namespace and name.
    pub policies: Vec<Suggested>,
    /// Every flow that a policy could bear upon.
    pub flows: Vec<Told>,
    /// Flows of others.
    pub elsewhere: usize,
    pub notes: Vec<String>,
}

pub(super) struct Suggested {
    pub policy: Arc<NetworkPolicy>,
    /// What each rule is for.
    pub ingress: Vec<String>,
    pub egress: Vec<String>,
    /// Which pods it is for.
    pub about: String,
}

/// A flow that was looked at.
struct Case<'a> {
    seen: &'a Seen,
    traffic: Traffic<'a>,
    /// Which of those that the flow resolves to.
    index: usize,
    wish: Wish,
    /// The group whose policy bears upon it first.
    group: Option<usize>,
    /// A pod that is gone, and would have needed a rule of its own.
    gone: Option<String>,
}

impl Plan {
    pub(super) fn new(scene: &Scene, flows: &[Seen], args: &PolicySuggest) -> Self {
        let groups = Groups::new(scene);
        let mut work = Work {
            scene,
            args,
            groups: &groups,
            drafts: BTreeMap::new(),
            notes: BTreeSet::new(),
            cases: Vec::new(),
        };
        let mut told = Vec::new();
        let mut elsewhere = 0;
        for seen in flows {
            match resolve(&scene.known, seen) {
                // Never on the wire, whatever policies say.
                _ if seen.flow.to.kind == "loopback" => elsewhere += 1,
                Ok(all) => {
                    let before = work.cases.len();
                    for (index, traffic) in all.into_iter().enumerate() {
                        work.take(seen, traffic, index);
                    }
                    elsewhere += usize::from(work.cases.len() == before);
                }
                Err(lost) if work.concerns(&seen.flow) => {
                    let why = format!("{lost}; no rule is written for it");
                    told.push(Told::new(seen, None, Fate::NotLookedAt, why));
                }
                Err(_) => elsewhere += 1,
            }
        }
        work.leave_out();
        let policies = std::mem::take(&mut work.drafts);
        let policies = finish(policies, scene, &groups);
        told.extend(work.fates(&policies));
        Self {
            policies,
            flows: told,
            elsewhere,
            notes: work.notes.into_iter().collect(),
        }
    }
}

struct Work<'a> {
    scene: &'a Scene,
    args: &'a PolicySuggest,
    groups: &'a Groups,
    drafts: BTreeMap<(usize, Direction), Draft>,
    notes: BTreeSet<String>,
    cases: Vec<Case<'a>>,
}

impl<'a> Work<'a> {
    fn take(&mut self, seen: &'a Seen, traffic: Traffic<'a>, index: usize) {
        let decision = self.scene.known.fence.decide(&traffic);
        if decision
            .stands()
            .iter()
            .any(|(_, s)| matches!(s, Stand::Exempt(Exemption::Itself)))
        {
            return;
        }
        let wish = wish(seen, &traffic, self.scene, self.args);
        let mut is_concerned = false;
        let (mut group, mut gone) = (None, None);
        for (direction, stand) in [
            (Direction::Ingress, &decision.ingress),
            (Direction::Egress, &decision.egress),
        ] {
            let subject = match direction {
                Direction::Ingress => traffic.to,
                Direction::Egress if self.args.egress => traffic.from,
                Direction::Egress => continue,
            };
            let End::Pod(pod) = subject else { continue };
            if !self.is_asked(&pod.namespace.name) {
                continue;
            }
            is_concerned = true;
            if self.scene.gone.contains(&*pod.uid) {
                gone = Some(pod.to_string());
            }
            let Some(of) = self
                .groups
                .of(pod)
                .and_then(|i| Some((i, self.groups.all.get(i)?)))
            else {
                continue;
            };
            if let Some(why) = already(of.1, direction) {
                self.notes.insert(why);
                continue;
            }
            group = group.or(Some(of.0));
            let draft = self.drafts.entry((of.0, direction)).or_default();
            // A rule for what is exempt would say nothing.
            if wish == Wish::Keep && !matches!(stand, Stand::Exempt(_)) {
                draft.keep(&traffic, seen, direction, self.scene, self.groups);
            }
        }
        if is_concerned {
            self.cases.push(Case {
                seen,
                traffic,
                index,
                wish,
                group,
                gone,
            });
        }
    }

    /// A system namespace is reached by everybody: only where it is named.
    fn is_asked(&self, namespace: &str) -> bool {
        let tenant = self.scene.tenant_of(namespace);
        let args = self.args;
        let is_named =
            args.namespace.iter().any(|n| n == namespace) || args.tenant.iter().any(|t| t == tenant);
        match args.namespace.is_empty() && args.tenant.is_empty() {
            true => tenant != SYSTEM,
            false => is_named,
        }
    }

    fn concerns(&self, flow: &crate::flows::Flow) -> bool {
        let asked = |namespace: &str| !namespace.is_empty() && self.is_asked(namespace);
        asked(&flow.to.namespace) || self.args.egress && asked(&flow.from.namespace)
    }

    /// Says whose pods nothing is written for, because nothing was seen to reach them.
    fn leave_out(&mut self) {
        if self.scene.from_dir {
            let note = self.scene.known.without_policies();
            self.notes.extend(note.map(str::to_owned));
        } else {
            self.notes.insert(
                "without --cluster-from: no labels, so one policy for each namespace; policies in force and namespaces without \
                 flows are not known"
                    .to_owned(),
            );
        }
        let is_left = |(i, group): &(usize, &Group)| {
            let is_open = already(group, Direction::Ingress).is_none();
            self.is_asked(&group.namespace) && is_open && !self.drafts.contains_key(&(*i, Direction::Ingress))
        };
        let left: Vec<String> = self
            .groups
            .all
            .iter()
            .enumerate()
            .filter(is_left)
            .map(|(_, group)| who(group))
            .collect();
        if left.is_empty() {
            return;
        }
        let mut names = left.iter().take(LISTED).cloned().collect::<Vec<_>>().join("; ");
        if let Some(more @ 1..) = left.len().checked_sub(LISTED) {
            names.push_str(&format!(" and {more} more"));
        }
        self.notes.insert(format!(
            "still open, because nothing was seen to reach them: {names}"
        ));
    }

    fn fates(&self, policies: &[Suggested]) -> Vec<Told> {
        let mut cluster = (*self.scene.known.cluster).clone();
        cluster
            .network_policies
            .extend(policies.iter().map(|s| Arc::clone(&s.policy)));
        let after = Known::of(cluster, &Policy::default());
        let told = self.cases.iter().filter_map(|case| {
            if let Some(pod) = &case.gone {
                let why = format!("{pod} is gone: which policy would be its successor's is not known");
                return Some(Told::new(case.seen, None, Fate::NotLookedAt, why));
            }
            let then = resolve(&after, case.seen).ok()?;
            let then = after.fence.decide(then.get(case.index)?);
            let before = self.scene.known.fence.decide(&case.traffic);
            let (fate, why) = Fate::of(case.wish, before.verdict(), &then);
            let group = case.group.and_then(|i| self.groups.all.get(i));
            let policy = group.map(|g| format!("{}/{}", g.namespace, g.name));
            Some(Told::new(case.seen, policy, fate, why))
        });
        told.collect()
    }
}

/// Why nothing is written for a group in a direction.
fn already(group: &Group, direction: Direction) -> Option<String> {
    let foreign = group.pods.iter().find_map(|p| p.namespace.foreign.first());
    if let Some(foreign) = foreign {
        return Some(format!(
            "{}: no policy, because there are policies of kinds that are not evaluated: {foreign}",
            who(group)
        ));
    }
    let policies = group.pods.iter().flat_map(|p| p.isolated_by(direction).iter());
    let policies: BTreeSet<String> = policies.map(ToString::to_string).collect();
    let isolated = group.pods.iter().filter(|p| !p.isolated_by(direction).is_empty());
    let names = policies.into_iter().collect::<Vec<_>>().join(", ");
    match isolated.count() {
        0 => None,
        all if all == group.pods.len() => Some(format!(
            "{}: no policy, isolated already for {} by {names}",
            who(group),
            direction.as_str()
        )),
        some => Some(format!(
            "{}: no policy, because {some} of {} are isolated already for {} by {names}, and one for all would admit more there",
            who(group),
            count(group.pods.len(), "pod", "pods"),
            direction.as_str()
        )),
    }
}

fn who(group: &Group) -> String {
    if group.selector.is_empty() {
        return format!("{}, every pod", group.namespace);
    }
    format!("{}, pods with {}", group.namespace, group.selector)
}

fn finish(drafts: BTreeMap<(usize, Direction), Draft>, scene: &Scene, groups: &Groups) -> Vec<Suggested> {
    let mut rules: BTreeMap<usize, [Option<Vec<Noted>>; 2]> = BTreeMap::new();
    for ((index, direction), draft) in drafts {
        let Some(group) = groups.all.get(index) else {
            continue;
        };
        let [ingress, egress] = rules.entry(index).or_default();
        let noted = draft.rules(direction, &group.namespace, scene, groups);
        match direction {
            Direction::Ingress => *ingress = Some(noted),
            Direction::Egress => *egress = Some(noted),
        }
    }
    let apart = |noted: Option<Vec<Noted>>| match noted {
        None => (None, Vec::new()),
        Some(noted) => {
            let (rules, notes) = noted.into_iter().map(|n| (n.rule, n.note)).unzip();
            (Some(rules), notes)
        }
    };
    let mut policies: Vec<Suggested> = rules
        .into_iter()
        .filter_map(|(index, [ingress, egress])| {
            let group = groups.all.get(index)?;
            let ((ingress, ingress_notes), (egress, egress_notes)) = (apart(ingress), apart(egress));
            Some(Suggested {
                policy: Arc::new(NetworkPolicy {
                    namespace: group.namespace.clone(),
                    name: group.name.clone(),
                    pods: group.selector.clone(),
                    ingress,
                    egress,
                }),
                ingress: ingress_notes,
                egress: egress_notes,
                about: format!(
                    "tenant {}, {} ({} now)",
                    scene.tenant_of(&group.namespace),
                    who(group),
                    count(group.pods.len(), "pod", "pods")
                ),
            })
        })
        .collect();
    policies
        .sort_by(|a, b| (&a.policy.namespace, &a.policy.name).cmp(&(&b.policy.namespace, &b.policy.name)));
    policies
}
