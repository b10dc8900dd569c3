//! Writing metrics out: one line each for a metric without and with labels.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Label names and values of one series.
pub(super) type Labels<'l, const N: usize> = [(&'l str, &'l str); N];

pub(super) struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
    series: usize,
}

impl<'a> Out<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder, series: 0 }
    }

    /// Series written so far.
    pub(super) fn series(&self) -> usize {
        self.series
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        self.metric(name, help, &ConstCounter::new(value), 1)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.metric(name, help, &ConstGauge::new(value), 1)
    }

    /// `series`: how many lines it writes.
    pub(super) fn metric(
        &mut self,
        name: &str,
        help: &str,
        metric: &impl EncodeMetric,
        series: usize,
    ) -> fmt::Result {
        self.series += series;
        metric.encode(
            self.encoder
                .encode_descriptor(name, help, None, metric.metric_type())?,
        )
    }

    pub(super) fn counters<'l, const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            samples.map(|(labels, value)| (labels, ConstCounter::new(value))),
        )
    }

    pub(super) fn gauges<'l, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            samples.map(|(labels, value)| (labels, ConstGauge::new(value))),
        )
    }

    fn family<'l, const N: usize, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<'l, N>, M)>,
    ) -> fmt::Result {
        let mut samples = samples.peekable();
        let Some((_, first)) = samples.peek() else {
            return Ok(());
        };
        let mut family = self
            .encoder
            .encode_descriptor(name, help, None, first.metric_type())?;
        for (labels, metric) in samples {
            self.series += 1;
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Histograms from cumulative counts: (labels, [(upper edge, count in the bucket)], sum).
    pub(super) fn histograms<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<'l, N>, Vec<(f64, u64)>, f64)>,
    ) -> fmt::Result {
        let mut samples = samples.peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, mut buckets, sum) in samples {
            // The buckets, their sum, their count.
            self.series += buckets.len() + 2;
            // The encoder adds them up without looking; agents' counters may be anything.
            let mut count = 0u64;
            for (_, n) in &mut buckets {
                *n = (*n).min(u64::MAX - count);
                count += *n;
            }
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
