//! Page cache: what [`Work::FileCache`](crate::Work::FileCache) does, and where.

use std::{
    convert::Infallible,
    env,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fdatasync, statfs};

use crate::{Error, memory::Pages};

/// Names the scratch directory.
const VARIABLE: &str = "PARTYWALL_SCRATCH";

/// File systems whose files are memory themselves, not a cache of what lies elsewhere: `TMPFS_MAGIC`, `RAMFS_MAGIC`.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Written and read at once. A multiple of any disk's block.
const CHUNK: usize = 1 << 20;

/// Where [`Work::FileCache`](crate::Work::FileCache) makes its files: `PARTYWALL_SCRATCH`, else the system's temporary directory.
pub fn scratch_dir() -> PathBuf {
    env::var_os(VARIABLE).map_or_else(env::temp_dir, PathBuf::from)
}

/// Refuses a directory whose files are no page cache.
pub(crate) fn check(dir: &Path) -> Result<(), Error> {
    let found = statfs(dir).map_err(|errno| Error::io("use scratch directory", dir)(errno.into()))?;
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    if IN_MEMORY.contains(&(found.f_type as i64)) {
        return Err(Error::ScratchInMemory { dir: dir.to_owned() });
    }
    Ok(())
}

/// Writes a file of `bytes` and reads it round and round. The file goes with the process, however that ends.
pub(crate) fn read_round(bytes: u64) -> io::Result<Infallible> {
    let file = unlinked(&scratch_dir())?;
    let mut chunk = Pages::touched(CHUNK)?;
    fill(&file, bytes, chunk.bytes())?;
    loop {
        let mut at = 0;
        while at < bytes {
            let read = file.read_at(chunk.bytes(), at)?;
            if read == 0 {
                return Err(io::Error::other(format!(
                    "the scratch file ends after {at} of {bytes} bytes"
                )));
            }
            at += read as u64;
        }
    }
}

/// Writes past the page cache where the file system can, so that only what is read is in it and none of it is dirty.
fn fill(file: &File, bytes: u64, chunk: &[u8]) -> io::Result<()> {
    let flags = fcntl_getfl(file)?;
    let direct = fcntl_setfl(file, flags | OFlags::DIRECT).is_ok();
    let mut written = 0;
    while written < bytes {
        file.write_all_at(chunk, written)?;
        written += chunk.len() as u64;
        if !direct {
            fdatasync(file)?;
        }
    }
    fcntl_setfl(file, flags)?;
    file.set_len(bytes)
}

/// A file without a name.
fn unlinked(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!("partywall-work-{}", std::process::id()));
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(named)?;
    fs::remove_file(&path).map_err(named)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_memory_are_refused_and_the_directory_is_named() {
        let error = check(Path::new("/dev/shm")).unwrap_err().to_string();
        assert!(error.contains("/dev/shm") && error.contains(VARIABLE), "{error}");
        let error = check(Path::new("/no/such")).unwrap_err().to_string();
        assert!(error.contains("/no/such"), "{error}");
    }

    #[test]
    fn the_file_has_no_name_and_is_as_long_as_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = unlinked(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut chunk = Pages::touched(CHUNK).unwrap();
        fill(&file, 3 * CHUNK as u64 / 2, chunk.bytes()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3 * CHUNK as u64 / 2);
    }
}
