//! What the reclaim programs cost each time.

use anyhow::{Context, Result, bail};
use partywall_agent::kernel::{
    features::{Facts, plan},
    load::Kernel,
};

use crate::{
    figure::{Bounds, Figure},
    measure::Effort,
    programs,
};

const BEGINS: &str = "limit_reclaim_begins_raw";
const ENDS: &str = "limit_reclaim_ends_raw";

/// Reclaims in a round.
const TIMES: u64 = 20_000;

/// Reclaim cannot be caused on a machine that others use, so its programs are run with the arguments that the kernel would give them. What a
/// reclaim itself takes is some 50 µs and more: the kernel goes through 32 pages at least.
pub(crate) fn measure(effort: &Effort) -> Result<Vec<Figure>> {
    eprintln!("a reclaim's beginning and end");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The kernel side's log is read by a task.
    let _context = runtime.enter();
    let (mut plan, mut features) = plan(&Facts::probe(None));
    if !plan.reclaim {
        bail!("this kernel does not tell of reclaim: `partywall-agent check` says why");
    }
    // Only raw programs can be run by hand; their BTF-typed twins do the same.
    plan.btf_typed = false;
    let kernel = Kernel::load(&plan, &mut features, None)?;
    let _counting = programs::count()?;
    let (mut begins, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let before = [runs(&kernel, BEGINS)?, runs(&kernel, ENDS)?];
        for _ in 0..TIMES {
            kernel.rehearse(BEGINS, &[0, 0]).context(BEGINS)?;
            kernel.rehearse(ENDS, &[32]).context(ENDS)?;
        }
        for (name, (then_ns, then), figures) in
            [(BEGINS, before[0], &mut begins), (ENDS, before[1], &mut ends)]
        {
            let (now_ns, now) = runs(&kernel, name)?;
            figures.push((now_ns - then_ns) / (now - then));
        }
    }
    let section = "a reclaim, its programs run by hand";
    Ok(vec![
        Figure::new(section, "in eBPF, its beginning", "ns", &begins, Bounds::NONE),
        Figure::new(section, "in eBPF, its end", "ns", &ends, Bounds::NONE),
    ])
}

/// Nanoseconds and runs of a program.
#[allow(clippy::cast_precision_loss, reason = "nanoseconds of seconds")]
fn runs(kernel: &Kernel, name: &str) -> Result<(f64, f64)> {
    let runs = kernel.program_runs();
    let program = runs
        .iter()
        .find(|program| program.name == name)
        .with_context(|| format!("{name} is not attached"))?;
    Ok((program.run_ns as f64, program.runs as f64))
}
