//! Serves the objects of a directory as a Kubernetes API server would, and follows it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use partywall_apiserver::{Follower, Server};

/// Looked at this often: a scenario's object must not be later than by a kubelet's standards.
const RESCAN: Duration = Duration::from_millis(100);

/// Serves Kubernetes objects from files: list, watch and TokenReview, for tests.
#[derive(Parser)]
#[command(name = "partywall-apiserver", version)]
struct Args {
    /// Directory of Kubernetes YAML, followed while it changes
    #[arg(long, value_name = "DIR")]
    objects: PathBuf,
    /// Address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to write what clients need; stdout otherwise
    #[arg(long, value_name = "FILE")]
    kubeconfig_out: Option<PathBuf>,
    /// Seconds between two bookmarks of a watch
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    bookmark_seconds: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let server = Server::start(args.listen).await?;
    let every = Duration::try_from_secs_f64(args.bookmark_seconds.max(0.01));
    server.set_bookmark_interval(every.context("--bookmark-seconds")?);
    let mut follower = Follower::new(args.objects);
    follower.sync(&server)?;
    match &args.kubeconfig_out {
        Some(path) => {
            // Whoever waits for the file finds all of it.
            let part = path.with_extension("part");
            std::fs::write(&part, server.kubeconfig()).with_context(|| part.display().to_string())?;
            std::fs::rename(&part, path).with_context(|| path.display().to_string())?;
            println!("{}", path.display());
        }
        None => print!("{}", server.kubeconfig()),
    }
    let mut last = None;
    loop {
        tokio::select! {
            ended = tokio::signal::ctrl_c() => return ended.context("waiting for a signal"),
            () = tokio::time::sleep(RESCAN) => {}
        }
        // Said once: a file may be half written when it is read.
        let problem = follower.sync(&server).err().map(|error| format!("{error:#}"));
        if let Some(problem) = problem.as_ref().filter(|p| last.as_ref() != Some(*p)) {
            eprintln!("{problem}");
        }
        last = problem;
    }
}
