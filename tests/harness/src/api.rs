//! An API server that tells what a directory of objects says: the scenario's cluster as the aggregator of a real one learns of it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use partywall_apiserver::{Follower, Server};
use tokio::task::JoinHandle;

/// What is written to the directory is served this soon.
const RESCAN: Duration = Duration::from_millis(50);

/// Ended when dropped.
pub(crate) struct Api {
    pub(crate) server: Arc<Server>,
    following: JoinHandle<()>,
}

impl Api {
    /// `server` serves what is in `objects`.
    pub(crate) fn serve(server: Server, objects: &Path) -> Result<Self> {
        let server = Arc::new(server);
        let mut follower = Follower::new(objects.to_owned());
        follower.sync(&server)?;
        let following = tokio::spawn({
            let server = Arc::clone(&server);
            async move {
                loop {
                    tokio::time::sleep(RESCAN).await;
                    // A file that is half written now is whole the next time.
                    if let Err(error) = follower.sync(&server) {
                        eprintln!("the API server's objects: {error:#}");
                    }
                }
            }
        });
        Ok(Self { server, following })
    }

    /// A file by which the server is found, in `dir`.
    pub(crate) fn kubeconfig(&self, dir: &Path) -> Result<PathBuf> {
        let kubeconfig = dir.join("kubeconfig");
        fs::write(&kubeconfig, self.server.kubeconfig()).with_context(|| kubeconfig.display().to_string())?;
        Ok(kubeconfig)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.following.abort();
    }
}
