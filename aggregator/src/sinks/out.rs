//! Writing metrics out: one line each for a metric without and with labels.
//!
//! Clusters are written one after another, and a family's samples must stand together: so all are gathered first.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Label names and values of one series.
pub(super) type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

pub(super) struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
    series: usize,
    /// Whose samples come now; `None`: nobody's in particular.
    cluster: Option<Arc<str>>,
    /// Where in `families` a name is.
    places: BTreeMap<String, usize>,
    families: Vec<Family>,
}

/// With its labels.
type Sample = (Box<[(&'static str, String)]>, Box<dyn EncodeMetric>);

struct Family {
    name: String,
    help: String,
    samples: Vec<Sample>,
}

impl<'a> Out<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self {
            encoder,
            series: 0,
            cluster: None,
            places: BTreeMap::new(),
            families: Vec::new(),
        }
    }

    /// What comes from now on is of this cluster, and says so.
    pub(super) fn begin(&mut self, cluster: Arc<str>) {
        self.cluster = Some(cluster);
    }

    /// What comes from now on is of no cluster.
    pub(super) fn end(&mut self) {
        self.cluster = None;
    }

    /// Series gathered so far.
    pub(super) fn series(&self) -> usize {
        self.series
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue + 'static) {
        self.counters(name, help, std::iter::once(([], value)));
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue + 'static) {
        self.gauges(name, help, std::iter::once(([], value)));
    }

    pub(super) fn counters<'l, const N: usize, V: EncodeCounterValue + 'static>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<'l, N>, V)>,
    ) {
        for (labels, value) in samples {
            self.push(name, help, &labels, 1, Box::new(ConstCounter::new(value)));
        }
    }

    pub(super) fn gauges<'l, const N: usize, V: EncodeGaugeValue + 'static>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<'l, N>, V)>,
    ) {
        for (labels, value) in samples {
            self.push(name, help, &labels, 1, Box::new(ConstGauge::new(value)));
        }
    }

    /// Histograms from cumulative counts: (labels, [(upper edge, count in the bucket)], sum).
    pub(super) fn histograms<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<'l, N>, Vec<(f64, u64)>, f64)>,
    ) {
        for (labels, buckets, sum) in samples {
            // The buckets, their sum, their count.
            let series = buckets.len() + 2;
            self.push(name, help, &labels, series, Box::new(Counted::new(buckets, sum)));
        }
    }

    fn push(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&'static str, &str)],
        series: usize,
        value: Box<dyn EncodeMetric>,
    ) {
        self.series += series;
        let of_cluster = self.cluster.as_deref().map(|cluster| ("cluster", cluster));
        let all = of_cluster.into_iter().chain(labels.iter().copied());
        let labels = all.map(|(key, value)| (key, value.to_owned())).collect();
        let place = *self.places.entry(name.to_owned()).or_insert_with(|| {
            self.families.push(Family {
                name: name.to_owned(),
                help: help.to_owned(),
                samples: Vec::new(),
            });
            self.families.len() - 1
        });
        if let Some(family) = self.families.get_mut(place) {
            family.samples.push((labels, value));
        }
    }

    /// Writes what was gathered.
    pub(super) fn write(mut self) -> Result<DescriptorEncoder<'a>, fmt::Error> {
        for Family { name, help, samples } in &self.families {
            let Some((_, first)) = samples.first() else {
                continue;
            };
            let mut family = self
                .encoder
                .encode_descriptor(name, help, None, first.metric_type())?;
            // Without labels there is one, and no braces.
            if let [(labels, value)] = samples.as_slice()
                && labels.is_empty()
            {
                value.encode(family)?;
                continue;
            }
            for (labels, value) in samples {
                value.encode(family.encode_family(&&**labels)?)?;
            }
        }
        Ok(self.encoder)
    }
}

/// A histogram counted elsewhere.
struct Counted {
    buckets: Vec<(f64, u64)>,
    count: u64,
    sum: f64,
}

impl Counted {
    fn new(mut buckets: Vec<(f64, u64)>, sum: f64) -> Self {
        // The encoder adds them up without looking; agents' counters may be anything.
        let mut count = 0u64;
        for (_, n) in &mut buckets {
            *n = (*n).min(u64::MAX - count);
            count += *n;
        }
        Self { buckets, count, sum }
    }
}

impl EncodeMetric for Counted {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_histogram::<NoLabelSet>(self.sum, self.count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
