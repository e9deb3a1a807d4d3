//! Queries and sends of a system that exports its traces, beside one that does not.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;

use super::{
    Bench, Outcome,
    reads::{self, Expected, Target},
    sends,
};
use crate::{collector::Collector, workload::Workload};

/// Description in the report.
pub const TEXT: &str = "The queries of *Reads* and sends with 64 in flight, without traces (*now*), and \
with a part of the traces exported to a collector in the generator, which counts the spans.";

const IN_FLIGHT: usize = 64;
/// Parts of the traces that are exported, with their names in the report.
const SAMPLED: [(&str, &str); 2] = [("10 % of the traces", "0.1"), ("all traces", "1")];

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut expected = Expected::new();
    measure(bench, None, &[], &mut expected, &mut outcome).await?;
    for (name, part) in SAMPLED {
        let collector = Collector::start()?;
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", part),
        ];
        measure(bench, Some(name), &settings, &mut expected, &mut outcome).await?;
        println!("  {} spans", collector.spans());
        ensure!(collector.spans() > 0, "no span was exported");
    }
    Ok(outcome)
}

async fn measure(
    bench: &Bench,
    name: Option<&'static str>,
    settings: &[(&'static str, &str)],
    expected: &mut Expected,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    println!("  {}", name.unwrap_or("without traces"));
    let mut system = bench.start(settings).await?;
    let workload = Arc::new(reads::prepare(&system).await?);
    // Every system has users and dialogs of its own.
    expected.clear();
    Target::own(&system, name).measure(bench, &system, &workload, expected, outcome).await?;
    bench.finish(&mut system, &workload, outcome).await?;

    let mut system = bench.start(settings).await?;
    let workload = Arc::new(Workload::pairs(&system, sends::PAIRS).await?);
    sends::flood(&system, &workload, IN_FLIGHT, sends::WARM_UP).await?;
    let duration = Duration::from_secs(bench.seconds);
    let flood = sends::flood(&system, &workload, IN_FLIGHT, duration).await?;
    flood.report("sends", name, outcome);
    bench.finish(&mut system, &workload, outcome).await
}
