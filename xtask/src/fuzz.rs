//! `cargo xtask fuzz`: arbitrary input for what reads other people's text.
//!
//! libFuzzer needs no more of the compiler than counters of what was reached, which stable rustc can insert: so this
//! runs wherever Bulkhead builds, without nightly and without cargo-fuzz (which can run the same targets).

mod corpus;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    console, setup,
    workspace::{self, FUZZ, cargo, succeed},
};

/// Feed arbitrary policies and records to their readers, beginning with those in fuzz/corpus
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the readers are fed, all at once
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Make fuzz/corpus the few inputs that reach most, of those in it and those found
    #[arg(long)]
    keep: bool,
    /// Do not ask before installing what is missing
    #[arg(long, short)]
    yes: bool,
}

/// The readers: programs of the fuzz workspace.
const TARGETS: [&str; 2] = ["policy", "record"];

/// What cargo-fuzz gives rustc, but for the address sanitizer: it needs nightly, and what is read here is read without
/// any `unsafe`.
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=4",
];

/// Limits for one input: seconds, megabytes, bytes.
const LIMITS: [&str; 3] = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=16384"];

/// The most inputs of one reader that are kept under version control.
const MOST_KEPT: usize = 90;

/// Feeds them all to the end, and tells of the first finding.
pub(crate) fn run(args: Args) -> Result<()> {
    setup::ensure(args.yes)?;
    console::step("build");
    let programs = build()?;
    let targets = TARGETS.iter().map(|name| Target::new(name, &programs)).collect::<Result<Vec<_>>>()?;
    console::step(format!("{}: {} s", TARGETS.join(", "), args.seconds));
    let fed: Vec<_> = thread::scope(|scope| {
        let feeding: Vec<_> =
            targets.iter().map(|target| scope.spawn(|| target.feed(args.seconds))).collect();
        feeding
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| bail!("its thread has panicked")))
            .collect()
    });
    fed.into_iter().collect::<Result<()>>()?;
    if args.keep {
        targets.iter().try_for_each(Target::keep)?;
    }
    Ok(())
}

/// Builds all targets; the folder that they are in.
fn build() -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let folder = workspace::target_directory().join("fuzz");
    let mut build = cargo();
    build
        .args(["build", "--quiet", "--locked", "--release", "--manifest-path"])
        .arg(format!("{FUZZ}/Cargo.toml"))
        // With a target named, the flags are not for build scripts and macros.
        .args(["--target", &triple])
        .env("CARGO_TARGET_DIR", &folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", FLAGS.join(" "));
    succeed(&mut build)?;
    Ok(folder.join(triple).join("release"))
}

/// A reader that is fed.
struct Target {
    name: &'static str,
    program: PathBuf,
    /// Inputs that are under version control.
    corpus: PathBuf,
    /// Inputs found here to reach new code: the next run goes on from there.
    found: PathBuf,
    /// Inputs that it fails on.
    findings: PathBuf,
}

impl Target {
    fn new(name: &'static str, programs: &Path) -> Result<Self> {
        let own = |kind: &str| workspace::target_directory().join("fuzz").join(kind).join(name);
        let corpus = workspace::root().join(FUZZ).join("corpus").join(name);
        let target = Self {
            name,
            program: programs.join(name),
            corpus,
            found: own("found"),
            findings: own("findings"),
        };
        for folder in [&target.found, &target.findings] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(target)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(LIMITS).arg(format!("-artifact_prefix={}/", self.findings.display()));
        command
    }

    fn feed(&self, seconds: u64) -> Result<()> {
        let before = Self::inputs(&self.findings)?;
        let mut command = self.command();
        command.args([format!("-max_total_time={seconds}")]).args(["-verbosity=0", "-print_final_stats=1"]);
        let dictionary = workspace::root().join(FUZZ).join(format!("{}.dict", self.name));
        command.arg(format!("-dict={}", dictionary.display())).args([&self.found, &self.corpus]);
        let Err(failed) = succeed(&mut command) else { return Ok(()) };
        let Some(finding) = Self::inputs(&self.findings)?.into_iter().find(|path| !before.contains(path))
        else {
            return Err(failed);
        };
        bail!(
            "{} fails on an input; again by\n    {} {}",
            self.name,
            self.program.display(),
            finding.display()
        );
    }

    /// Puts into the corpus the few inputs of both folders that reach most.
    fn keep(&self) -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let (merged, control) = (scratch.path().join("merged"), scratch.path().join("control"));
        fs::create_dir(&merged)?;
        let mut merge = self.command();
        // Whether something was reached counts, not how often.
        merge.args(["-merge=1", "-use_counters=0", "-verbosity=0"]);
        merge.arg(format!("-merge_control_file={}", control.display()));
        succeed(merge.args([&merged, &self.corpus, &self.found]))?;
        let inputs = corpus::inputs(&fs::read_to_string(&control)?)
            .context("libFuzzer's control file has another form")?;
        let kept = corpus::worth_keeping(inputs, MOST_KEPT);
        let texts =
            kept.iter().map(|path| Ok((Path::new(path).file_name().context("no name")?, fs::read(path)?)));
        let texts = texts.collect::<Result<Vec<_>>>()?;
        fs::remove_dir_all(&self.corpus)?;
        fs::create_dir(&self.corpus)?;
        for (name, text) in &texts {
            fs::write(self.corpus.join(name), text)?;
        }
        fs::remove_dir_all(&self.found)?;
        console::note(format!("fuzz/corpus/{} has {} inputs", self.name, texts.len()));
        Ok(())
    }

    fn inputs(folder: &Path) -> Result<Vec<PathBuf>> {
        let files = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        files.map(|file| Ok(file?.path())).collect()
    }
}
