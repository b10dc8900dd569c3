//! A real Prometheus that scrapes both daemons, and is asked.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    http,
    processes::{Daemon, free_address},
};

const READY_PATIENCE: Duration = Duration::from_secs(20);
/// How far back a range goes, and its step.
const RANGE_S: f64 = 20.0;
const STEP_S: u32 = 2;

pub(super) struct Prometheus {
    daemon: Daemon,
    address: SocketAddr,
}

impl Prometheus {
    /// Scrapes `targets` (job, address) every second.
    pub(super) async fn start(targets: &[(&str, SocketAddr)], dir: &Path) -> Result<Self> {
        let address = free_address()?;
        let mut config = String::from("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n");
        for (job, target) in targets {
            // The aggregator's own tenant and node are what its series are about.
            config.push_str(&format!(
                "- {{job_name: {job}, honor_labels: true, static_configs: [{{targets: [\"{target}\"]}}]}}\n"
            ));
        }
        let file = dir.join("prometheus.yml");
        fs::write(&file, config).with_context(|| file.display().to_string())?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("prometheus").display()
            ))
            .arg(format!("--web.listen-address={address}"));
        let mut daemon = Daemon::spawn("prometheus", command, address, dir)?;
        let deadline = Instant::now() + READY_PATIENCE;
        while !matches!(http::get(address, "/-/ready").await, Ok((200, _))) {
            daemon.still_runs()?;
            if Instant::now() > deadline {
                bail!("prometheus was not ready after {} s", READY_PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { daemon, address })
    }

    /// Until every target was scraped well.
    pub(super) async fn scraped(&mut self, targets: usize) -> Result<()> {
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            self.daemon.still_runs()?;
            let up = self.values("sum(up)", false).await.unwrap_or_default();
            if up.iter().any(|value| *value >= targets as f64) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("prometheus does not scrape all {targets} targets: {up:?}");
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The numbers that a query returns, now or over the last while; what is no number is left out.
    pub(super) async fn values(&self, query: &str, range: bool) -> Result<Vec<f64>> {
        let query = encoded(query);
        let path = if range {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
            let from = now - RANGE_S;
            format!("/api/v1/query_range?query={query}&start={from:.3}&end={now:.3}&step={STEP_S}")
        } else {
            format!("/api/v1/query?query={query}")
        };
        let answer = self.ask(&path).await?;
        let rows = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let points = rows.iter().flat_map(|row| {
            let many = row["values"].as_array().cloned().unwrap_or_default();
            many.into_iter().chain([row["value"].clone()])
        });
        let numbers = points.filter_map(|point| point[1].as_str()?.parse::<f64>().ok());
        Ok(numbers.filter(|number| !number.is_nan()).collect())
    }

    /// What `label_values(selector, label)` offers.
    pub(super) async fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        let path = format!("/api/v1/label/{label}/values?match[]={}", encoded(selector));
        let answer = self.ask(&path).await?;
        let values = answer["data"].as_array().cloned().unwrap_or_default();
        Ok(values
            .iter()
            .filter_map(|value| Some(value.as_str()?.to_owned()))
            .collect())
    }

    async fn ask(&self, path: &str) -> Result<Value> {
        let (code, body) = http::get(self.address, path).await?;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("{code} {body}"))?;
        if answer["status"] != "success" {
            bail!("{}", answer["error"].as_str().unwrap_or(&body));
        }
        Ok(answer)
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.daemon.stop().await
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
