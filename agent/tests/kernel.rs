//! Real programs on the running kernel. Needs root: without it these tests fail, they are never skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use partywall_agent::kernel::features::{Facts, plan};
use partywall_agent::kernel::load::Kernel;

#[test]
fn loads() {
    let facts = Facts::probe(None);
    let (plan, mut features) = plan(&facts);
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = rt.enter();
    let kernel = Kernel::load(&plan, &mut features, None).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    println!("failed flush {}", kernel.flush());
    println!("{features:#?}");
    println!("{:?} switches {} bytes {}", kernel.program_runs(), kernel.maps.switches(), kernel.maps.bytes());
    for slot in kernel.maps.slots_in_use() {
        println!("{slot} {} {:?}", kernel.maps.owner(slot), kernel.maps.totals(slot));
        for r in 0..20 { print!("{} ", kernel.maps.cell_ns(slot, r)); }
        println!();
    }
    println!("{:?}", kernel.maps.losses().collect::<Vec<_>>());
}
