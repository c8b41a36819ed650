//! `cargo xtask bench policy`: the compiler of policies, and the commands that need no agent.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    process::{Taken, take},
    table::{Table, Unit},
};
use crate::{
    console,
    workspace::{self, cargo, succeed},
};

/// Of how many rounds each figure is the median.
const ROUNDS: usize = 7;
/// How often a whole short process is run.
const RUNS: usize = 51;
/// Recorded flows in the larger files; the smaller have a quarter.
const FLOWS: u32 = 400_000;

const SECONDS: Unit<'_> = Unit("s", 2);
const MILLISECONDS: Unit<'_> = Unit("ms", 1);
const MEGABYTES: Unit<'_> = Unit("MB", 0);
const FLOW_RATE: Unit<'_> = Unit("million flows/s", 2);

/// Measures on a large site's policy, made up anew with the same numbers each time.
pub(super) fn measure() -> Result<Table> {
    console::step("build");
    let bench = Bench::build()?;
    let mut table = Table::default();
    console::step("compile");
    bench.compile(&mut table)?;
    console::step("simulate");
    bench.simulate(&mut table, "flows", "host", "the flows of one host")?;
    bench.simulate(&mut table, "flows", "site", "the flows of a site")?;
    bench.simulate(&mut table, "denials", "host", "refusals of one host, any port and address")?;
    bench.simulate(&mut table, "denials", "site", "refusals of a site, any port and address")?;
    console::step("check");
    bench.check(&mut table)?;
    Ok(table)
}

/// The programs that are measured, and where their input lies.
struct Bench {
    bulkhead: PathBuf,
    measure: PathBuf,
    folder: PathBuf,
}

/// What `measure compile` prints.
#[derive(Debug, Deserialize)]
struct Compiled {
    read_ns: u64,
    compile_ns: u64,
    peak_kb: u64,
    added_ns: u64,
    added_edits: u64,
}

impl Bench {
    fn build() -> Result<Self> {
        succeed(cargo().args(["build", "--quiet", "--release", "--package", "bulkhead"]))?;
        let measure = ["--package", "bulkhead-policy", "--example", "measure"];
        succeed(cargo().args(["build", "--quiet", "--release"]).args(measure))?;
        let release = workspace::target_directory().join("release");
        let folder = workspace::target_directory().join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { bulkhead: release.join("bulkhead"), measure: release.join("examples/measure"), folder })
    }

    /// A file that `measure` makes up.
    fn made_up(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        succeed(Command::new(&self.measure).args(arguments).stdout(file))?;
        Ok(path)
    }

    /// Each round is a process of its own, whose memory nothing else has touched.
    fn compile(&self, table: &mut Table) -> Result<()> {
        let site = self.made_up("site.toml", &["policy", "site"])?;
        let round = |_| -> Result<Compiled> {
            let output = Command::new(&self.measure).arg("compile").arg(&site).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
            serde_json::from_slice(&output.stdout).context("what `measure compile` printed is not understood")
        };
        let rounds: Vec<Compiled> = (0..ROUNDS).map(round).collect::<Result<_>>()?;
        let of = |figure: fn(&Compiled) -> u64| median(rounds.iter().map(|c| to_f64(figure(c))));
        table.at_most("compile 10,000 workloads, 100,000 rules", 1.0, of(|c| c.compile_ns) / 1e9, SECONDS);
        table.at_most(
            "its memory, the text and the policy included",
            400.0,
            of(|c| c.peak_kb) / 1024.0,
            MEGABYTES,
        );
        table.at_most("one workload added to that", 1.0, of(|c| c.added_ns) / 1e6, Unit("ms", 3));
        table.figure("its longest list of edits of the tables", of(|c| c.added_edits), Unit("edits", 0));
        let megabytes = to_f64(fs::metadata(&site)?.len()) / 1e6;
        table.figure(
            &format!("read that policy: {megabytes:.0} MB of TOML"),
            of(|c| c.read_ns) / 1e9,
            SECONDS,
        );
        Ok(())
    }

    /// Time is the process's own on a processor, less what it takes for a single flow: reading the policy.
    fn simulate(&self, table: &mut Table, records: &str, site: &str, what: &str) -> Result<()> {
        let policy = self.made_up(&format!("{site}.toml"), &["policy", site])?;
        let flows = |count: u32| {
            let name = format!("{site}-{records}-{count}.jsonl");
            self.made_up(&name, &[records, site, &count.to_string()])
        };
        let files = [flows(1)?, flows(FLOWS / 4)?, flows(FLOWS)?];
        let mut taken: [Vec<Taken>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (taken, file) in taken.iter_mut().zip(&files) {
                let mut simulate = Command::new(&self.bulkhead);
                simulate.arg("simulate").arg(&policy).arg("--flows").arg(file);
                taken.push(take(&mut simulate, &[0, 1])?);
            }
        }
        let [one, quarter, all] = taken.map(|taken| {
            (
                median(taken.iter().map(|t| t.busy.as_secs_f64())),
                median(taken.iter().map(|t| to_f64(t.memory))),
            )
        });
        table.at_least(
            &format!("simulate: {what}"),
            2.0,
            f64::from(FLOWS) / (all.0 - one.0) / 1e6,
            FLOW_RATE,
        );
        table.at_most(
            "its memory, beside that for a quarter of the flows",
            1.05,
            all.1 / quarter.1.max(1.0),
            Unit("times", 2),
        );
        for file in files {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        Ok(())
    }

    /// The slowest of the examples.
    fn check(&self, table: &mut Table) -> Result<()> {
        let folder = workspace::root().join("policies");
        let files = fs::read_dir(&folder)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        let examples = files.iter().filter(|path| path.extension().is_some_and(|e| e == "toml"));
        let times = examples.map(|path| self.check_one(path)).collect::<Result<Vec<_>>>()?;
        let slowest = times.into_iter().fold(0.0, f64::max);
        table.at_most("check: the slowest example, the whole process", 20.0, slowest * 1e3, MILLISECONDS);
        Ok(())
    }

    fn check_one(&self, policy: &Path) -> Result<f64> {
        let run = |_| -> Result<f64> {
            let start = Instant::now();
            let output = Command::new(&self.bulkhead).arg("check").arg(policy).output()?;
            let wall = start.elapsed().as_secs_f64();
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
            Ok(wall)
        };
        Ok(median((0..RUNS).map(run).collect::<Result<Vec<_>>>()?))
    }
}

fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "figures are shown with three digits")]
fn to_f64(figure: u64) -> f64 {
    figure as f64
}
