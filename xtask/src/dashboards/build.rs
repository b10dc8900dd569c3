//! What a dashboard is made of: panels in rows, each with its queries. The form is Grafana's, as `schema.ts` has it judged by.

use serde_json::{Map, Value, json};

/// Of Grafana 13, which takes it as it is; later ones migrate it.
const SCHEMA_VERSION: u32 = 42;
/// What fires and did not a step (a minute) ago: one mark each. The counter of what fired knows neither cluster nor tenant.
const BEGAN_TO_FIRE: &str = "sum by (cluster, kind, tenant, against) (partywall_breaches{cluster=~\"$cluster\", state=\"firing\"}) unless sum by (cluster, kind, tenant, against) (partywall_breaches{cluster=~\"$cluster\", state=\"firing\"} offset 1m)";
/// Columns of Grafana's grid.
const GRID: u32 = 24;

/// How figures are written: Grafana's ids of units.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Count,
    Cores,
    Bytes,
    BytesPerSecond,
    /// 0 to 1.
    Share,
    Seconds,
    PerSecond,
}

impl Unit {
    fn id(self) -> &'static str {
        match self {
            Self::Count => "short",
            // A suffix: Grafana has no unit of cores.
            Self::Cores => "suffix: cores",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "binBps",
            Self::Share => "percentunit",
            Self::Seconds => "s",
            Self::PerSecond => "ops",
        }
    }
}

/// Colours from these values on, the first from the lowest.
pub(super) type Steps = &'static [(Option<f64>, &'static str)];

pub(super) const PLAIN: Steps = &[(None, "text")];
pub(super) const ANY_IS_BAD: Steps = &[(None, "green"), (Some(1.0), "red")];
pub(super) const ANY_IS_WARM: Steps = &[(None, "green"), (Some(0.001), "orange")];
pub(super) const WHOLE_IS_GOOD: Steps = &[(None, "red"), (Some(0.9), "orange"), (Some(0.999), "green")];
/// Cores that are waited: the page's scale. 0.01 makes a victim, by the default policy.
pub(super) const WAITS: Steps = &[
    (None, "transparent"),
    (Some(0.001), "#fdf3e1"),
    (Some(0.01), "#fbdfae"),
    (Some(0.03), "#f6bd6d"),
    (Some(0.1), "#e68f35"),
    (Some(0.3), "#bd5716"),
    (Some(1.0), "#7d2d0b"),
];

/// Values that stand for words: value, word, colour.
pub(super) type Words = &'static [(&'static str, &'static str, &'static str)];

/// One panel, without its place.
pub(super) struct Panel {
    value: Map<String, Value>,
    width: u32,
    height: u32,
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn thresholds(steps: Steps) -> Value {
    let steps: Vec<Value> = steps
        .iter()
        .map(|(from, color)| json!({ "value": from, "color": color }))
        .collect();
    json!({ "mode": "absolute", "steps": steps })
}

impl Panel {
    fn new(kind: &str, title: &str, about: &str, unit: Unit, width: u32, height: u32) -> Self {
        let value = json!({
            "type": kind,
            "title": title,
            "description": about,
            "datasource": source(),
            "targets": [],
            "fieldConfig": { "defaults": { "unit": unit.id() }, "overrides": [] },
            "options": {},
        });
        let Value::Object(value) = value else {
            return Self {
                value: Map::new(),
                width,
                height,
            };
        };
        Self { value, width, height }
    }

    fn options(mut self, options: Value) -> Self {
        self.value.insert("options".to_owned(), options);
        self
    }

    fn default(mut self, key: &str, value: Value) -> Self {
        if let Some(defaults) = self
            .value
            .get_mut("fieldConfig")
            .and_then(|config| config.get_mut("defaults"))
            .and_then(Value::as_object_mut)
        {
            defaults.insert(key.to_owned(), value);
        }
        self
    }

    fn target(mut self, target: Value) -> Self {
        if let Some(targets) = self.value.get_mut("targets").and_then(Value::as_array_mut) {
            let mut target = target;
            let number = u8::try_from(targets.len()).unwrap_or_default();
            target["refId"] = json!(char::from(b'A'.saturating_add(number)).to_string());
            target["datasource"] = source();
            targets.push(target);
        }
        self
    }

    /// A line, or a group of lines, over time. `legend`: with `{{label}}`s.
    pub(super) fn line(self, legend: &str, query: &str) -> Self {
        self.target(json!({ "expr": query, "legendFormat": legend, "range": true, "instant": false }))
    }

    /// Its value now.
    pub(super) fn now(self, legend: &str, query: &str) -> Self {
        self.target(json!({ "expr": query, "legendFormat": legend, "range": false, "instant": true }))
    }

    /// Rows of a table, now.
    fn rows(self, query: &str) -> Self {
        self.target(json!({ "expr": query, "format": "table", "range": false, "instant": true }))
    }

    fn transformed(mut self, steps: Value) -> Self {
        self.value.insert("transformations".to_owned(), steps);
        self
    }

    fn overridden(mut self, column: &str, properties: &Value) -> Self {
        if let Some(overrides) = self
            .value
            .get_mut("fieldConfig")
            .and_then(|config| config.get_mut("overrides"))
            .and_then(Value::as_array_mut)
        {
            overrides
                .push(json!({ "matcher": { "id": "byName", "options": column }, "properties": properties }));
        }
        self
    }

    pub(super) fn words(self, words: Words) -> Self {
        let options: Map<String, Value> = words
            .iter()
            .enumerate()
            .map(|(index, (value, text, color))| {
                let result = json!({ "text": text, "color": color, "index": index });
                ((*value).to_owned(), result)
            })
            .collect();
        self.default("mappings", json!([{ "type": "value", "options": options }]))
    }

    pub(super) fn wide(mut self, width: u32, height: u32) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    /// Once for each value of the variable.
    pub(super) fn stacked(self) -> Self {
        let Some(mut custom) = self
            .value
            .get("fieldConfig")
            .and_then(|config| config.pointer("/defaults/custom"))
            .cloned()
        else {
            return self;
        };
        custom["stacking"] = json!({ "mode": "normal", "group": "A" });
        custom["fillOpacity"] = json!(55);
        self.default("custom", custom)
    }
}

/// Lines over time.
pub(super) fn lines(title: &str, about: &str, unit: Unit) -> Panel {
    Panel::new("timeseries", title, about, unit, 12, 8)
        .default("min", json!(0))
        .default("color", json!({ "mode": "palette-classic-by-name" }))
        .default(
            "custom",
            json!({
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 12,
                "showPoints": "never",
                "spanNulls": false,
                "stacking": { "mode": "none", "group": "A" },
            }),
        )
        .options(json!({
            "legend": { "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"] },
            "tooltip": { "mode": "multi", "sort": "desc" },
        }))
}

/// One figure.
pub(super) fn figure(title: &str, about: &str, unit: Unit, steps: Steps) -> Panel {
    Panel::new("stat", title, about, unit, 4, 4)
        .default("color", json!({ "mode": "thresholds" }))
        .default("thresholds", thresholds(steps))
        .options(json!({
            "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "percentChangeColorMode": "standard",
            "showPercentChange": false,
            "textMode": "auto",
            "wideLayout": true,
        }))
}

/// The largest now, as bars.
pub(super) fn bars(title: &str, about: &str, unit: Unit, steps: Steps) -> Panel {
    Panel::new("bargauge", title, about, unit, 8, 8)
        .default("min", json!(0))
        .default("color", json!({ "mode": "thresholds" }))
        .default("thresholds", thresholds(steps))
        .options(json!({
            "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
            "orientation": "horizontal",
            "displayMode": "basic",
            "valueMode": "color",
            "namePlacement": "auto",
            "showUnfilled": true,
            "sizing": "auto",
            "minVizWidth": 8,
            "minVizHeight": 16,
            "maxVizHeight": 300,
            "legend": { "displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": [] },
        }))
}

/// States over time, one band each.
pub(super) fn states(title: &str, about: &str, words: Words) -> Panel {
    Panel::new("state-timeline", title, about, Unit::Count, 24, 8)
        .default("color", json!({ "mode": "thresholds" }))
        .default("thresholds", thresholds(PLAIN))
        .default("custom", json!({ "fillOpacity": 70, "lineWidth": 0 }))
        .words(words)
        .options(json!({
            "mergeValues": true,
            "showValue": "never",
            "alignValue": "left",
            "rowHeight": 0.85,
            "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
            "tooltip": { "mode": "single", "sort": "none" },
        }))
}

/// How a histogram's observations fall, over time.
pub(super) fn histogram(title: &str, about: &str, unit: Unit, query: &str) -> Panel {
    Panel::new("heatmap", title, about, unit, 12, 9)
        .target(json!({
            "expr": query,
            "format": "heatmap",
            "legendFormat": "{{le}}",
            "range": true,
            "instant": false,
        }))
        .default(
            "custom",
            json!({ "hideFrom": { "legend": false, "tooltip": false, "viz": false }, "scaleDistribution": { "type": "linear" } }),
        )
        .options(json!({
            "calculate": false,
            "cellGap": 1,
            "color": { "mode": "scheme", "scheme": "Oranges", "scale": "exponential", "exponent": 0.5, "fill": "orange", "steps": 64, "reverse": false },
            "exemplars": { "color": "rgba(255,0,255,0.7)" },
            "filterValues": { "le": 1e-9 },
            "legend": { "show": true },
            "rowsFrame": { "layout": "auto" },
            "showValue": "never",
            "tooltip": { "mode": "single", "showColorScale": true, "yHistogram": false },
            "yAxis": { "axisPlacement": "left", "unit": unit.id(), "reverse": false },
        }))
}

fn table_panel(title: &str, about: &str, unit: Unit) -> Panel {
    Panel::new("table", title, about, unit, 24, 10).options(json!({
        "showHeader": true,
        "cellHeight": "sm",
        "frameIndex": 0,
    }))
}

/// A column of a [`table`]: its heading, its unit, the query that fills it.
pub(super) type Column<'a> = (&'a str, Unit, &'a str);

/// Rows by the labels that the queries have in common; one query for each column.
pub(super) fn table(title: &str, about: &str, labels: &[(&str, &str)], columns: &[Column<'_>]) -> Panel {
    let mut panel = table_panel(title, about, Unit::Count).default(
        "custom",
        json!({ "align": "auto", "cellOptions": { "type": "auto" }, "inspect": false, "filterable": true }),
    );
    let mut renamed = Map::new();
    let mut order = Map::new();
    for (name, heading) in labels {
        order.insert((*name).to_owned(), json!(order.len()));
        renamed.insert((*name).to_owned(), json!(heading));
    }
    for (at, (heading, unit, query)) in columns.iter().enumerate() {
        panel = panel.rows(query);
        let letter = char::from(b'A'.saturating_add(u8::try_from(at).unwrap_or_default()));
        // With one query alone there is nothing to merge, and its column keeps its name.
        let field = if columns.len() == 1 {
            "Value".to_owned()
        } else {
            format!("Value #{letter}")
        };
        order.insert(field.clone(), json!(order.len()));
        renamed.insert(field, json!(heading));
        panel = panel.overridden(heading, &json!([{ "id": "unit", "value": unit.id() }]));
    }
    panel.transformed(json!([
        { "id": "merge", "options": {} },
        { "id": "organize", "options": { "excludeByName": { "Time": true }, "indexByName": order, "renameByName": renamed } },
    ]))
}

/// A matrix of two labels, coloured by value.
pub(super) fn matrix(
    title: &str,
    about: &str,
    unit: Unit,
    steps: Steps,
    (row, column): (&str, &str),
    query: &str,
) -> Panel {
    table_panel(title, about, unit)
        .rows(query)
        .default("color", json!({ "mode": "thresholds" }))
        .default("thresholds", thresholds(steps))
        .default("decimals", json!(3))
        .default(
            "custom",
            json!({ "align": "center", "cellOptions": { "type": "color-background", "mode": "basic" }, "inspect": false }),
        )
        .transformed(json!([
            { "id": "groupingToMatrix", "options": { "rowField": row, "columnField": column, "valueField": "Value", "emptyValue": "null" } },
        ]))
}

/// What a variable offers.
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    /// `label_values(…)`
    pub(super) query: &'static str,
    /// Several at once, or all; else one.
    pub(super) all: bool,
}

pub(super) struct Board {
    pub(super) uid: &'static str,
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    pub(super) variables: Vec<Variable>,
    /// A heading, and panels that flow from left to right.
    pub(super) rows: Vec<(&'static str, Vec<Panel>)>,
}

impl Board {
    pub(super) fn json(self) -> Value {
        let mut panels = Vec::new();
        let mut y = 0;
        let mut id = 0;
        let mut next = || {
            id += 1;
            id
        };
        for (heading, row) in self.rows {
            if !heading.is_empty() {
                panels.push(json!({
                    "type": "row",
                    "id": next(),
                    "title": heading,
                    "collapsed": false,
                    "panels": [],
                    "gridPos": { "x": 0, "y": y, "w": GRID, "h": 1 },
                }));
                y += 1;
            }
            let (mut x, mut tallest) = (0, 0);
            for Panel {
                mut value,
                width,
                height,
            } in row
            {
                if x + width > GRID {
                    (x, y, tallest) = (0, y + tallest, 0);
                }
                value.insert("id".to_owned(), json!(next()));
                value.insert(
                    "gridPos".to_owned(),
                    json!({ "x": x, "y": y, "w": width, "h": height }),
                );
                panels.push(Value::Object(value));
                x += width;
                tallest = tallest.max(height);
            }
            y += tallest;
        }
        let list: Vec<Value> = std::iter::once(json!({
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "hide": 0,
        }))
        .chain(self.variables.iter().map(variable))
        .collect();
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["partywall"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "templating": { "list": list },
            "annotations": { "list": [{
                "name": "Breaches that began to fire",
                "datasource": source(),
                "enable": true,
                "hide": false,
                "iconColor": "red",
                "expr": BEGAN_TO_FIRE,
                "step": "60s",
                "titleFormat": "{{cluster}}: {{kind}}: {{tenant}} → {{against}}",
            }] },
            "links": [{
                "title": "Partywall",
                "type": "dashboards",
                "tags": ["partywall"],
                "asDropdown": true,
                "includeVars": true,
                "keepTime": true,
                "targetBlank": false,
                "icon": "external link",
                "tooltip": "The other dashboards of Partywall",
                "url": "",
            }],
            "panels": panels,
        })
    }
}

fn variable(variable: &Variable) -> Value {
    let Variable {
        name,
        label,
        query,
        all,
    } = variable;
    let mut value = json!({
        "name": name,
        "label": label,
        "type": "query",
        "datasource": source(),
        "query": { "query": query, "refId": format!("variable-{name}") },
        "refresh": 2,
        "sort": 7,
        "hide": 0,
        "multi": all,
        "includeAll": all,
    });
    if *all {
        value["allValue"] = json!(".*");
        value["current"] = json!({ "text": "All", "value": "$__all" });
    }
    value
}
