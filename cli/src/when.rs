//! Moments as people type them: `2026-11-21T14:00:00Z`, `2026-11-21 14:00` (UTC), `2026-11-21`, `-2h`, `now`.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, SpanRelativeTo, Timestamp};

/// As it was typed: what is relative is so to the moment of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    At(Timestamp),
    /// So long ago.
    Ago(Duration),
    Now,
}

const FORMS: &str = "write 2026-11-21T14:00:00Z, \"2026-11-21 14:00\" (UTC), 2026-11-21, -2h or now";

impl FromStr for When {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let text = typed.trim();
        if text == "now" {
            return Ok(Self::Now);
        }
        if let Some(length) = text.strip_prefix('-') {
            let span: jiff::Span = length
                .parse()
                .map_err(|_| format!("no length of time; {FORMS}"))?;
            let days = SpanRelativeTo::days_are_24_hours();
            let length: SignedDuration = span
                .to_duration(days)
                .map_err(|_| format!("months and years are of no fixed length: say it in days; {FORMS}"))?;
            let length = Duration::try_from(length).map_err(|_| format!("lies in the future; {FORMS}"))?;
            return Ok(Self::Ago(length));
        }
        // Where no offset stands beside it, a zone would be dropped without a word: there is no table of zones here.
        let instant = text.parse::<Timestamp>();
        if instant.is_err() && text.contains('[') {
            return Err(
                "what a time zone means is not known here: write its offset, 2026-11-21T14:00+01:00, or UTC"
                    .to_owned(),
            );
        }
        let at = instant.or_else(|error| {
            let moment: DateTime = match text.parse::<DateTime>() {
                Ok(moment) => moment,
                Err(_) => text
                    .parse::<Date>()
                    .map_err(|_| error)?
                    .to_datetime(jiff::civil::Time::midnight()),
            };
            Ok::<_, jiff::Error>(moment.to_zoned(TimeZone::UTC)?.timestamp())
        });
        let at = at.map_err(|_| format!("no moment; {FORMS}"))?;
        if at < Timestamp::UNIX_EPOCH {
            return Err(format!("before 1970; {FORMS}"));
        }
        Ok(Self::At(at))
    }
}

impl When {
    /// Unix time.
    pub(crate) fn unix_ns(self, now: SystemTime) -> u64 {
        let since = |at: SystemTime| {
            let length = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
        };
        match self {
            Self::At(at) => u64::try_from(at.as_nanosecond()).unwrap_or(0),
            Self::Ago(length) => since(now.checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH)),
            Self::Now => since(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_people_type_them() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_269_600);
        for (typed, wanted) in [
            ("2026-11-21T14:00:00Z", 1_795_269_600),
            ("2026-11-21T15:00:00+01:00", 1_795_269_600),
            ("2026-11-21T15:00+01:00[Europe/Berlin]", 1_795_269_600),
            ("2026-11-21 14:00", 1_795_269_600),
            ("2026-11-21 14:00:30", 1_795_269_630),
            ("2026-11-21T14:00", 1_795_269_600),
            ("2026-11-21", 1_795_219_200),
            ("now", 1_795_269_600),
            ("-2h", 1_795_262_400),
            ("-90m", 1_795_264_200),
            ("-1h30m", 1_795_264_200),
            ("-30 minutes", 1_795_267_800),
            ("-7d", 1_794_664_800),
        ] {
            let when: When = typed.parse().unwrap_or_else(|error| panic!("{typed}: {error}"));
            assert_eq!(when.unix_ns(now), wanted * 1_000_000_000, "{typed}");
        }
    }

    #[test]
    fn a_zone_without_its_offset_is_not_dropped() {
        for typed in [
            "2026-11-21T14:00[Europe/Berlin]",
            "2026-11-21 14:00:30[America/New_York]",
            "2026-11-21[Europe/Berlin]",
            "2026-11-21T14:00[+01:00]",
        ] {
            let error = typed.parse::<When>().expect_err(typed);
            assert!(error.contains("write its offset"), "{typed}: {error}");
        }
    }

    #[test]
    fn what_is_no_moment_is_said_to_be_none() {
        for (typed, why) in [
            ("yesterday", "no moment"),
            ("", "no moment"),
            ("2026-13-01", "no moment"),
            ("14:00", "no moment"),
            ("1969-12-31", "before 1970"),
            ("-", "no length of time"),
            ("-2 lightyears", "no length of time"),
            ("-1y", "no fixed length"),
            ("--2h", "the future"),
        ] {
            let error = typed.parse::<When>().expect_err(typed);
            assert!(error.contains(why) && error.contains("-2h"), "{typed}: {error}");
        }
    }
}
