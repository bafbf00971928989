//! Figures of the process itself, read from the system at scrape.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts};

/// Clock ticks per second in `/proc`: fixed by the kernel's interface on Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: i64 = 4096;

/// Figures of the process itself.
pub(crate) struct Process {
    memory: Option<IntGauge>,
    cpu: Option<Gauge>,
    files: Option<IntGauge>,
    dropped_logs: Option<IntGauge>,
    build: Option<IntGaugeVec>,
}

impl Process {
    pub(crate) fn new() -> Self {
        let build = IntGaugeVec::new(Opts::new("mecha_build_info", "Always 1."), &["version"]).ok();
        if let Some(build) = &build {
            build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        }
        Self {
            memory: IntGauge::new("process_resident_memory_bytes", "Resident memory.").ok(),
            cpu: Gauge::new("process_cpu_seconds_total", "User and system time.").ok(),
            files: IntGauge::new("process_open_fds", "Open file descriptors.").ok(),
            dropped_logs: IntGauge::new(
                "mecha_log_lines_dropped",
                "Log lines that found no room since the start.",
            )
            .ok(),
            build,
        }
    }

    fn gauges(&self) -> impl Iterator<Item = &IntGauge> {
        [self.memory.as_ref(), self.files.as_ref(), self.dropped_logs.as_ref()].into_iter().flatten()
    }

    fn refresh(&self) {
        if let Some(dropped) = &self.dropped_logs {
            dropped.set(crate::logs::dropped() as i64);
        }
        if let (Some(memory), Ok(statm)) = (&self.memory, std::fs::read_to_string("/proc/self/statm")) {
            let pages: i64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
            memory.set(pages * PAGE_BYTES);
        }
        if let (Some(cpu), Ok(stat)) = (&self.cpu, std::fs::read_to_string("/proc/self/stat")) {
            // The name, in parentheses, may hold spaces.
            let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
            let ticks =
                fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
            cpu.set(ticks.sum::<f64>() / TICKS_PER_SECOND);
        }
        if let (Some(files), Ok(folder)) = (&self.files, std::fs::read_dir("/proc/self/fd")) {
            files.set(folder.count() as i64);
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.gauges().flat_map(Collector::desc);
        let cpu = self.cpu.iter().flat_map(Collector::desc);
        gauges.chain(cpu).chain(self.build.iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        let gauges = self.gauges().flat_map(Collector::collect);
        let cpu = self.cpu.iter().flat_map(Collector::collect);
        gauges.chain(cpu).chain(self.build.iter().flat_map(Collector::collect)).collect()
    }
}
