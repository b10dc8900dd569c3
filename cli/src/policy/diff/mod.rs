//! `partywall policy diff`: what changed NetworkPolicies would newly deny or allow among the flows seen, before they are applied.

mod changed;
mod compare;
mod table;

use anyhow::anyhow;
use partywall_aggregator_core::policy::Policy;

use super::{Known, living, read_dir, seen, usage, written};
use crate::args::{Common, PolicyDiff};
use crate::exit::{Code, Failure, Outcome};
use compare::Comparison;

pub(crate) fn diff(common: &Common, args: &PolicyDiff) -> Outcome {
    let (cluster, _) = read_dir("--cluster-from", &args.cluster_from).map_err(usage)?;
    let changed = changed::apply(&cluster, &args.changed, args.replace).map_err(usage)?;
    let flows = seen::read(common, &args.of, args.flows.as_deref())?;
    // Tenants do not matter here: the fence knows namespaces.
    let [before, after] = [cluster, changed.cluster].map(|c| Known::of(living(c), &Policy::default()));
    let mut comparison = Comparison::new(&before, &after, &flows);
    comparison.misplaced = changed.misplaced;
    let note = before.without_policies().map(str::to_owned);
    comparison.notes = note.into_iter().chain(changed.notes).collect();
    written(common, &comparison, || table::text(&comparison))?;
    let said = |code| Err(Failure::new(code, anyhow!("")));
    if comparison.cuts() {
        said(Code::Failed)
    } else if comparison.is_unsure() {
        said(Code::Unknown)
    } else {
        Ok(())
    }
}
