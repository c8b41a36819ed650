//! A terminal with a program in it, and what a person would see there.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use vt100::Parser;

use crate::pace::stretched;

/// Its size.
const ROWS: u16 = 36;
const COLUMNS: u16 = 132;
/// How long something may take to be seen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A terminal. Dropping it ends its program.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    /// The terminal's own end.
    keys: File,
    /// The program's end: what is set of it can be asked for, when the program is gone, too.
    line: OwnedFd,
    seen: Arc<Mutex<Screen>>,
}

struct Screen(Parser);

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.screen().contents())
    }
}

impl Terminal {
    /// Starts a program in a terminal of its own, which it is the first to use.
    pub fn start(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> Result<Self> {
        let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&own)?;
        unlockpt(&own)?;
        let line = open(ptsname(&own, Vec::new())?, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        tcsetwinsize(&line, Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 })?;
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(program)
            .args(arguments)
            .env("TERM", "xterm-256color")
            .stdin(line.try_clone()?)
            .stdout(line.try_clone()?)
            .stderr(line.try_clone()?)
            .spawn()
            .context("setsid cannot be started (package util-linux)")?;
        let keys = File::from(own);
        let seen = Arc::new(Mutex::new(Screen(Parser::new(ROWS, COLUMNS, 0))));
        // It ends with whoever has the line open.
        thread::spawn({
            let (mut from, seen) = (keys.try_clone()?, Arc::clone(&seen));
            move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).0.process(&bytes[..count]);
                }
            }
        });
        Ok(Self { child, keys, line, seen })
    }

    /// All that is on the screen.
    pub fn text(&self) -> String {
        self.screen().0.screen().contents()
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a line with all of this is seen.
    pub fn shows(&self, words: &[&str]) -> Result<()> {
        let end = Instant::now() + stretched(PATIENCE);
        loop {
            let text = self.text();
            if text.lines().any(|line| words.iter().all(|word| line.contains(word))) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("no line with {words:?} is on the screen:\n{text}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types this.
    pub fn types(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Waits for the program's end, and wants the terminal as it was before: with its own screen and cursor, and lines that
    /// are shown as they are typed.
    pub fn ends(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + stretched(PATIENCE);
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < end, "the program is still there:\n{}", self.text());
            thread::sleep(Duration::from_millis(20));
        };
        let modes = tcgetattr(&self.line)?.local_modes;
        ensure!(modes.contains(LocalModes::ICANON | LocalModes::ECHO), "the terminal is left raw");
        let restored = || {
            let screen = self.screen();
            let screen = screen.0.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        };
        // Its last words may still be on their way.
        while !restored() {
            ensure!(Instant::now() < end, "the screen is not given back:\n{}", self.text());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(status)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
