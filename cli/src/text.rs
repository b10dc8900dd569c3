//! Figures and names as a person reads them. Everything here is a function of its arguments.

use std::time::Duration;

pub(crate) use partywall_aggregator_core::yaml::clean;
use ratatui::text::Span;

/// Columns that `text` takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Columns of the terminal that stdout is; 100 where it is none.
pub(crate) fn columns() -> usize {
    const ELSEWHERE: usize = 100;
    // Narrower ones break words anyway.
    const LEAST: usize = 40;
    if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return ELSEWHERE;
    }
    let size = crossterm::terminal::size();
    size.map_or(ELSEWHERE, |(columns, _)| usize::from(columns).max(LEAST))
}

/// `text` in lines of at most `columns`, broken between words; the first begins with `first`, the others with `rest`.
pub(crate) fn wrapped(text: &str, first: &str, rest: &str, columns: usize) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && width(&line) + 1 + width(word) > columns {
            out.push_str(&line);
            out.push('\n');
            rest.clone_into(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    out.push_str(&line);
    out.push('\n');
    out
}

/// `text` in at most `columns`, an ellipsis where it was cut.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else {
        return String::new();
    };
    format!("{}…", fitting(text.chars(), room))
}

/// As [`cut`], in the middle: names of one owner begin alike.
pub(crate) fn cut_middle(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else {
        return String::new();
    };
    let end: String = fitting(text.chars().rev(), room.div_ceil(2))
        .chars()
        .rev()
        .collect();
    let begin = fitting(text.chars(), room.saturating_sub(width(&end)));
    format!("{begin}…{end}")
}

/// As many of the first as take `columns`.
fn fitting(characters: impl Iterator<Item = char>, columns: usize) -> String {
    let mut text = String::new();
    for character in characters {
        if width(&text) + width(character.encode_utf8(&mut [0; 4])) > columns {
            break;
        }
        text.push(character);
    }
    text
}

/// Cores: two decimals, more where two would hide a figure that is not zero.
pub(crate) fn cores(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    // The sum of nothing is -0.0, and nobody wants to read that.
    let value = value + 0.0;
    if value != 0.0 && value.abs() < 0.005 {
        if value.abs() < 0.0005 {
            "<0.001".to_owned()
        } else {
            format!("{value:.3}")
        }
    } else {
        format!("{value:.2}")
    }
}

/// Like [`cores`], a dot where nothing was.
pub(crate) fn cores_or_dot(value: f64) -> String {
    if value == 0.0 {
        "·".to_owned()
    } else {
        cores(value)
    }
}

/// 0 to 1 as per cent.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() {
        format!("{:.0} %", share * 100.0)
    } else {
        "?".to_owned()
    }
}

/// How many times slower: `2.4x`.
pub(crate) fn times(factor: f64) -> String {
    if factor.is_finite() {
        format!("{factor:.1}x")
    } else {
        "?".to_owned()
    }
}

/// A length of time in the unit that suits it: `640 µs`, `14 s`, `3 min 5 s`, `2 h 4 min`.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 if length.is_zero() => "0 s".to_owned(),
        0 if length < Duration::from_micros(1) => format!("{} ns", length.as_nanos()),
        0 if length < Duration::from_millis(1) => format!("{} µs", length.as_micros()),
        0 => format!("{} ms", length.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Like [`duration`], from seconds; `?` where they are no length of time.
pub(crate) fn seconds(value: f64) -> String {
    Duration::try_from_secs_f64(value).map_or_else(|_| "?".to_owned(), duration)
}

/// Bytes in binary units.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// One noun, or many.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Seconds since 1970 as `2026-07-30T12:04:31Z`: the proleptic Gregorian calendar, by Howard Hinnant's `civil_from_days`.
pub(crate) fn utc(unix_seconds: f64) -> String {
    if !(0.0..253_402_300_800.0).contains(&unix_seconds) {
        return "?".to_owned();
    }
    let whole = unix_seconds as u64;
    let (days, second) = (whole / 86_400, whole % 86_400);
    let shifted = days + 719_468; // days since 0000-03-01
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_never_hide_what_is_not_zero() {
        for (value, text) in [
            (0.0, "0.00"),
            (1.5, "1.50"),
            (0.004, "0.004"),
            (0.000_01, "<0.001"),
            (-0.2, "-0.20"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(cores(value), text);
        }
        assert_eq!(cores_or_dot(0.0), "·");
        assert_eq!(cores_or_dot(0.25), "0.25");
    }

    #[test]
    fn durations_pick_their_unit() {
        for (nanoseconds, text) in [
            (0, "0 s"),
            (900, "900 ns"),
            (64_000, "64 µs"),
            (12_000_000, "12 ms"),
            (14_900_000_000, "14 s"),
            (185_000_000_000, "3 min 5 s"),
            (7_440_000_000_000, "2 h 4 min"),
            (864_000_000_000_000, "10 days"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanoseconds)), text);
        }
        assert_eq!(seconds(-1.0), "?");
        assert_eq!(seconds(f64::INFINITY), "?");
    }

    #[test]
    fn cutting_counts_columns_not_bytes() {
        assert_eq!(cut("batch", 5), "batch");
        assert_eq!(cut("batch-worker", 6), "batch…");
        assert_eq!(cut("日本語テナント", 5), "日本…");
        assert_eq!(cut("x", 0), "");
    }

    #[test]
    fn cut_in_the_middle_both_ends_stay() {
        for (columns, wanted) in [
            (18, "team-payments-prod"),
            (14, "team-p…ts-prod"),
            (13, "team-p…s-prod"),
            (2, "…d"),
            (1, "…"),
            (0, ""),
        ] {
            assert_eq!(cut_middle("team-payments-prod", columns), wanted);
        }
        assert_eq!(cut_middle("日本語テナント", 6), "日…ト");
    }

    #[test]
    fn calendar_agrees_with_known_days() {
        for (seconds, text) in [
            (0.0, "1970-01-01T00:00:00Z"),
            (951_782_399.9, "2000-02-28T23:59:59Z"),
            (951_782_400.0, "2000-02-29T00:00:00Z"),
            (1_785_412_271.0, "2026-07-30T11:51:11Z"),
            (-1.0, "?"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn bytes_and_counts_read_well() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(13_000_000), "12.4 MiB");
        assert_eq!(count(1, "node", "nodes"), "1 node");
        assert_eq!(count(0, "node", "nodes"), "0 nodes");
    }
}
