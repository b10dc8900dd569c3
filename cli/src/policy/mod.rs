//! `partywall policy`: what the NetworkPolicies in a directory say of a connection (`check`), which ones would close what is open between tenants
//! (`suggest`), and what changed ones would do to the flows seen (`diff`). Only the flows need an aggregator, where they do not come from a file.

mod answer;
mod diff;
mod ends;
mod matrix;
mod resolve;
mod seen;
mod suggest;
mod words;

use std::path::Path;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use partywall_aggregator::identify::{ClusterStatus, dir};
use partywall_aggregator::policy_file;
use partywall_aggregator_core::fence::{Family, Fence, Verdict};
use partywall_aggregator_core::identity::{Cluster, Directory};
use partywall_aggregator_core::policy::Policy;
use serde::Serialize;

use crate::args::{Common, PolicyCheck};
use crate::exit::{Code, Failure, Outcome, reader_left};
use crate::output::{print, print_json};
pub(crate) use diff::diff;
pub(crate) use suggest::{Suggestion, suggest, suggested};

const NO_POLICIES: &str =
    "there is no policy in the directory at all; if the cluster has some, they were not written to it";

/// Everything that is asked about.
struct Known {
    cluster: Arc<Cluster>,
    fence: Fence,
    /// For the tenants.
    directory: Directory,
}

pub(crate) fn check(common: &Common, args: &PolicyCheck) -> Outcome {
    let known = Known::read(&args.cluster_from, args.policy.as_deref()).map_err(usage)?;
    if args.matrix {
        let matrix = matrix::Matrix::new(&known, args).map_err(usage)?;
        return written(common, &matrix, || matrix.to_text());
    }
    let (Some(from), Some(to)) = (&args.from, &args.to) else {
        return Err(usage(anyhow!("--from and --to are wanted")));
    };
    let (from_end, to_end) = (
        ends::find(&known, "--from", from).map_err(usage)?,
        ends::find(&known, "--to", to).map_err(usage)?,
    );
    let mut traffic = args
        .port
        .between(from_end, to_end)
        .ok_or_else(|| usage(ends::no_such_port(&args.port, &to_end)))?;
    // Whoever gives an address of a pod that has two means the one that was given.
    traffic.family = [from, to]
        .iter()
        .find_map(|typed| typed.parse().ok())
        .map(Family::of);
    let explanation = known.fence.explain(&traffic);
    let answer = answer::Answer::new(&known, &traffic, &explanation);
    written(common, &answer, || words::text(&answer, &explanation))?;
    let said = |code| Err(Failure::new(code, anyhow!("")));
    match explanation.decision.verdict() {
        Verdict::Open | Verdict::Allowed => Ok(()),
        Verdict::Denied => said(Code::Failed),
        Verdict::Unknown => said(Code::Unknown),
    }
}

impl Known {
    fn read(cluster_from: &Path, policy: Option<&Path>) -> anyhow::Result<Self> {
        let policy = match policy {
            Some(file) => policy_file::read(file)?,
            None => Policy::default(),
        };
        let (cluster, _) = read_dir("--cluster-from", cluster_from)?;
        Ok(Self::of(cluster, &policy))
    }

    fn of(cluster: Cluster, policy: &Policy) -> Self {
        let cluster = Arc::new(cluster);
        let mut directory = Directory::default();
        directory.set_cluster(Arc::clone(&cluster), policy, 0);
        Self {
            fence: Fence::new(&cluster),
            cluster,
            directory,
        }
    }

    /// What that may mean, where there is no policy of any kind.
    fn without_policies(&self) -> Option<&'static str> {
        let (policies, foreign) = (&self.cluster.network_policies, &self.cluster.foreign_policies);
        (policies.is_empty() && foreign.is_empty()).then_some(NO_POLICIES)
    }

    /// The tenant of a pod.
    fn tenant(&self, uid: &str) -> Option<String> {
        let pod = self.directory.pod(uid)?;
        Some(self.directory.tenants.name(pod.tenant).to_string())
    }
}

/// Each object once: of two that bear one name nobody can say which one holds. `option`: which one named the directory.
fn read_dir(option: &str, dir: &Path) -> anyhow::Result<(Cluster, ClusterStatus)> {
    let (cluster, status) = dir::read_once(dir)?;
    let Some((file, object)) = &status.first_duplicate else {
        return Ok((cluster, status));
    };
    let others = match status.duplicates.saturating_sub(1) {
        0 => String::new(),
        more => format!(", and {more} more objects are, too"),
    };
    bail!(
        "{option}: {}: {object} is there twice, for the second time in {}{others}: which one holds?",
        dir.display(),
        file.display()
    )
}

/// With pods that have ended: what was seen of them is looked at after.
fn living(mut cluster: Cluster) -> Cluster {
    for pod in &mut cluster.pods {
        Arc::make_mut(pod).terminal = false;
    }
    cluster
}

fn usage(error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Code::Usage, error)
}

/// Exit code 1 says `denied` and nothing else, and a verdict holds whether or not somebody reads it to the end.
fn written<T: Serialize>(common: &Common, document: &T, text: impl FnOnce() -> String) -> Outcome {
    let told = if common.json {
        print_json(document)
    } else {
        print(&text()).map_err(Into::into)
    };
    match told {
        Err(error) if !reader_left(&error) => Err(Failure::new(Code::Missing, error)),
        _ => Ok(()),
    }
}
