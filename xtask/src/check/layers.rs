//! Crate boundaries that are forbidden dependencies.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{paths, run, stage::Outcome};

struct Layer {
    /// Neither of these packages …
    packages: &'static [&'static str],
    /// … may reach any of these, not even through another crate.
    forbidden: &'static [&'static str],
    reason: &'static str,
}

const LAYERS: [Layer; 4] = [
    Layer {
        packages: &["partywall-agent-core", "partywall-aggregator-core"],
        forbidden: &[
            "aya", "axum", "futures", "hyper", "kube", "libc", "mio", "notify", "prost", "rustix", "tokio",
            "tonic", "tracing",
        ],
        reason: "judgement is a function of its inputs: no I/O, no clock, no log in it",
    },
    Layer {
        packages: &["partywall-agent"],
        forbidden: &[
            "k8s-openapi",
            "kube",
            "partywall-aggregator",
            "partywall-aggregator-core",
        ],
        reason: "the agent does not talk to the Kubernetes API and shares the wire alone with the aggregator",
    },
    Layer {
        packages: &["partywall-aggregator"],
        forbidden: &["aya", "partywall-abi", "partywall-agent", "partywall-agent-core"],
        reason: "the aggregator knows nothing of the kernel and shares the wire alone with the agent",
    },
    Layer {
        packages: &["xtask"],
        forbidden: &["aya", "prost", "tokio", "tonic"],
        reason: "every developer command waits for xtask to compile",
    },
];

pub(crate) fn check() -> Result<Outcome> {
    let mut wrong = Vec::new();
    for layer in &LAYERS {
        for package in layer.packages {
            let tree = run::captured(
                Command::new("cargo")
                    .args([
                        "tree",
                        "--locked",
                        "--package",
                        package,
                        "--edges",
                        "normal",
                        "--prefix",
                        "none",
                    ])
                    .args(["--format", "{lib}"])
                    .current_dir(paths::root()),
            )?;
            let reached: Vec<String> = tree.lines().map(|line| line.trim().replace('_', "-")).collect();
            if reached.is_empty() {
                bail!("cargo tree says nothing about {package}");
            }
            let bad = layer
                .forbidden
                .iter()
                .filter(|name| reached.iter().any(|found| found == **name));
            wrong.extend(bad.map(|name| format!("{package} reaches {name}: {}", layer.reason)));
        }
    }
    if !wrong.is_empty() {
        bail!("forbidden dependencies\n  {}", wrong.join("\n  "));
    }
    Ok(Outcome::Passed)
}
