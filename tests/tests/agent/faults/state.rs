//! A state directory that is full, cannot be written, or goes: what is in force stays, and nothing else comes into force that
//! the next start would not know.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use bulkhead_tests::{Agent, pace::until};

use crate::changes::{Shop, finds, succeeds, words};

/// How long a policy is on trial here.
const TRIAL: &str = "3s";

impl Shop {
    fn state(&self) -> PathBuf {
        self.files.path().join("state")
    }

    /// Runs a command of a shell where the agent sees its state directory, which is its argument.
    fn at_the_state(&self, command: &str) -> Result<()> {
        self.lab.run("sh", &["-c", command, words(&self.state())]).map(drop)
    }

    /// Another policy is neither applied nor put on trial, for this reason; the agent says so and goes on.
    fn nothing_changes(&self, agent: &Agent, why: &str) -> Result<()> {
        let other = self.other()?;
        for time in [&[][..], &["--confirm-within", TRIAL]] {
            let said = finds(&agent.tell(&[&["apply", words(&other)], time].concat())?)?;
            ensure!(said.contains("nothing has changed") && said.contains(why), "{said}");
        }
        self.is_under_the_first()?;
        let warnings = agent.status()?["warnings"].to_string();
        ensure!(warnings.contains("cannot be kept") && warnings.contains(why), "{warnings}");
        Ok(())
    }

    /// What was in the way is gone: another policy is applied, and starts next time.
    fn all_is_well(&self, agent: Agent) -> Result<()> {
        succeeds(&agent.tell(&["apply", words(&self.other()?)])?)?;
        let warnings = agent.status()?["warnings"].to_string();
        ensure!(!warnings.contains("cannot be kept"), "{warnings}");
        agent.kill()?;
        let next = self.agent()?.start()?;
        self.is_under_the_other()?;
        next.leave()?;
        self.lab.bulkhead(&["detach"]).map(drop)
    }
}

#[test]
fn with_a_full_disk_nothing_changes_until_there_is_room() -> Result<()> {
    let shop = Shop::new()?;
    shop.at_the_state(r#"mkdir "$0" && mount -t tmpfs -o size=32k,mode=700 small "$0""#)?;
    let agent = shop.agent()?.start()?;
    let fill = r#"dd if=/dev/zero of="$0/ballast" bs=1k count=1k 2>&1 | grep -q "No space left""#;
    shop.at_the_state(fill)?;
    shop.nothing_changes(&agent, "No space left")?;
    // There was room as it was put on trial, and is none as it is confirmed: it ends as if nobody had confirmed it.
    shop.at_the_state(r#"rm "$0/ballast""#)?;
    succeeds(&agent.tell(&["apply", words(&shop.other()?), "--confirm-within", TRIAL])?)?;
    shop.is_under_the_other()?;
    shop.at_the_state(fill)?;
    let said = finds(&agent.tell(&["confirm"])?)?;
    ensure!(said.contains("not confirmed") && said.contains("No space left"), "{said}");
    until("the policy before comes back", || Ok(agent.status()?["trial"].is_null()))?;
    shop.is_under_the_first()?;
    shop.at_the_state(r#"rm "$0/ballast""#)?;
    shop.all_is_well(agent)
}

#[test]
fn a_state_directory_that_cannot_be_written_is_read() -> Result<()> {
    const READ_ONLY: &str = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0""#;
    let shop = Shop::new()?;
    let agent = shop.agent()?.start()?;
    // What is confirmed is not what the files say.
    succeeds(&agent.tell(&["apply", words(&shop.other()?)])?)?;
    agent.kill()?;
    shop.at_the_state(READ_ONLY)?;
    let agent = shop.agent()?.start()?;
    shop.is_under_the_other()?;
    let warnings = agent.status()?["warnings"].to_string();
    ensure!(warnings.contains("Read-only file system"), "{warnings}");
    for policy in [shop.first()?, shop.other()?] {
        let said = finds(&agent.tell(&["apply", words(&policy)])?)?;
        ensure!(said.contains("nothing has changed") && said.contains("Read-only file system"), "{said}");
    }
    shop.is_under_the_other()?;
    shop.at_the_state(r#"mount -o remount,bind,rw "$0""#)?;
    succeeds(&agent.tell(&["rollback"])?)?;
    shop.is_under_the_first()?;
    shop.all_is_well(agent)
}

#[test]
fn a_state_directory_that_vanishes_takes_nothing_with_it() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.agent()?.start()?;
    shop.at_the_state(r#"rm -r "$0""#)?;
    shop.nothing_changes(&agent, "No such file or directory")?;
    shop.at_the_state(r#"mkdir -m 700 "$0""#)?;
    shop.all_is_well(agent)
}
