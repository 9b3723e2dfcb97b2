//! Makes metrics and registers them; every definition is static, so a failure is a programming error.

use prometheus::core::Collector;
use prometheus::{CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use std::collections::HashMap;

const VALID: &str = "metric definitions are static, valid and distinct";

/// Registers metrics that carry the same constant labels.
pub(super) struct Definer<'a> {
    pub registry: &'a Registry,
    pub labels: HashMap<String, String>,
}

impl Definer<'_> {
    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(self.opts(name, help)).expect(VALID))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(self.opts(name, help), labels).expect(VALID))
    }

    pub(super) fn seconds_counters(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.register(CounterVec::new(self.opts(name, help), labels).expect(VALID))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(self.opts(name, help)).expect(VALID))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(self.opts(name, help), labels).expect(VALID))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(self.histogram_opts(name, help, buckets)).expect(VALID))
    }

    pub(super) fn histograms(&self, name: &str, help: &str, (labels, buckets): (&[&str], &[f64])) -> HistogramVec {
        self.register(HistogramVec::new(self.histogram_opts(name, help, buckets), labels).expect(VALID))
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.registry.register(Box::new(collector.clone())).expect(VALID);
        collector
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_labels(self.labels.clone())
    }

    fn histogram_opts(&self, name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
        HistogramOpts::new(name, help).const_labels(self.labels.clone()).buckets(buckets.to_vec())
    }
}
