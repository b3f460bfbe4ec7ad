//! The process as its operating system sees it.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};
use rustix::time::{ClockId, clock_gettime};

const CPU: &str = "process_cpu_seconds_total";

/// The library's collector, whose processor time is in whole seconds: too coarse for a rate over some seconds.
#[derive(Debug)]
pub(super) struct Process(ProcessCollector);

impl Process {
    pub fn new() -> Self {
        Self(ProcessCollector::for_self())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        // A clock that every Linux has; before the epoch of a process there is no time.
        let used = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
        for metric in families.iter_mut().filter(|family| family.name() == CPU).flat_map(MetricFamily::mut_metric) {
            let mut counter = Counter::default();
            counter.set_value(used.as_secs_f64());
            metric.set_counter(counter);
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_told_in_parts_of_a_second() {
        let families = Process::new().collect();
        let cpu = families.iter().find(|family| family.name() == CPU).expect("there is one");
        let value = cpu.get_metric()[0].get_counter().get_value();
        assert!(value > 0.0 && value.fract() != 0.0, "{value}");
        assert!(families.len() >= 5, "with all the others");
    }
}
