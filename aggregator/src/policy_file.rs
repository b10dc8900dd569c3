//! The policy file: read at start, and again when it changes. A broken one keeps the policy that was in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use partywall_aggregator_core::policy::Policy;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::clock::unix_ns;
use crate::state::State;
use crate::watch::Watch;

/// Longest policy file that is read, in bytes.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// # Errors
/// The file cannot be read, or what is wrong with it: line, key and value.
pub fn read(path: &Path) -> anyhow::Result<Policy> {
    parse(path, &read_text(path)?)
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let length = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    anyhow::ensure!(
        length <= MAX_BYTES,
        "{}: {length} bytes, at most {MAX_BYTES} are read",
        path.display()
    );
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn parse(path: &Path, text: &str) -> anyhow::Result<Policy> {
    Policy::from_yaml(text).with_context(|| path.display().to_string())
}

/// Reloads until `stop`. `path` was read once already.
pub async fn follow(path: PathBuf, state: Arc<State>, stop: CancellationToken) {
    state.policy.update(|p| p.followed = true);
    // The directory, because editors and ConfigMaps replace the file.
    let dir = path
        .parent()
        .filter(|d| !d.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut watch = Watch::new(dir);
    let mut seen = read_text(&path).map_err(|e| format!("{e:#}"));
    while stop.run_until_cancelled(watch.changed()).await.is_some() {
        let text = read_text(&path).map_err(|e| format!("{e:#}"));
        if text == seen {
            continue;
        }
        let policy = match &text {
            Ok(text) => parse(&path, text).map_err(|e| format!("{e:#}")),
            Err(error) => Err(error.clone()),
        };
        seen = text;
        match policy {
            Ok(policy) => {
                state.set_policy(&policy);
                state.policy.update(|p| {
                    p.error = None;
                    p.loaded_unix_ns = unix_ns();
                });
                info!(policy = %path.display(), "policy reloaded");
            }
            Err(problem) => {
                error!(policy = %path.display(), error = problem, "policy is broken, the one before stays in force");
                state.policy.update(|p| {
                    p.error = Some(problem);
                    p.failures += 1;
                });
            }
        }
    }
}
