//! Kubernetes quantities ("500m", "1.5", "64Mi", "1e3"), read exactly as the API server reads them.
//!
//! Integers only: a value is a count of nano-units, rounded up where Kubernetes rounds up. What Kubernetes would cap
//! silently (more than 2^63 − 1 units) is an error here, because an entitlement of nine quintillion cores is a typing error.

use std::str::FromStr;

/// Longest text that is looked at, in bytes.
const MAX_TEXT: usize = 64;
/// Nano-units of the largest quantity: 2^63 − 1 units.
const MAX_NANOS: i128 = i64::MAX as i128 * 1_000_000_000;

/// An exact quantity in units of 10⁻⁹, rounded up (away from zero) below that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

/// Why a text is no quantity. Names the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantity is empty")]
    Empty,
    #[error(
        "quantity {0:?} is not a number with an optional suffix (n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or e±N)"
    )]
    Malformed(String),
    #[error("quantity {0:?} is larger than 2^63 - 1")]
    TooLarge(String),
    #[error("quantity {0:?} is negative")]
    Negative(String),
}

impl Quantity {
    /// In nano-units; for CPU: nanocores.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// In whole units, rounded up.
    pub fn units_ceil(self) -> i128 {
        ceil_div(self.nanos, 1_000_000_000)
    }

    /// A resource amount in nano-units: at least 0 and at most 2^64 − 1 (18 × 10⁹ units).
    pub fn parse_nanos(text: &str) -> Result<u64, QuantityError> {
        let nanos = Self::non_negative(text)?.nanos;
        u64::try_from(nanos).map_err(|_| QuantityError::TooLarge(shorten(text)))
    }

    /// A resource amount in whole units, rounded up; at least 0.
    pub fn parse_units(text: &str) -> Result<u64, QuantityError> {
        let units = Self::non_negative(text)?.units_ceil();
        u64::try_from(units).map_err(|_| QuantityError::TooLarge(shorten(text)))
    }

    fn non_negative(text: &str) -> Result<Self, QuantityError> {
        let quantity = Self::from_str(text)?;
        if quantity.nanos < 0 {
            Err(QuantityError::Negative(shorten(text)))
        } else {
            Ok(quantity)
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Empty);
        }
        let malformed = || QuantityError::Malformed(shorten(text));
        if text.len() > MAX_TEXT {
            return Err(malformed());
        }
        let (negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let whole = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (integer, rest) = rest.split_at(whole);
        let (fraction, suffix) = match rest {
            [b'.', rest @ ..] => rest.split_at(rest.iter().take_while(|b| b.is_ascii_digit()).count()),
            rest => (&[][..], rest),
        };
        if integer.is_empty() && fraction.is_empty() {
            return Err(malformed());
        }
        let scale = Scale::parse(suffix).ok_or_else(malformed)?;
        let nanos = scale
            .apply(integer, fraction)
            .ok_or_else(|| QuantityError::TooLarge(shorten(text)))?;
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
        })
    }
}

/// What a suffix multiplies with: 10^ten × 2^two.
struct Scale {
    ten: i32,
    two: u32,
}

impl Scale {
    fn parse(suffix: &[u8]) -> Option<Self> {
        let (ten, two) = match suffix {
            b"n" => (-9, 0),
            b"u" => (-6, 0),
            b"m" => (-3, 0),
            b"" => (0, 0),
            b"k" => (3, 0),
            b"M" => (6, 0),
            b"G" => (9, 0),
            b"T" => (12, 0),
            b"P" => (15, 0),
            b"E" => (18, 0),
            b"Ki" => (0, 10),
            b"Mi" => (0, 20),
            b"Gi" => (0, 30),
            b"Ti" => (0, 40),
            b"Pi" => (0, 50),
            b"Ei" => (0, 60),
            [b'e' | b'E', exponent @ ..] => {
                let exponent: i64 = std::str::from_utf8(exponent).ok()?.parse().ok()?;
                // Beyond ±1,000 every mantissa of 64 characters is either zero, one nano-unit or too large.
                (i32::try_from(exponent.clamp(-1_000, 1_000)).ok()?, 0)
            }
            _ => return None,
        };
        Some(Self { ten, two })
    }

    /// Nano-units of `integer.fraction` at this scale, rounded up; `None` above [`MAX_NANOS`].
    fn apply(&self, integer: &[u8], fraction: &[u8]) -> Option<i128> {
        let mut digits: Vec<u8> = integer.iter().chain(fraction).map(|b| b - b'0').collect();
        let mut ten = self.ten + 9 - i32::try_from(fraction.len()).ok()?;
        while digits.last() == Some(&0) {
            digits.pop();
            ten += 1;
        }
        let zeros = digits.iter().take_while(|d| **d == 0).count();
        digits.drain(..zeros);
        if digits.is_empty() {
            return Some(0);
        }
        // As many digits as fit 127 bits after the binary factor; the rest can only round up.
        let keep = if self.two > 0 { 20 } else { 37 };
        let cut = digits.len().saturating_sub(keep);
        digits.truncate(keep);
        ten += i32::try_from(cut).ok()?;
        let mantissa = digits
            .iter()
            .try_fold(0i128, |n, d| n.checked_mul(10)?.checked_add(i128::from(*d)))?;
        let mut nanos = mantissa.checked_mul(1i128.checked_shl(self.two)?)?;
        if ten >= 0 {
            nanos = nanos.checked_mul(10i128.checked_pow(u32::try_from(ten).ok()?)?)?;
            nanos = nanos.checked_add(i128::from(cut > 0))?;
        } else {
            match 10i128.checked_pow(ten.unsigned_abs()) {
                Some(divisor) => {
                    let exact = nanos % divisor == 0 && cut == 0;
                    nanos = nanos / divisor + i128::from(!exact);
                }
                None => nanos = 1, // more than 38 places below a nano-unit: rounds up to one
            }
        }
        (nanos <= MAX_NANOS).then_some(nanos)
    }
}

fn ceil_div(n: i128, by: i128) -> i128 {
    n.div_euclid(by) + i128::from(n.rem_euclid(by) != 0)
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nanos(text: &str) -> Result<i128, QuantityError> {
        text.parse::<Quantity>().map(Quantity::nanos)
    }

    #[test]
    fn reads_what_kubernetes_reads() {
        let table: &[(&str, i128)] = &[
            ("0", 0),
            ("-0", 0),
            ("0Ki", 0),
            ("1n", 1),
            ("1u", 1_000),
            ("1m", 1_000_000),
            ("500m", 500_000_000),
            ("1", 1_000_000_000),
            ("+1", 1_000_000_000),
            ("-1.5", -1_500_000_000),
            ("1.", 1_000_000_000),
            (".5", 500_000_000),
            ("0.001", 1_000_000),
            ("1k", 1_000_000_000_000),
            ("1E", 1_000_000_000_000_000_000_000_000_000),
            ("1e3", 1_000_000_000_000),
            ("1E3", 1_000_000_000_000),
            ("1E+3", 1_000_000_000_000),
            ("1E-3", 1_000_000),
            ("+.5Mi", 524_288_000_000_000),
            ("001", 1_000_000_000),
            ("0.5", 500_000_000),
            ("2Gi", 2_147_483_648_000_000_000),
            ("1M", 1_000_000_000_000_000),
            ("1G", 1_000_000_000_000_000_000),
            ("1Ti", 1_099_511_627_776_000_000_000),
            ("1e+3", 1_000_000_000_000),
            ("100e-3", 100_000_000),
            ("64Mi", 67_108_864_000_000_000),
            ("1.5Gi", 1_610_612_736_000_000_000),
            ("0.5Ki", 512_000_000_000),
            ("7Ei", 8_070_450_532_247_928_832_000_000_000),
            ("9223372036854775807", MAX_NANOS),
            // Below a nano-unit: up, away from zero, as Kubernetes does.
            ("0.1n", 1),
            ("1.00000000000000000000001", 1_000_000_001),
            ("1e-1000", 1),
            ("-0.1n", -1),
            ("0e1000", 0),
            ("1.00000000000000000000000001Ki", 1_024_000_000_001),
        ];
        for (text, expected) in table {
            assert_eq!(nanos(text), Ok(*expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_kubernetes_refuses() {
        for text in [
            ".", "+", "-", "m", "1K", "1ki", "1mi", "1i", "1e", "1e3Mi", "1 ", " 1", "1,5", "1.2.3", "0x10",
            "1_000", "NaN", "inf", "1Mim", "--1", "1e3.5", "1e", "½", "1E+", "٣",
            // As apimachinery's own tests have them.
            "1.1.M", "1+1.0M", "0.1mi", "0.1am", "aoeu", ".5i", "-3.01i", "-3.01e-", "1Em", "1e3k", "1e3m",
            "- 1", "1 Mi", "1\n", "+-1", "1kk", "1m5",
        ] {
            assert_eq!(
                nanos(text),
                Err(QuantityError::Malformed(text.to_owned())),
                "{text}"
            );
        }
        assert_eq!(nanos(""), Err(QuantityError::Empty));
        for text in [
            "9223372036854775808",
            "10E",
            "8Ei",
            "1e19",
            "1e1000",
            "99999999999999999999999999999999999999999",
        ] {
            assert_eq!(
                nanos(text),
                Err(QuantityError::TooLarge(text.to_owned())),
                "{text}"
            );
        }
        assert_eq!(
            Quantity::parse_nanos("-1"),
            Err(QuantityError::Negative("-1".to_owned()))
        );
        assert_eq!(
            Quantity::parse_nanos("1e12"),
            Err(QuantityError::TooLarge("1e12".to_owned()))
        );
        assert_eq!(Quantity::parse_units("1500m"), Ok(2));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,80}") {
            let _ = nanos(&text);
        }

        #[test]
        fn never_panics_near_the_grammar(text in "[-+]?[0-9]{0,45}\\.?[0-9]{0,45}([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{0,5})?") {
            let _ = nanos(&text);
        }

        #[test]
        fn milli_is_exact(n in 0u64..=u64::MAX / 1_000_000) {
            prop_assert_eq!(Quantity::parse_nanos(&format!("{n}m")), Ok(n * 1_000_000));
        }

        #[test]
        fn suffix_and_exponent_agree(n in 0u32.., exp in 0usize..=6) {
            let suffix = ["", "k", "M", "G", "T", "P", "E"][exp];
            prop_assert_eq!(nanos(&format!("{n}{suffix}")).is_ok(), nanos(&format!("{n}e{}", exp * 3)).is_ok());
            if let (Ok(a), Ok(b)) = (nanos(&format!("{n}{suffix}")), nanos(&format!("{n}e{}", exp * 3))) {
                prop_assert_eq!(a, b);
            }
        }

        #[test]
        fn binary_suffixes_double(n in 0u32..1_000_000, exp in 1usize..=5) {
            let suffix = ["Ki", "Mi", "Gi", "Ti", "Pi"][exp - 1];
            if let Ok(v) = nanos(&format!("{n}{suffix}")) {
                prop_assert_eq!(v, i128::from(n) * (1i128 << (10 * exp)) * 1_000_000_000);
            }
        }
    }
}
