//! Writing metric families in OpenMetrics text.

use crate::observe::names::{Kind, Metric};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

/// A sample.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Integer(u64),
    Float(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Integer(value.into())
    }
}

impl Value {
    fn encode(self, metric: Metric, sample: MetricEncoder) -> fmt::Result {
        match (self, metric.kind) {
            (Self::Integer(value), Kind::Counter) => ConstCounter::new(value).encode(sample),
            (Self::Float(value), Kind::Counter) => ConstCounter::new(value).encode(sample),
            (Self::Integer(value), _) => ConstGauge::new(value).encode(sample),
            (Self::Float(value), _) => ConstGauge::new(value).encode(sample),
        }
    }
}

/// Writes whole families, so that HELP and TYPE lines come once and before the samples.
pub(super) struct Families<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl<'a, 'b> Families<'a, 'b> {
    /// Families that go to this encoder.
    pub(super) fn new(encoder: &'a mut DescriptorEncoder<'b>) -> Self {
        Self(encoder)
    }

    /// A family with one sample and no labels.
    pub(super) fn one(&mut self, metric: Metric, value: impl Into<Value>) -> fmt::Result {
        debug_assert!(metric.labels.is_empty(), "{}", metric.name);
        value.into().encode(metric, self.family(metric)?)
    }

    /// A family with a sample for each row.
    pub(super) fn many<V: AsRef<str>, const N: usize>(
        &mut self,
        metric: Metric,
        rows: impl IntoIterator<Item = ([V; N], Value)>,
    ) -> fmt::Result {
        let mut family = self.family(metric)?;
        for (values, value) in rows {
            value.encode(metric, family.encode_family(&labels(metric, &values))?)?;
        }
        Ok(())
    }

    /// The head of a family.
    fn family(&mut self, metric: Metric) -> Result<MetricEncoder<'_>, fmt::Error> {
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        // The encoder appends these suffixes itself.
        let name = metric.name;
        let stem = name
            .strip_suffix("_total")
            .or_else(|| name.strip_suffix("_info"));
        self.0
            .encode_descriptor(stem.unwrap_or(name), metric.help, None, kind)
    }

    /// A family that holds facts.
    pub(super) fn info<const N: usize>(
        &mut self,
        metric: Metric,
        values: [&str; N],
    ) -> fmt::Result {
        self.family(metric)?.encode_info(&labels(metric, &values))
    }

    /// A family of histograms: for each its labels, the sum of the observations, and how many there
    /// were by bucket, not cumulative. There is one bucket more than `bounds`.
    pub(super) fn histograms<'s, V: AsRef<str>, const N: usize>(
        &mut self,
        metric: Metric,
        bounds: &[f64],
        rows: impl IntoIterator<Item = ([V; N], f64, &'s [u64])>,
    ) -> fmt::Result {
        let mut family = self.family(metric)?;
        for (values, sum, counts) in rows {
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
            let count = counts.iter().sum();
            let labels = labels(metric, &values);
            // Labels of an empty set would be written as `{}`.
            if labels.is_empty() {
                family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            } else {
                family
                    .encode_family(&labels)?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

fn labels<V: AsRef<str>, const N: usize>(
    metric: Metric,
    values: &[V; N],
) -> Vec<(&'static str, &str)> {
    debug_assert_eq!(metric.labels.len(), N, "{}", metric.name);
    let values = values.iter().map(AsRef::as_ref);
    metric.labels.iter().copied().zip(values).collect()
}
