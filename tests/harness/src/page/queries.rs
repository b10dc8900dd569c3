//! Every query of every dashboard, as Grafana would send it.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::prometheus::Prometheus;

/// What is asked, and from where.
struct Asked {
    /// "overview.json: Tenants, B"
    place: String,
    query: String,
    range: bool,
    /// An annotation marks moments: a healthy run may have none.
    may_be_empty: bool,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Judged {
    dashboards: usize,
    panels: usize,
    pub(super) queries: usize,
    pub(super) variables: usize,
    pub(super) empty: Vec<String>,
}

/// Values for the variables: everything, and one of each.
const CHOICES: [[(&str, &str); 3]; 2] = [
    [("cluster", ".*"), ("tenant", ".*"), ("node", ".*")],
    [("cluster", "default"), ("tenant", "red"), ("node", "node-a")],
];

/// What Grafana makes of its own variables with a scrape each second.
const OWN: [(&str, &str); 3] = [
    ("__rate_interval", "8s"),
    ("__interval", "2s"),
    ("__range", "30s"),
];

fn put_in(query: &str, values: &[(&str, &str)]) -> String {
    let mut query = query.to_owned();
    for (name, value) in values.iter().chain(&OWN) {
        query = query
            .replace(&format!("${{{name}}}"), value)
            .replace(&format!("${name}"), value);
    }
    query
}

pub(super) async fn judge(prometheus: &Prometheus, dir: &Path) -> Result<Judged> {
    let mut judged = Judged::default();
    let mut files: Vec<_> = fs::read_dir(dir)
        .with_context(|| dir.display().to_string())?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for file in files {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let board: Value = serde_json::from_str(&fs::read_to_string(&file)?).context(name.clone())?;
        judged.dashboards += 1;
        for asked in asked_by(&name, &board, &mut judged)? {
            judged.queries += 1;
            for choice in &CHOICES {
                let query = put_in(&asked.query, choice);
                if query.contains("$_") || query.contains("${") {
                    bail!("{}: a variable is left in: {query}", asked.place);
                }
                let values = prometheus.values(&query, asked.range).await;
                let values = values.with_context(|| format!("{}: {query}", asked.place))?;
                if values.is_empty() && !asked.may_be_empty {
                    judged.empty.push(format!("{}: {query}", asked.place));
                }
            }
        }
        for variable in board["templating"]["list"].as_array().into_iter().flatten() {
            let Some(query) = variable["query"]["query"].as_str() else {
                continue;
            };
            judged.variables += 1;
            let inside = query
                .strip_prefix("label_values(")
                .and_then(|q| q.strip_suffix(')'));
            let (selector, label) = inside
                .and_then(|inside| inside.rsplit_once(", "))
                .with_context(|| format!("{name}: {query} is no label_values(…, label)"))?;
            let selector = put_in(selector, &CHOICES[0]);
            if prometheus.label_values(&selector, label).await?.is_empty() {
                judged
                    .empty
                    .push(format!("{name}: variable {}: {query}", variable["name"]));
            }
        }
    }
    if judged.queries == 0 {
        bail!("{} has no dashboard with a query", dir.display());
    }
    Ok(judged)
}

fn asked_by(name: &str, board: &Value, judged: &mut Judged) -> Result<Vec<Asked>> {
    let mut asked = Vec::new();
    for panel in board["panels"].as_array().into_iter().flatten() {
        if panel["type"] == "row" {
            continue;
        }
        judged.panels += 1;
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        if targets.is_empty() {
            bail!("{name}: {} asks nothing", panel["title"]);
        }
        for target in targets {
            let query = target["expr"].as_str().context("a target without a query")?;
            asked.push(Asked {
                place: format!("{name}: {}, {}", panel["title"], target["refId"]),
                query: query.to_owned(),
                range: target["range"] == true,
                may_be_empty: false,
            });
        }
    }
    for annotation in board["annotations"]["list"].as_array().into_iter().flatten() {
        let query = annotation["expr"]
            .as_str()
            .context("an annotation without a query")?;
        asked.push(Asked {
            place: format!("{name}: {}", annotation["name"]),
            query: query.to_owned(),
            range: true,
            may_be_empty: true,
        });
    }
    Ok(asked)
}
