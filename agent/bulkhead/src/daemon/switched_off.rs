//! The way back for who is locked out and has only the console: `bulkhead=off` among the kernel's parameters.

use std::fs;

use super::{RunError, notify::Notify, signals::Signals};
use crate::{cli::Output, log::Log};

const COMMAND_LINE: &str = "/proc/cmdline";
const OFF: &str = "bulkhead=off";

/// Was this kernel booted with it?
pub(super) fn by_the_kernels_command_line() -> bool {
    // A kernel whose parameters cannot be read has not been told anything.
    fs::read_to_string(COMMAND_LINE).is_ok_and(|line| says_off(&line))
}

fn says_off(line: &str) -> bool {
    line.split_whitespace().any(|parameter| parameter == OFF)
}

/// Does nothing until told to stop: an agent that ended would be started again. Not even the policy is read, which may be
/// what is wrong.
pub(super) fn wait(output: Output, log: &Log) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen(false)?;
        let mut notify = Notify::from_environment()?;
        notify.ready(&format!("off: the kernel was booted with {OFF}"));
        log.say(&announced(output));
        loop {
            tokio::select! {
                _ = signals.next() => break,
                () = notify.beat() => {}
            }
        }
        notify.stopping();
        Ok(())
    })
}

fn announced(output: Output) -> String {
    match output {
        Output::Json => serde_json::json!({ "status": "off", "reason": OFF }).to_string(),
        Output::Human => {
            format!(
                "off: the kernel was booted with {OFF}, so nothing is enforced; boot without it to enforce again"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::says_off;

    #[test]
    fn the_parameter_is_known_as_a_whole() {
        assert!(says_off("root=/dev/sda1 ro bulkhead=off quiet\n"));
        assert!(!says_off("root=/dev/sda1 ro xbulkhead=off bulkhead=offline bulkhead=on\n"));
        assert!(!says_off(""));
    }
}
