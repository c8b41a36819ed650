//! What is measured on real hosts in a lab: `cargo xtask bench datapath` and `agent`.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::table::{Table, Unit};
use crate::{console, workspace::cargo};

/// A line that tests/benches/NAME prints.
#[derive(Debug, Deserialize)]
struct Figure {
    what: String,
    value: f64,
    unit: String,
    decimals: usize,
    at_most: Option<f64>,
    at_least: Option<f64>,
}

/// Builds and runs it, as root. It says itself what it does, on standard error.
pub(super) fn measure(name: &str) -> Result<Table> {
    console::step("build");
    let mut bench = cargo()
        .args(["bench", "--quiet", "--package", "bulkhead-tests", "--bench", name])
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo cannot be started")?;
    let mut table = Table::default();
    for line in BufReader::new(bench.stdout.take().context("no standard output")?).lines() {
        let line = line?;
        let figure: Figure = serde_json::from_str(&line)
            .with_context(|| format!("what the bench printed is not understood: {line}"))?;
        figure.add_to(&mut table);
    }
    let status = bench.wait()?;
    ensure!(status.success(), "the bench failed ({status})");
    Ok(table)
}

impl Figure {
    fn add_to(&self, table: &mut Table) {
        let unit = Unit(&self.unit, self.decimals);
        match (self.at_most, self.at_least) {
            (Some(goal), _) => table.at_most(&self.what, goal, self.value, unit),
            (_, Some(goal)) => table.at_least(&self.what, goal, self.value, unit),
            _ => table.figure(&self.what, self.value, unit),
        }
    }
}
