//! Vitals of the process, measured when `/metrics` is read: its memory, CPU time and file descriptors, the
//! tasks and threads of the runtime, and which program it is.

use metrics_process::Collector;
use tokio::runtime::Handle;

use crate::Identity;

/// Measures a process.
#[derive(Clone, Debug)]
pub struct Vitals {
    process: Collector,
}

impl Vitals {
    /// Creates the metrics of this process.
    pub fn new(identity: &Identity) -> Self {
        metrics::gauge!("build_info", "service" => identity.service, "version" => identity.version).set(1.0);
        let process = Collector::default();
        process.describe();
        Self { process }
    }

    /// Sets the metrics to the values of this moment. Runs in a runtime of tokio.
    #[expect(clippy::cast_precision_loss, reason = "a gauge holds a float")]
    pub fn measure(&self) {
        self.process.collect();
        let runtime = Handle::current().metrics();
        let workers = runtime.num_workers();
        metrics::gauge!("runtime_workers").set(workers as f64);
        metrics::gauge!("runtime_tasks").set(runtime.num_alive_tasks() as f64);
        metrics::gauge!("runtime_queued_tasks").set(runtime.global_queue_depth() as f64);
        let busy = (0..workers).map(|worker| runtime.worker_total_busy_duration(worker).as_secs_f64());
        metrics::gauge!("runtime_busy_seconds").set(busy.sum::<f64>());
    }
}
