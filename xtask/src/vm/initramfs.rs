//! The guest's file system: an archive in the kernel's own format, with what our programs are linked against beside them.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use cpio::newc;

use crate::run;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

/// An archive in the making.
pub(crate) struct Initramfs {
    archive: Vec<u8>,
    directories: BTreeSet<PathBuf>,
    libraries: BTreeSet<PathBuf>,
    inode: u32,
    /// That of the guest's architecture.
    strip: &'static str,
}

impl Initramfs {
    pub(crate) fn new(strip: &'static str) -> Result<Self> {
        let mut archive = Self {
            archive: Vec::new(),
            directories: BTreeSet::new(),
            libraries: BTreeSet::new(),
            inode: 0,
            strip,
        };
        // The kernel opens it for PID 1 before anything could mount a /dev.
        archive.directory(Path::new("dev"))?;
        archive.entry("dev/console", CONSOLE, (5, 1), &[])?;
        Ok(archive)
    }

    /// A program at `place`, without its symbols, which would lie in the guest's memory, and the libraries that it needs.
    pub(crate) fn program(&mut self, place: &str, source: &Path) -> Result<()> {
        let stripped = tempfile::NamedTempFile::new()?;
        run::captured(
            Command::new(self.strip)
                .arg("--strip-all")
                .arg("-o")
                .arg(stripped.path())
                .arg(source),
        )?;
        self.put(place, PROGRAM, &fs::read(stripped.path())?)?;
        for library in libraries(source)? {
            if self.libraries.insert(library.clone()) {
                // Where the program looks for it; what lies there may be a link.
                let bytes = fs::read(&library).with_context(|| library.display().to_string())?;
                self.put(&library.to_string_lossy(), PROGRAM, &bytes)?;
            }
        }
        Ok(())
    }

    /// A file at `place`.
    pub(crate) fn file(&mut self, place: &str, bytes: &[u8]) -> Result<()> {
        self.put(place, FILE, bytes)
    }

    /// A symbolic link at `place`.
    pub(crate) fn link(&mut self, place: &str, target: &str) -> Result<()> {
        self.put(place, LINK, target.as_bytes())
    }

    /// Ends the archive, writes it and gives its size.
    pub(crate) fn write(self, path: &Path) -> Result<u64> {
        let archive = newc::trailer(self.archive)?;
        fs::write(path, &archive).with_context(|| path.display().to_string())?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
        Ok(archive.len().try_into()?)
    }

    fn put(&mut self, place: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let place = place.trim_start_matches('/');
        if let Some(parent) = Path::new(place).parent() {
            self.directory(parent)?;
        }
        self.entry(place, mode, (0, 0), bytes)
    }

    fn directory(&mut self, path: &Path) -> Result<()> {
        let mut missing: Vec<PathBuf> = path
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty() && !self.directories.contains(*path))
            .map(Path::to_owned)
            .collect();
        missing.reverse();
        for path in missing {
            self.entry(&path.to_string_lossy(), DIRECTORY, (0, 0), &[])?;
            self.directories.insert(path);
        }
        Ok(())
    }

    fn entry(&mut self, place: &str, mode: u32, (major, minor): (u32, u32), bytes: &[u8]) -> Result<()> {
        self.inode += 1;
        let length = u32::try_from(bytes.len()).with_context(|| format!("{place} is too long"))?;
        let mut writer = newc::Builder::new(place)
            .ino(self.inode)
            .mode(mode)
            .rdev_major(major)
            .rdev_minor(minor)
            .write(&mut self.archive, length);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }
}

/// What the dynamic linker would load, itself included; nothing for a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // `file => /path (address)`, or the linker's own path alone.
    let listed = match run::captured(Command::new("ldd").arg(program)) {
        Ok(listed) => listed,
        Err(error) if error.to_string().contains("not a dynamic executable") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(listed
        .lines()
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(PathBuf::from)
        })
        .collect())
}
