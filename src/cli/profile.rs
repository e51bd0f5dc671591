//! Where a run's time went, as text: the share of each phase, and what the machine's limits would have allowed.

use crate::cli::print;
use crate::dlrm::run::RunReport;
use crate::dlrm::{Dlrm, Machine, Phase};

/// A table of the phases, and two lines that hold the run against the machine's rates, which are measured now.
pub(crate) fn text(run: &RunReport, model: &Dlrm, threads: usize, dim: usize) -> String {
    let offered = run.train_s * threads as f64;
    if offered <= 0.0 || run.rows == 0 {
        return "profile  no time was spent training".to_owned();
    }
    let mut table = print::table(&["phase", "share", "seconds", "µs/sample"]);
    let mut row = |name: &str, seconds: f64| {
        table.add_row([
            name.to_owned(),
            format!("{:.1} %", 100.0 * seconds / offered),
            format!("{seconds:.2}"),
            format!("{:.2}", seconds / run.rows as f64 * 1e6),
        ]);
    };
    for phase in Phase::ALL {
        row(phase.name(), run.times.seconds(phase));
    }
    row("waiting and the rest", (offered - run.times.total()).max(0.0));
    format!("{table}\n{}", roofline(run, model, threads, dim))
}

/// Work over rate, against the time it took. Bytes are those of the tables alone, every row taken for a full one: its
/// weights read, then weights and optimizer state read and written.
fn roofline(run: &RunReport, model: &Dlrm, threads: usize, dim: usize) -> String {
    let (rows, machine) = (run.rows as f64, Machine::measure(threads));
    let mlp_flops = model.mlp_flops_per_row() * rows;
    let flops = mlp_flops + model.cross_flops_per_row() * rows;
    let state = if run.store.weights > 0 { run.store.optimizer as f64 / run.store.weights as f64 } else { 0.0 };
    let weights = (run.store.tables.len() * dim * size_of::<f32>()) as f64 * rows;
    let bytes = weights * (1.0 + 2.0 * (1.0 + state));
    let (computing, moving) = (flops / machine.flops, bytes / machine.bytes);
    let mlp_seconds: f64 = Phase::ALL.iter().filter(|p| p.is_mlp()).map(|p| run.times.seconds(*p)).sum();
    let peak = machine.flops / threads as f64;
    let rate = if mlp_seconds > 0.0 { mlp_flops / mlp_seconds } else { 0.0 };
    format!(
        "roofline {:.3} TFLOP at {:.0} GFLOP/s: {computing:.2} s; {:.2} GB of rows at {:.1} GB/s: {moving:.2} s; \
         together {:.0} % of the {:.2} s measured\n\
         MLP      {:.1} GFLOP/s a thread, {:.0} % of the {:.1} measured",
        flops / 1e12,
        machine.flops / 1e9,
        bytes / 1e9,
        machine.bytes / 1e9,
        100.0 * (computing + moving) / run.train_s,
        run.train_s,
        rate / 1e9,
        100.0 * rate / peak,
        peak / 1e9,
    )
}
