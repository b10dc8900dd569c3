//! The checked-in code is what the definitions generate. `PARTYWALL_BLESS=1 cargo test -p partywall-proto` writes it anew.
#![allow(clippy::expect_used, reason = "tests")]

use std::path::{Path, PathBuf};

const FILE: &str = "partywall.v1.rs";

fn generate(out: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<PathBuf> = ["ingest", "query", "trail"]
        .iter()
        .map(|name| root.join(format!("partywall/v1/{name}.proto")))
        .collect();
    let descriptors = protox::compile(&files, [root]).expect("the definitions compile");
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(out)
        .compile_fds(descriptors)
        .expect("the definitions generate code");
}

#[test]
fn checked_in_code_is_fresh() {
    let fresh = tempfile::tempdir().expect("a temporary directory");
    generate(fresh.path());
    let fresh = std::fs::read_to_string(fresh.path().join(FILE)).expect("generated code");
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/generated")
        .join(FILE);
    if std::env::var_os("PARTYWALL_BLESS").is_some() {
        std::fs::write(&checked_in, &fresh).expect("the checked-in code can be written");
    }
    let current = std::fs::read_to_string(&checked_in).unwrap_or_default();
    assert!(
        current == fresh,
        "{} is stale: PARTYWALL_BLESS=1 cargo test -p partywall-proto",
        checked_in.display()
    );
}
