//! Where things are. Every command works from any directory of the repository.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The repository's top directory.
pub(crate) fn root() -> PathBuf {
    // Set by `cargo run`; the compiled-in path serves a binary that is started by hand.
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    xtask.parent().map_or_else(|| xtask.clone(), Path::to_path_buf)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir), // an absolute one replaces the root
        None => root().join("target"),
    }
}

/// Tools that xtask builds for itself. They never reach the user's PATH.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// Kernels, guests and their logs.
pub(crate) fn vm() -> PathBuf {
    target().join("vm")
}

/// Cargo's home: the registry's sources are below it.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

/// `path` as seen from the repository's top, for messages.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
