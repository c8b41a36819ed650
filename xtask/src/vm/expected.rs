//! Which tests a kernel cannot take. A skip that nobody expected is a failure, and so is one that did not happen.

use super::results::{Outcome, Run};

/// Kernel as asked for, test.
const SKIPS: &[(&str, &str)] = &[
    ("5.10", BUDGET),
    ("5.10+lsm", BUDGET),
    ("5.10", UNSEEN),
    ("5.10", TUN),
    ("5.10", MPTCP),
    ("5.10+lsm", MPTCP),
    ("newest", UDP_LITE),
];

/// Before Linux 5.16 the kernel does not tell how many instructions it has verified.
const BUDGET: &str = "verifier::every_program_is_within_its_budget";
/// Debian's 5.10 runs BPF programs at the security hooks only if it is told to, which is what `+lsm` does; its newer kernels
/// do by themselves.
const UNSEEN: &str = "creation::what_no_program_sees_is_refused_by_the_security_hooks";
const TUN: &str = "creation::a_tun_device_is_refused_by_the_security_hooks";
/// Debian's 5.10 is built without.
const MPTCP: &str = "transports::several_paths_are_tcp";
/// Linux has dropped it since 6.18.
const UDP_LITE: &str = "transports::udp_with_half_a_checksum_is_a_protocol_of_its_own";

/// What came of all runs.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
    pub(super) findings: Vec<String>,
}

/// Counts, and says what failed and why. `whole`: no filter was given, so that every expected skip must have happened.
pub(super) fn judge(runs: &[Run], whole: bool) -> Verdict {
    let mut verdict = Verdict::default();
    for run in runs {
        for (test, outcome) in &run.results {
            let expected = SKIPS.contains(&(run.name.as_str(), test.as_str()));
            match outcome {
                Outcome::Passed if !expected => verdict.passed += 1,
                Outcome::Skipped(_) if expected => verdict.skipped += 1,
                Outcome::Failed => verdict.failed += 1,
                Outcome::Passed => verdict.fail(format!("{}: {test} runs here: expect no skip", run.name)),
                Outcome::Skipped(why) => verdict.fail(format!("{}: {test} was skipped: {why}", run.name)),
            }
        }
        let missing =
            SKIPS.iter().filter(|(kernel, test)| *kernel == run.name && !run.results.contains_key(*test));
        for (_, test) in missing.filter(|_| whole) {
            verdict.fail(format!("{}: {test} was to be skipped and was not there", run.name));
        }
        if run.results.is_empty() {
            verdict.fail(format!("{}: no test has run", run.name));
        }
        if let Some(complaints) = &run.complaints {
            // A machine that ended badly has failed even if no test says so.
            verdict.failed = verdict.failed.max(1);
            verdict.findings.push(format!("{} ({}):\n{complaints}\n", run.name, run.release));
        }
    }
    verdict
}

impl Verdict {
    fn fail(&mut self, finding: String) {
        self.failed += 1;
        self.findings.push(finding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_run_passes() {
        let run = |output| [Run::of("6.1", "6.1.0", output)];
        let clean = judge(&run("test a ... ok\nended with 0\n"), true);
        assert_eq!((clean.passed, clean.failed, clean.skipped), (1, 0, 0));
        for bad in [
            "test a ... ok\n",
            "ended with 0\n",
            "test a ... ignored (why)\nended with 0\n",
            "test a ... FAILED\nended with 101\n",
        ] {
            assert_ne!(judge(&run(bad), true).failed, 0, "{bad}");
        }
    }
}
