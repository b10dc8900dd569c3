//! The page in a real browser and the dashboards' queries in a real Prometheus, by the harness.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use crate::{harness, paths, stage::Outcome, tools};

/// Drives the browser; without one of its own.
const PLAYWRIGHT: &str = "playwright-core@1.65.1";
const LIMIT: Duration = Duration::from_mins(5);

/// Installs and fetches all that [`test()`] needs; where playwright-core is.
pub(crate) fn prepare() -> Result<PathBuf> {
    tools::network()?;
    tools::prometheus()?;
    tools::chromium()?;
    tools::npm_packages(
        "playwright",
        &[PLAYWRIGHT],
        "drive the browser that looks at the page",
    )
}

pub(crate) fn test() -> Result<Outcome> {
    let playwright = prepare()?;
    let text = |path: PathBuf| {
        path.into_os_string()
            .into_string()
            .ok()
            .context("a path that is no UTF-8")
    };
    let (playwright, pictures) = (text(playwright)?, text(paths::target().join("page"))?);
    harness::run(
        "page",
        &["--playwright", &playwright, "--pictures", &pictures],
        LIMIT,
    )
}
