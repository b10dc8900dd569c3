//! The dashboards against Grafana's own types, from npm at pinned versions, by TypeScript's compiler.
//!
//! Grafana has no JSON schema of dashboards that is published beside its releases; @grafana/schema is what its own panels are compiled with, one
//! version for each release, with the options of every kind of panel.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::tools;

const PACKAGES: [&str; 2] = ["@grafana/schema@13.2.3", "typescript@5.9.3"];

/// A directory with compiler and types; makes it when it is not there yet.
pub(super) fn prepare() -> Result<PathBuf> {
    tools::npm_packages(
        "grafana-schema",
        &PACKAGES,
        "hold dashboards against Grafana's types",
    )
}

/// How many panels there are. `boards`: names and JSON.
pub(super) fn judge(boards: &[(&str, String)]) -> Result<usize> {
    let dir = prepare()?;
    fs::write(dir.join("schema.ts"), include_str!("schema.ts"))?;
    let mut source = String::from("import type { Dashboard } from \"./schema\";\n\n");
    for (at, (name, text)) in boards.iter().enumerate() {
        source.push_str(&format!(
            "// {name}\nexport const board{at}: Dashboard = {text};\n\n"
        ));
    }
    let judged = dir.join("dashboards.ts");
    fs::write(&judged, source)?;
    let mut compiler = Command::new("node");
    compiler
        .arg(dir.join("node_modules/typescript/bin/tsc"))
        .args(["--noEmit", "--strict", "--skipLibCheck", "--pretty", "false"])
        .args([
            "--module",
            "esnext",
            "--moduleResolution",
            "bundler",
            "--target",
            "es2022",
        ])
        .arg(&judged)
        .current_dir(&dir);
    let output = compiler.output()?;
    if !output.status.success() {
        // It tells of mistakes on standard output.
        bail!(
            "a dashboard is not as Grafana's types have it:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let panels = boards.iter().map(|(_, text)| text.matches("\"gridPos\"").count());
    Ok(panels.sum())
}
