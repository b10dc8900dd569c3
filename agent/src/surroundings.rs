//! What the agent depends on and the kernel does not decide: `partywall-agent check` tells how it is, and what happens without it.

use std::fs::{self, OpenOptions};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use rustix::fs::{StatVfsMountFlags, statvfs};
use tonic::codegen::http::Uri;

use crate::kernel::sys;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Surrounding {
    /// snake_case.
    pub name: &'static str,
    pub fine: bool,
    /// How it is.
    pub found: String,
    /// What the agent does when it is not fine.
    pub otherwise: &'static str,
}

impl Surrounding {
    pub(crate) fn new(name: &'static str, found: Result<String, String>, otherwise: &'static str) -> Self {
        Self {
            name,
            fine: found.is_ok(),
            found: found.unwrap_or_else(|problem| problem),
            otherwise,
        }
    }
}

/// Looks at all of them. Writes and removes a file in `spool_dir`, and connects to the aggregator, where they are given.
pub fn look(aggregator: Option<&str>, spool_dir: Option<&Path>) -> Vec<Surrounding> {
    let mut all = vec![
        Surrounding::new(
            "wall_clock",
            wall_clock(),
            "durations are of CLOCK_BOOTTIME all the same; partywall_agent_wall_clock_shift_seconds tells of steps",
        ),
        Surrounding::new(
            "root_fs",
            root_fs(),
            "nothing: the agent writes nowhere but in --spool-dir",
        ),
    ];
    if let Some(url) = aggregator {
        all.push(Surrounding::new(
            "aggregator",
            connects(url),
            "reports wait, in memory and in --spool-dir, and are sent at ten times their speed afterwards",
        ));
    }
    if let Some(dir) = spool_dir {
        all.push(Surrounding::new(
            "spool",
            writable(dir),
            "in an outage reports wait in memory alone, up to --queue-bytes",
        ));
    }
    all
}

fn wall_clock() -> Result<String, String> {
    match sys::wall_clock_is_synchronised() {
        Ok(true) => Ok("kept in step, as adjtimex(2) has it".to_owned()),
        Ok(false) => Err("nothing keeps it in step, as adjtimex(2) has it".to_owned()),
        Err(error) => Err(format!("adjtimex(2): {error}")),
    }
}

/// Always fine: it is told because of what follows from it.
fn root_fs() -> Result<String, String> {
    let read_only = statvfs("/")
        .map_err(|error| format!("/: {error}"))?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY);
    Ok(if read_only { "read-only" } else { "writable" }.to_owned())
}

fn connects(url: &str) -> Result<String, String> {
    let uri = Uri::from_str(url).map_err(|error| format!("{url:?}: {error}"))?;
    let host = uri.host().ok_or_else(|| format!("{url:?} has no host"))?;
    let port = uri.port_u16().ok_or_else(|| format!("{url:?} has no port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("{url}: {error}"))?;
    let mut problem = format!("{url}: no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(format!("{url}: {address} accepts connections")),
            Err(error) => problem = format!("{url}: {address}: {error}"),
        }
    }
    Err(problem)
}

fn writable(dir: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| format!("{}: {error}", dir.display());
    fs::create_dir_all(dir).map_err(told)?;
    let file = dir.join(".partywall-agent-check");
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&file)
        .map_err(told)?;
    fs::remove_file(&file).map_err(told)?;
    let room = statvfs(dir).map_err(|error| told(error.into()))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    Ok(format!("{}: writable, {} MiB free", dir.display(), free >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(aggregator: Option<&str>, spool_dir: Option<&Path>, name: &str) -> Option<(bool, String)> {
        look(aggregator, spool_dir)
            .into_iter()
            .find(|one| one.name == name)
            .map(|one| (one.fine, one.found))
    }

    #[test]
    fn what_was_not_asked_for_is_not_told() {
        assert_eq!(found(None, None, "aggregator"), None);
        assert_eq!(found(None, None, "spool"), None);
        assert!(found(None, None, "wall_clock").is_some() && found(None, None, "root_fs").is_some());
    }

    #[test]
    fn an_aggregator_is_there_or_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        assert!(found(Some(&url), None, "aggregator").unwrap().0);
        drop(listener);
        let (fine, why) = found(Some(&url), None, "aggregator").unwrap();
        assert!(!fine && why.contains(&url) && why.contains("refused"), "{why}");
    }

    #[test]
    fn a_spool_directory_can_be_written_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let (fine, how) = found(None, Some(dir.path()), "spool").unwrap();
        assert!(fine && how.contains("MiB free"), "{how}");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left behind"
        );
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let (fine, why) = found(None, Some(&file), "spool").unwrap();
        assert!(!fine && why.contains(&file.display().to_string()), "{why}");
    }
}
