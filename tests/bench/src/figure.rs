//! What is measured, as a table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// The limits of a figure.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Bounds {
    /// At most this in every release.
    keep: Option<f64>,
    /// At most this, some day.
    aim: Option<f64>,
}

impl Bounds {
    pub(crate) const NONE: Self = Self {
        keep: None,
        aim: None,
    };

    pub(crate) const fn keep(keep: f64) -> Self {
        Self {
            keep: Some(keep),
            aim: None,
        }
    }

    pub(crate) const fn aim(aim: f64) -> Self {
        Self {
            keep: None,
            aim: Some(aim),
        }
    }

    pub(crate) const fn new(keep: f64, aim: f64) -> Self {
        Self {
            keep: Some(keep),
            aim: Some(aim),
        }
    }
}

/// One figure: the median over the rounds, and the least and the greatest of them.
#[derive(Serialize)]
pub(crate) struct Figure {
    section: &'static str,
    name: String,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
    rounds: usize,
    #[serde(flatten)]
    bounds: Bounds,
}

impl Figure {
    /// `values` holds one value for each round and is not empty.
    pub(crate) fn new(
        section: &'static str,
        name: impl Into<String>,
        unit: &'static str,
        values: &[f64],
        bounds: Bounds,
    ) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Self {
            section,
            name: name.into(),
            unit,
            median,
            min: sorted.first().copied().unwrap_or(f64::NAN),
            max: sorted.last().copied().unwrap_or(f64::NAN),
            rounds: sorted.len(),
            bounds,
        }
    }

    /// Where the median lies against its bounds; empty for a figure that has none.
    fn standing(&self) -> &'static str {
        match (self.bounds.keep, self.bounds.aim) {
            (_, Some(aim)) if self.median <= aim => "aim reached",
            (Some(keep), _) if self.median <= keep => "kept",
            (Some(_), _) => "OUTSIDE",
            (None, Some(_)) => "above the aim",
            (None, None) => "",
        }
    }
}

/// Pairs `values` with `base` round by round: what the machine did meanwhile happened to both.
pub(crate) fn ratios(values: &[f64], base: &[f64]) -> Vec<f64> {
    values
        .iter()
        .zip(base)
        .map(|(value, base)| value / base)
        .collect()
}

pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = String::new();
    let mut section = "";
    for figure in figures {
        if figure.section != section {
            section = figure.section;
            let head = ["median", "min", "max", "rounds", "keep", "aim"];
            let [median, min, max, rounds, keep, aim] = head;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "\n{section:<54} {median:>9} {min:>9} {max:>9} {rounds:>6} {keep:>7} {aim:>7}"
            );
        }
        let bound = |bound: Option<f64>| bound.map_or(String::new(), |value| format!("≤ {}", number(value)));
        let _ = writeln!(
            text,
            "  {:<52} {:>9} {:>9} {:>9} {:>6} {:>7} {:>7} {}",
            format!("{} [{}]", figure.name, figure.unit),
            number(figure.median),
            number(figure.min),
            number(figure.max),
            figure.rounds,
            bound(figure.bounds.keep),
            bound(figure.bounds.aim),
            figure.standing(),
        );
    }
    text
}

/// Three significant digits, no more: the machine gives no more.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounds, Figure, ratios};

    fn figure(values: &[f64]) -> Figure {
        Figure::new("s", "n", "ns", values, Bounds::new(3.0, 2.0))
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "the values are taken over, not computed")]
    fn median_of_odd_and_even_numbers_of_rounds() {
        assert_eq!(figure(&[3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(figure(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!((figure(&[3.0, 1.0]).min, figure(&[3.0, 1.0]).max), (1.0, 3.0));
    }

    #[test]
    fn standing_against_the_bounds() {
        assert_eq!(figure(&[2.0]).standing(), "aim reached");
        assert_eq!(figure(&[2.5]).standing(), "kept");
        assert_eq!(figure(&[3.5]).standing(), "OUTSIDE");
        let standing = |bounds| Figure::new("s", "n", "ns", &[1.0], bounds).standing();
        assert_eq!(standing(Bounds::NONE), "");
        assert_eq!(standing(Bounds::aim(0.5)), "above the aim");
        assert_eq!(standing(Bounds::keep(1.0)), "kept");
    }

    #[test]
    fn ratios_are_paired_by_round() {
        assert_eq!(ratios(&[2.0, 9.0], &[1.0, 3.0]), [2.0, 3.0]);
    }
}
