//! What /proc tells of a process, asked at once: most that are refused are gone in a moment.

use std::fs;

use rustix::{
    fs::{CWD, Mode, OFlags, openat, readlinkat},
    param::clock_ticks_per_second,
};

/// Path of the program that process `pid` ran at `at` nanoseconds of `CLOCK_BOOTTIME`; none if it is gone, or if its
/// number has passed to another one since.
pub(crate) fn exe(pid: u32, at: u64) -> Option<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
    let exe = readlinkat(&process, "exe", Vec::new()).ok()?;
    let stat = openat(&process, "stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let stat = std::io::read_to_string(fs::File::from(stat)).ok()?;
    (started(&stat)? <= at).then(|| exe.to_string_lossy().into_owned())
}

/// When the process was started, in nanoseconds of `CLOCK_BOOTTIME`: field 22 of /proc/PID/stat (proc_pid_stat(5)),
/// in ticks.
fn started(stat: &str) -> Option<u64> {
    // The command name may hold blanks and brackets: fields are counted from its last closing bracket, field 2.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(22 - 3)?.parse().ok()?;
    Some(ticks * (1_000_000_000 / clock_ticks_per_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_a_live_process_is_known() {
        let this = std::env::current_exe().unwrap();
        assert_eq!(exe(std::process::id(), u64::MAX).as_deref(), this.to_str());
    }

    #[test]
    fn a_process_started_after_the_refusal_is_another_one() {
        assert_eq!(exe(std::process::id(), 1), None);
    }

    #[test]
    fn a_command_name_with_brackets_does_not_shift_the_fields() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 250 1000 1 18446744073709551615";
        assert_eq!(started(stat), Some(250 * (1_000_000_000 / clock_ticks_per_second())));
    }
}
