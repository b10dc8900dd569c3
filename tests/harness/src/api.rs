//! An API server that tells what a directory of objects says: the scenario's cluster as the aggregator of a real one learns of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use partywall_apiserver::{Follower, Server};
use tokio::task::JoinHandle;

/// What is written to the directory is served this soon.
const RESCAN: Duration = Duration::from_millis(50);

/// Ended when dropped.
pub(crate) struct Api {
    pub(crate) kubeconfig: PathBuf,
    following: JoinHandle<()>,
}

impl Api {
    /// Serves what is in `objects`; the kubeconfig goes to `dir`.
    pub(crate) async fn serve(objects: &Path, dir: &Path) -> Result<Self> {
        let server = Server::on_loopback().await?;
        let mut follower = Follower::new(objects.to_owned());
        follower.sync(&server)?;
        let kubeconfig = dir.join("kubeconfig");
        fs::write(&kubeconfig, server.kubeconfig()).with_context(|| kubeconfig.display().to_string())?;
        let following = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RESCAN).await;
                // A file that is half written now is whole the next time.
                if let Err(error) = follower.sync(&server) {
                    eprintln!("the API server's objects: {error:#}");
                }
            }
        });
        Ok(Self {
            kubeconfig,
            following,
        })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.following.abort();
    }
}
