//! Per-worker counters and histograms, Prometheus text, log format.
