//! Network namespaces without names: held by a file of this process and by the processes in them, and gone with the last of
//! these, however it ended. Nothing is ever left to sweep.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    sync::Arc,
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::command;
use crate::Error;

/// A network namespace. Lives as long as one of its clones, or a process in it.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<File>);

impl NetNs {
    /// An empty one.
    pub(super) fn create() -> Result<Self, Error> {
        let made = on_a_thread(|| {
            unshare_network()?;
            // The thread's own, not the process's.
            File::open("/proc/thread-self/ns/net")
        });
        made.map(|file| Self(Arc::new(file)))
            .map_err(|source| Error::Network {
                doing: "make a network namespace",
                source,
            })
    }

    /// Where any process may find it for as long as this one lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Runs `job` on a thread that is in the namespace; so are the processes that it starts.
    pub(super) fn within<T: Send>(&self, job: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        let entered = on_a_thread(|| {
            enter(&*self.0)?;
            Ok(job())
        });
        entered.map_err(|source| Error::Network {
            doing: "enter a network namespace",
            source,
        })?
    }

    /// Has `ip` carry out `lines` in it, one command each.
    pub(super) fn ip(&self, lines: &str) -> Result<(), Error> {
        self.within(|| command::run(command::IP, &["-batch", "-"], lines).map(drop))
    }

    /// Has `nft` carry out `script` in it, as a whole or not at all.
    pub(super) fn nft(&self, script: &str) -> Result<(), Error> {
        self.within(|| command::run(command::NFT, &["-f", "-"], script).map(drop))
    }

    /// Writes sysctls of the namespace, each named by its path below /proc/sys/net.
    pub(super) fn set(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        self.within(|| {
            settings.iter().try_for_each(|(name, value)| {
                let path = format!("/proc/sys/net/{name}");
                fs::write(&path, value).map_err(Error::io("write", path))
            })
        })
    }
}

/// Moves the calling thread, and with it the threads and sockets that it makes from now on.
pub(crate) fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(move_into_link_name_space(
        namespace.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

fn on_a_thread<T: Send>(job: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let ended = thread::scope(|scope| scope.spawn(job).join());
    ended.unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}

#[allow(unsafe_code, reason = "other flags of it would be unsafe")]
fn unshare_network() -> io::Result<()> {
    // SAFETY: without CLONE_FILES no file descriptor changes for anybody.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}
