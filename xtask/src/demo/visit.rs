//! The scene left running to play with.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::Result;
use bulkhead_tests::{Agent, artifact};
use tempfile::TempDir;

use super::{
    interrupt::Interrupt,
    scene::{Scene, Who},
};
use crate::console;

/// How often new denials are looked for.
const GLANCE: Duration = Duration::from_millis(50);

/// In a shell script: what it was called with, or a shell.
const ARGUMENTS: &str = r#""${@:-sh}""#;

/// Says what can be done, shows denials as they come, and returns on Ctrl-C.
pub(crate) fn receive(scene: &Scene, agent: &Agent, interrupt: &Interrupt) -> Result<()> {
    let doors = TempDir::with_prefix("bulkhead-demo-")?;
    for who in Who::ALL {
        door(&doors.path().join(who.name()), &scene.place(who)?.command(ARGUMENTS))?;
    }
    console::step("it stays up; try from another terminal, as root");
    let doors = doors.path().display();
    println!("    {doors}/ci curl http://10.77.0.2/     be the CI job; likewise {}", names());
    println!("    {doors}/ci                            the same with a shell");
    println!(
        "    {} status --control-socket {}",
        artifact::agent()?.display(),
        agent.control_socket().display()
    );
    println!("    Ctrl-C here, or kill {}, ends it and leaves nothing behind", std::process::id());
    console::step("denials as they come");
    let mut shown = agent.denials().all()?.len();
    while !interrupt.came() {
        thread::sleep(GLANCE);
        let denials = agent.denials().all()?;
        for denial in &denials[shown..] {
            println!("    {}", denial.record);
        }
        shown = denials.len();
    }
    Ok(())
}

fn names() -> String {
    Who::ALL.into_iter().filter(|&who| who != Who::Ci).map(Who::name).collect::<Vec<_>>().join(", ")
}

/// A script that runs its arguments where somebody's processes run.
fn door(path: &Path, command: &Command) -> Result<()> {
    let quoted = |word: &str| match word {
        ARGUMENTS => word.to_owned(),
        _ => format!("'{}'", word.replace('\'', r"'\''")),
    };
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>();
    fs::write(path, format!("#!/bin/sh\nexec {}\n", words.join(" ")))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}
