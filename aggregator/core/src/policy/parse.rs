//! The policy file: what was typed → what it means. Every error names line, key and value.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::table::{SECTIONS, SETTINGS};
use super::{PathRule, Policy, Thresholds};

/// What is wrong with a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", place(*.line, .key))]
pub struct PolicyError {
    /// From 1; 0 where the whole file is meant.
    pub line: u64,
    /// Dotted path: `noisy_neighbour.min_slowdown`. Empty where the YAML itself is broken.
    pub key: String,
    /// Contains the value, or the line as typed.
    pub message: String,
}

fn place(line: u64, key: &str) -> String {
    match (line, key) {
        (0, "") => String::new(),
        (0, key) => format!("{key}: "),
        (line, "") => format!("line {line}: "),
        (line, key) => format!("line {line}: {key}: "),
    }
}

/// Longest piece of the file that an error repeats, in characters.
const QUOTED_CHARS: usize = 120;
/// Longest tenant name: that of a Kubernetes label value.
const MAX_TENANT: usize = 63;

type Numbers = BTreeMap<String, Spanned<String>>;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    windows: Option<Numbers>,
    noisy_neighbour: Option<Numbers>,
    node_overcommitted: Option<Numbers>,
    system_noise: Option<Numbers>,
    quota: Option<Numbers>,
    memory_squeeze: Option<Numbers>,
    cross_tenant_oom: Option<Numbers>,
    limit_range: Option<Numbers>,
    flat_network: Option<Numbers>,
    fence_leak: Option<Numbers>,
    probe: Option<Numbers>,
    credential_reach: Option<Numbers>,
    headroom: Option<Numbers>,
    trail: Option<Numbers>,
    fence: Option<super::parse_fence::RawFence>,
    tenants: Option<Vec<RawTenant>>,
    system_namespaces: Option<Vec<Spanned<String>>>,
    tenant_label: Option<Spanned<String>>,
    paths: Option<Vec<RawPath>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTenant {
    name: Spanned<String>,
    #[serde(default)]
    namespaces: Vec<Spanned<String>>,
    quota: Option<RawQuota>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    cpu_cores: Option<Spanned<String>>,
    memory_bytes: Option<Spanned<String>>,
    pods: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPath {
    prefix: Spanned<String>,
    tenant: Spanned<String>,
    name: Option<Spanned<String>>,
    cpu_request_cores: Option<Spanned<String>>,
}

pub(super) fn parse(text: &str) -> Result<Policy, PolicyError> {
    if text
        .lines()
        .all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'))
    {
        return Ok(Policy::default());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let raw: Option<Raw> =
        serde_saphyr::from_str_with_options(text, options).map_err(|e| yaml_error(text, &e))?;
    check(raw.unwrap_or_default())
}

/// The YAML reader's own errors (syntax, wrong type, unknown and duplicate keys), with the line as typed.
fn yaml_error(text: &str, error: &serde_saphyr::Error) -> PolicyError {
    let line = error.location().map_or(0, |l| l.line());
    let typed = usize::try_from(line)
        .ok()
        .and_then(|n| text.lines().nth(n.checked_sub(1)?))
        .map(str::trim);
    let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let message = message
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    // The place is said once, by us.
    let message = message.split(" at line ").next().unwrap_or(message);
    PolicyError {
        line,
        key: String::new(),
        message: match typed {
            Some(typed) => format!("{message} (`{}`)", quote(typed)),
            None => message.to_owned(),
        },
    }
}

fn check(raw: Raw) -> Result<Policy, PolicyError> {
    let mut policy = Policy::default();
    let sections = [
        raw.windows,
        raw.noisy_neighbour,
        raw.node_overcommitted,
        raw.system_noise,
        raw.quota,
        raw.memory_squeeze,
        raw.cross_tenant_oom,
        raw.limit_range,
        raw.flat_network,
        raw.fence_leak,
        raw.probe,
        raw.credential_reach,
        raw.headroom,
        raw.trail,
    ];
    let mut lines = BTreeMap::new();
    for ((section, _), numbers) in SECTIONS.iter().zip(sections) {
        for (key, value) in numbers.unwrap_or_default() {
            let path = format!("{section}.{key}");
            let Some(setting) = SETTINGS.iter().find(|s| s.section == *section && s.key == key) else {
                let known: Vec<_> = SETTINGS
                    .iter()
                    .filter(|s| s.section == *section)
                    .map(|s| s.key)
                    .collect();
                return Err(at(
                    &value.referenced,
                    &quote(&path),
                    format!(
                        "unknown key (value {:?}); known are: {}",
                        quote(&value.value),
                        known.join(", ")
                    ),
                ));
            };
            lines.insert(path.clone(), value.referenced);
            setting.set(&mut policy.thresholds, number(&path, &value, setting.range)?);
        }
    }
    check_together(&policy.thresholds, &lines)?;

    if let Some(namespaces) = raw.system_namespaces {
        policy.system_namespaces = BTreeSet::new();
        for namespace in namespaces {
            let name = namespace_name("system_namespaces", &namespace)?;
            if !policy.system_namespaces.insert(name) {
                return Err(listed_twice("system_namespaces", &namespace));
            }
        }
    }
    let mut names = BTreeSet::new();
    for tenant in raw.tenants.unwrap_or_default() {
        let name = tenant_name("tenants.name", &tenant.name)?;
        if !names.insert(name.clone()) {
            return Err(listed_twice("tenants.name", &tenant.name));
        }
        for namespace in tenant.namespaces {
            let key = "tenants.namespaces";
            let ns = namespace_name(key, &namespace)?;
            if policy.system_namespaces.contains(&ns) {
                return Err(at(
                    &namespace.referenced,
                    key,
                    format!("{ns:?} is also in system_namespaces"),
                ));
            }
            if let Some(other) = policy.namespace_tenants.insert(ns.clone(), name.clone()) {
                return Err(at(
                    &namespace.referenced,
                    key,
                    format!("{ns:?} already belongs to tenant {other:?}"),
                ));
            }
        }
        if let Some(quota) = tenant.quota {
            let amounts = [
                ("tenants.quota.cpu_cores", quota.cpu_cores, (0.001, 1_000_000.0)),
                // 4 MiB to an exbibyte: less is a typing error, as is more.
                (
                    "tenants.quota.memory_bytes",
                    quota.memory_bytes,
                    (4_194_304.0, 1.2e18),
                ),
                ("tenants.quota.pods", quota.pods, (0.0, 1_000_000.0)),
            ];
            let mut bounds = [None; 3];
            for (bound, (key, value, range)) in bounds.iter_mut().zip(amounts) {
                *bound = value.map(|v| number(key, &v, range)).transpose()?;
            }
            policy.tenant_quotas.insert(name, bounds);
        }
    }
    if let Some(label) = raw.tenant_label {
        policy.tenant_label = Some(label_key(&label)?);
    }
    for path in raw.paths.unwrap_or_default() {
        let rule = path_rule(&path)?;
        if policy.paths.iter().any(|r| r.prefix == rule.prefix) {
            return Err(listed_twice("paths.prefix", &path.prefix));
        }
        policy.paths.push(rule);
    }
    if let Some(fence) = raw.fence {
        super::parse_fence::fence(fence, &mut policy.fence)?;
    }
    Ok(policy)
}

/// What must hold between two numbers.
fn check_together(t: &Thresholds, lines: &BTreeMap<String, Location>) -> Result<(), PolicyError> {
    let rules = [
        (
            "windows.fast_seconds",
            t.windows.fast_seconds,
            "windows.length_seconds",
            t.windows.length_seconds,
        ),
        (
            "windows.step_seconds",
            t.windows.step_seconds,
            "windows.fast_seconds",
            t.windows.fast_seconds,
        ),
        (
            "windows.min_covered_seconds",
            t.windows.min_covered_seconds,
            "windows.fast_seconds",
            t.windows.fast_seconds,
        ),
        (
            "quota.near_ratio",
            t.quota.near_ratio,
            "quota.exceeded_ratio",
            t.quota.exceeded_ratio,
        ),
    ];
    for (small_key, small, large_key, large) in rules {
        if small > large {
            let (key, location) = [small_key, large_key]
                .into_iter()
                .find_map(|k| lines.get(k).map(|l| (k, *l)))
                .unwrap_or((small_key, Location::UNKNOWN));
            return Err(at(
                &location,
                key,
                format!("{small_key} ({small}) must not be more than {large_key} ({large})"),
            ));
        }
    }
    Ok(())
}

fn path_rule(raw: &RawPath) -> Result<PathRule, PolicyError> {
    let key = "paths.prefix";
    let prefix = raw.prefix.value.trim_end_matches('/').to_owned();
    let parts_ok = prefix
        .split('/')
        .skip(1)
        .all(|p| !p.is_empty() && p != "." && p != "..");
    if !prefix.starts_with('/') || prefix.len() > 1_024 || !parts_ok || prefix.chars().any(char::is_control) {
        let reason = format!(
            "{:?} is no cgroup path: it begins with `/`, is not the root, and has no empty, `.` or `..` component",
            quote(&raw.prefix.value)
        );
        return Err(at(&raw.prefix.referenced, key, reason));
    }
    let cpu_request_ncores = match &raw.cpu_request_cores {
        // In range, so that the product fits.
        Some(v) => (number("paths.cpu_request_cores", v, (0.0, 1_000_000.0))? * 1e9).round() as u64,
        None => 0,
    };
    Ok(PathRule {
        prefix,
        tenant: tenant_name("paths.tenant", &raw.tenant)?,
        name: raw
            .name
            .as_ref()
            .map(|n| plain_name("paths.name", n))
            .transpose()?,
        cpu_request_ncores,
    })
}

fn number(key: &str, value: &Spanned<String>, (min, max): (f64, f64)) -> Result<f64, PolicyError> {
    let text = value.value.as_str();
    let looks_decimal = text
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
    match text.parse::<f64>() {
        Ok(n) if looks_decimal && (min..=max).contains(&n) => Ok(n),
        Ok(n) if looks_decimal && n.is_finite() => Err(at(
            &value.referenced,
            key,
            format!("{} is out of range: from {min} to {max}", quote(text)),
        )),
        _ => Err(at(
            &value.referenced,
            key,
            format!("{:?} is not a finite number", quote(text)),
        )),
    }
}

pub(super) fn plain_name(key: &str, value: &Spanned<String>) -> Result<String, PolicyError> {
    let name = value.value.as_str();
    let ok = !name.is_empty()
        && name.len() <= MAX_TENANT
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if ok {
        return Ok(name.to_owned());
    }
    let reason = format!(
        "{:?} is no name: 1 to {MAX_TENANT} letters, digits, `-`, `_` or `.`, beginning with a letter or digit",
        quote(name)
    );
    Err(at(&value.referenced, key, reason))
}

fn tenant_name(key: &str, value: &Spanned<String>) -> Result<String, PolicyError> {
    let name = plain_name(key, value)?;
    if name == crate::identity::SYSTEM {
        let reason = "\"system\" is reserved: list the namespaces in system_namespaces, leave the paths out"
            .to_owned();
        return Err(at(&value.referenced, key, reason));
    }
    Ok(name)
}

pub(super) fn namespace_name(key: &str, value: &Spanned<String>) -> Result<String, PolicyError> {
    let name = value.value.as_str();
    if crate::identity::is_namespace_name(name) {
        return Ok(name.to_owned());
    }
    let reason = format!(
        "{:?} is no namespace name: 1 to 63 lower-case letters, digits or `-`",
        quote(name)
    );
    Err(at(&value.referenced, key, reason))
}

fn label_key(value: &Spanned<String>) -> Result<String, PolicyError> {
    let key = value.value.as_str();
    if crate::identity::is_label_key(key) {
        return Ok(key.to_owned());
    }
    Err(at(
        &value.referenced,
        "tenant_label",
        format!("{:?} is no label key", quote(key)),
    ))
}

pub(super) fn listed_twice(key: &str, value: &Spanned<String>) -> PolicyError {
    at(
        &value.referenced,
        key,
        format!("{:?} is listed twice", quote(&value.value)),
    )
}

pub(super) fn at(location: &Location, key: &str, message: String) -> PolicyError {
    PolicyError {
        line: location.line(),
        key: key.to_owned(),
        message,
    }
}

/// User text for an error: short, one line, no control characters.
pub(super) fn quote(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(QUOTED_CHARS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(QUOTED_CHARS).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> PolicyError {
        Policy::from_yaml(text).expect_err(text)
    }

    #[test]
    fn errors_name_line_key_and_value() {
        // (file, line, in the message)
        let table: &[(&str, u64, &[&str])] = &[
            (
                "noisy_neighbour:\n  min_slowdown: 0.9\n",
                2,
                &["noisy_neighbour.min_slowdown", "0.9", "from 1 to 1000"],
            ),
            (
                "noisy_neighbour:\n  min_stolen_cores: -1\n",
                2,
                &["noisy_neighbour.min_stolen_cores", "-1"],
            ),
            (
                "quota:\n\n  near_ratio: .nan\n",
                3,
                &["quota.near_ratio", ".nan", "finite"],
            ),
            (
                "quota:\n  near_ratio: NaN\n",
                2,
                &["quota.near_ratio", "NaN", "finite"],
            ),
            ("quota:\n  near_ratio: inf\n", 2, &["quota.near_ratio", "inf"]),
            ("quota:\n  near_ratio: 1e999\n", 2, &["quota.near_ratio", "1e999"]),
            (
                "windows:\n  length_seconds: 1e300\n",
                2,
                &["windows.length_seconds", "1e300"],
            ),
            (
                "windows:\n  length_seconds: ten\n",
                2,
                &["windows.length_seconds", "ten"],
            ),
            (
                "windows:\n  length_seconds: true\n",
                2,
                &["windows.length_seconds", "true"],
            ),
            ("windows:\n  length_seconds: [10]\n", 2, &["length_seconds: [10]"]),
            ("windows:\n  length_seconds:\n    a: 1\n", 3, &["a: 1"]),
            (
                "windows:\n  length: 10\n",
                2,
                &["windows.length", "10", "length_seconds"],
            ),
            ("window:\n  length_seconds: 10\n", 1, &["window", "windows"]),
            ("windows: 10\n", 1, &["windows: 10"]),
            (
                "windows:\n  length_seconds: 10\n  length_seconds: 20\n",
                3,
                &["length_seconds", "20"],
            ),
            ("windows: {}\nwindows: {}\n", 2, &["windows"]),
            (
                "windows:\n  fast_seconds: 20\n",
                2,
                &["windows.fast_seconds", "20", "windows.length_seconds", "10"],
            ),
            (
                "tenants:\n  - name: system\n",
                2,
                &["tenants.name", "system", "system_namespaces"],
            ),
            (
                "tenants:\n  - name: a\n    namespaces: [x]\n  - name: b\n    namespaces: [x]\n",
                5,
                &["\"x\"", "\"a\""],
            ),
            (
                "tenants:\n  - name: a\n  - name: a\n",
                3,
                &["tenants.name", "\"a\"", "twice"],
            ),
            ("tenants:\n  - name: \"a\\u0007\"\n", 2, &["tenants.name"]),
            (
                "tenants:\n  - name: a\n    quota: {cpu_cores: -2}\n",
                3,
                &["tenants.quota.cpu_cores", "-2"],
            ),
            ("tenants:\n  - name: a\n    quota: {memory: 2}\n", 3, &["memory"]),
            (
                "tenants:\n  - name: a\n    quota: {memory_bytes: 4Gi}\n",
                3,
                &["tenants.quota.memory_bytes", "4Gi"],
            ),
            (
                "tenants:\n  - name: a\n    quota: {pods: -1}\n",
                3,
                &["tenants.quota.pods", "-1"],
            ),
            (
                "memory_squeeze:\n  min_culprit_share: 2\n",
                2,
                &["memory_squeeze.min_culprit_share", "2"],
            ),
            (
                "tenants:\n  - name: a\n    namespaces: [kube-system]\n",
                3,
                &["kube-system", "system_namespaces"],
            ),
            ("tenants:\n  - namespaces: [x]\n", 2, &["name"]),
            ("system_namespaces: [Upper]\n", 1, &["system_namespaces", "Upper"]),
            ("system_namespaces: [a, a]\n", 1, &["system_namespaces", "twice"]),
            ("tenant_label: \"a b\"\n", 1, &["tenant_label", "a b"]),
            (
                "paths:\n  - {prefix: system.slice, tenant: a}\n",
                2,
                &["paths.prefix", "system.slice"],
            ),
            ("paths:\n  - {prefix: /, tenant: a}\n", 2, &["paths.prefix"]),
            (
                "paths:\n  - {prefix: /a/../b, tenant: a}\n",
                2,
                &["paths.prefix", "/a/../b"],
            ),
            (
                "paths:\n  - {prefix: /a, tenant: a}\n  - {prefix: /a/, tenant: b}\n",
                3,
                &["paths.prefix", "twice"],
            ),
            (
                "paths:\n  - {prefix: /a, tenant: a, cpu_request_cores: 1e9}\n",
                2,
                &["paths.cpu_request_cores", "1e9"],
            ),
            (
                "windows: {length_seconds: 10\n",
                1,
                &["unclosed", "{length_seconds: 10"],
            ),
            ("- a\n", 1, &["- a"]),
            ("a: 1\n---\nb: 2\n", 1, &["a"]),
        ];
        for (text, line, needles) in table {
            let error = error(text);
            assert_eq!(error.line, *line, "{text}\n{error}");
            for needle in *needles {
                assert!(
                    error.to_string().contains(needle),
                    "{text}\n{error}\nlacks {needle}"
                );
            }
            assert!(!error.to_string().contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn a_full_policy_is_read() {
        let policy = Policy::from_yaml(
            "windows: {length_seconds: 20}\ntenants:\n- name: red\n  namespaces: [red, red-batch]\n  \
             quota: {cpu_cores: 2, memory_bytes: 4294967296, pods: 50}\n\
             system_namespaces: []\ntenant_label: example.com/team\n",
        )
        .unwrap();
        assert!((policy.thresholds.windows.length_seconds - 20.0).abs() < 1e-9);
        assert_eq!(policy.namespace_tenants.len(), 2);
        assert!(policy.system_namespaces.is_empty());
        assert_eq!(policy.tenant_label.as_deref(), Some("example.com/team"));
        assert_eq!(
            policy.tenant_quotas["red"],
            [Some(2.0), Some(4_294_967_296.0), Some(50.0)]
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = Policy::from_yaml(&text);
        }

        #[test]
        fn no_value_panics(key in 0..SETTINGS.len(), value in "[-+.0-9eEnaif_ \\[\\]{}:#\"']{0,20}") {
            let s = &SETTINGS[key];
            let _ = Policy::from_yaml(&format!("{}:\n  {}: {value}\n", s.section, s.key));
        }
    }
}
