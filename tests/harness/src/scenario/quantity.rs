//! Kubernetes quantities, as requests and limits are written.

const SUFFIXES: [(&str, f64); 13] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
];

/// The value of `text` in the base unit (cores, bytes); `None` for what Kubernetes would refuse, and for negatives.
pub(super) fn parse(text: &str) -> Option<f64> {
    let (digits, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|digits| (digits, *factor)))
        .unwrap_or((text, 1.0));
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let value = digits
        .parse::<f64>()
        .ok()
        .filter(|value| is_number && value.is_finite())?;
    Some(value * factor)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn quantities_mean_what_kubernetes_means() {
        for (text, value) in [
            ("500m", 0.5),
            ("1", 1.0),
            ("0.1", 0.1),
            ("64Mi", 67_108_864.0),
            ("1k", 1_000.0),
            ("2e3", 2_000.0),
        ] {
            let parsed = parse(text).unwrap();
            assert!((parsed - value).abs() < 1e-9 * value, "{text}: {parsed}");
        }
        for text in ["", "m", "-1", "+1", "NaN", "inf", "1x", "1 Gi", "64MiB"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
