//! What `examples/monitoring/` asks of Prometheus is what there is.

use super::names::{ALL, Kind, Metric};
use crate::config::yaml_to_json;
use serde_json::Value;
use std::collections::BTreeSet;

const ALERTS: &str = include_str!("../../../examples/monitoring/alerts.yaml");
const DASHBOARD: &str = include_str!("../../../examples/monitoring/grafana.json");

/// Labels that Prometheus adds, and that of histograms' buckets.
const OTHERS: [&str; 3] = ["instance", "job", "le"];

/// What Prometheus makes of histograms.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];

#[test]
fn every_metric_and_label_of_the_alerts_is_exported() {
    let alerts = yaml_to_json(ALERTS).expect("YAML");
    let rules = alerts["groups"][0]["rules"].as_array().expect("rules");
    assert!(rules.len() > 15);
    let mut names = BTreeSet::new();
    for rule in rules {
        let name = rule["alert"].as_str().expect("a name");
        assert!(names.insert(name), "{name} twice");
        assert!(rule["labels"]["severity"].is_string(), "{name}");
        let labels = judge(name, rule["expr"].as_str().expect("an expression"));
        let said = rule["annotations"].to_string();
        for told in said.split("$labels.").skip(1) {
            let label = word(told);
            assert!(
                OTHERS.contains(&label) || labels.contains(label),
                "{name} tells of {label}"
            );
        }
    }
}

#[test]
fn every_metric_and_label_of_the_dashboard_is_exported() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64()), "{}", panel["title"]);
    }
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 30, "{}", found.len());
    for expression in found {
        judge(expression, expression);
        assert!(
            expression.contains("sluice_") || expression.contains("process_"),
            "{expression}"
        );
    }
}

/// Whatever is asked of the data source.
fn expressions<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "expr" || key == "definition" => found.push(text),
                    value => expressions(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// Looks at each metric of an expression and the labels that it is asked for; returns the labels that
/// these metrics have.
fn judge(rule: &str, expression: &str) -> BTreeSet<&'static str> {
    let mut labels = BTreeSet::new();
    for (at, _) in expression.match_indices(|c: char| c.is_ascii_lowercase()) {
        let begins = at == 0 || !is_word(expression[..at].chars().next_back());
        let name = word(&expression[at..]);
        if !begins || !(name.starts_with("sluice_") || name.starts_with("process_")) {
            continue;
        }
        let metric = metric(name);
        let metric = metric.unwrap_or_else(|| panic!("{rule}: {name} is not exported"));
        let rest = &expression[at + name.len()..];
        if let Some((matchers, _)) = rest.strip_prefix('{').and_then(|it| it.split_once('}')) {
            for matcher in matchers.split(", ") {
                let label = word(matcher);
                assert!(
                    OTHERS.contains(&label) || metric.labels.contains(&label),
                    "{rule}: {name} has no label {label}"
                );
            }
        }
        labels.extend(metric.labels);
    }
    for by in expression.split("by (").skip(1) {
        let by = by.split(')').next().unwrap_or_default();
        for label in by.split(", ") {
            assert!(
                OTHERS.contains(&label) || labels.contains(label),
                "{rule}: nothing has the label {label}"
            );
        }
    }
    labels
}

/// The metric that a name in an expression is of.
fn metric(name: &str) -> Option<&'static Metric> {
    let of = |name: &str| ALL.iter().find(|metric| metric.name == name);
    let plain = of(name).filter(|metric| metric.kind != Kind::Histogram);
    let part = OF_HISTOGRAMS.iter().find_map(|end| {
        let metric = of(name.strip_suffix(end)?)?;
        (metric.kind == Kind::Histogram).then_some(metric)
    });
    plain.or(part)
}

fn is_word(character: Option<char>) -> bool {
    character.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The word that a text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|c| !is_word(Some(c))).unwrap_or(text.len());
    &text[..end]
}
