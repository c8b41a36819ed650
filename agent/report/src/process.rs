//! What /proc tells of a process, asked at once: most that are refused are gone in a moment.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    time::{Duration, Instant},
};

use rustix::{fs::readlink, param::clock_ticks_per_second};

/// Path of the program that process `pid` ran at `at` nanoseconds of `CLOCK_BOOTTIME`; none if it is gone, or if its
/// number has passed to another one since.
pub(crate) fn exe(pid: u32, at: u64) -> Option<String> {
    // First and with one call, since it may end any moment. Who has the number afterwards and had it already when the
    // refusal happened had it in between. Ended meanwhile, nobody has: numbers are not used again that soon.
    let exe = readlink(format!("/proc/{pid}/exe"), Vec::new()).ok()?;
    let since = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| started(&stat));
    since.is_none_or(|since| since <= at).then(|| exe.to_string_lossy().into_owned())
}

/// Paths of programs that began a moment ago, for those that end before they can be asked.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    paths: HashMap<u32, (Instant, String)>,
    order: VecDeque<(Instant, u32)>,
}

impl Programs {
    /// How long a path is kept. Who runs longer can be asked; and a process id is used again only after thousands.
    const KEPT: Duration = Duration::from_secs(5);
    const MOST: usize = 4096;

    /// Notes what `pid` runs now.
    pub(crate) fn note(&mut self, pid: u32) {
        let now = Instant::now();
        while let Some((since, pid)) = self.order.front().copied()
            && (self.order.len() >= Self::MOST || now.duration_since(since) > Self::KEPT)
        {
            self.order.pop_front();
            // Unless the id has been noted anew since.
            if self.paths.get(&pid).is_some_and(|(noted, _)| *noted == since) {
                self.paths.remove(&pid);
            }
        }
        if let Ok(exe) = readlink(format!("/proc/{pid}/exe"), Vec::new()) {
            self.paths.insert(pid, (now, exe.to_string_lossy().into_owned()));
            self.order.push_back((now, pid));
        }
    }

    /// What `pid` was noted to run, not long ago.
    pub(crate) fn path(&self, pid: u32) -> Option<String> {
        let (since, path) = self.paths.get(&pid)?;
        (since.elapsed() <= Self::KEPT).then(|| path.clone())
    }
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
    fn a_program_that_was_noted_is_known_when_it_is_gone() {
        let mut programs = Programs::default();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let path = exe(child.id(), u64::MAX);
        programs.note(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(exe(child.id(), u64::MAX), None);
        assert!(path.is_some());
        assert_eq!(programs.path(child.id()), path);
        assert_eq!(programs.path(0), None);
    }

    #[test]
    fn no_more_programs_are_kept_than_there_is_room_for() {
        let mut programs = Programs::default();
        for _ in 0..2 * Programs::MOST {
            programs.note(std::process::id());
        }
        assert!(programs.order.len() <= Programs::MOST && programs.paths.len() == 1);
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
