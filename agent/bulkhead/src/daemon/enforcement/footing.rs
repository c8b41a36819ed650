//! Whether what is enforced outlives the agent.

use bulkhead_datapath::{DatapathError, Footing};

use super::Enforcement;

/// What the agent knows of its pins.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    /// What is wrong with them.
    trouble: Option<String>,
    /// Does enforcement end with the agent?
    ends: bool,
}

impl Pinned {
    pub(super) fn warning(&self) -> Option<String> {
        self.trouble.clone()
    }

    fn of(look: Result<Footing, DatapathError>) -> Self {
        let (trouble, ends) = match look {
            Ok(Footing::Firm | Footing::Moved) => (None, false),
            Ok(Footing::Unmounted(bpffs)) => (
                Some(format!(
                    "no BPF file system is mounted at {path} any more: what is enforced ends with the agent, and `bulkhead \
                     detach` does not find it. Mount one with `mount -t bpf bpf {path}`, and the agent pins all in it",
                    path = bpffs.display()
                )),
                true,
            ),
            Ok(Footing::Removed) => (
                Some(
                    "nothing is enforced any more: what was pinned has been removed, as `bulkhead detach` does. Start the \
                     agent again to enforce"
                        .to_owned(),
                ),
                true,
            ),
            Err(error) => {
                let why = anyhow::Error::new(error);
                (Some(format!("what is enforced ends with the agent, since it cannot be pinned: {why:#}")), true)
            }
        };
        Self { trouble, ends }
    }
}

impl Enforcement {
    /// Looks after the pins. Tells whether enforcement outlives the agent.
    pub(in crate::daemon) fn look_after_pins(&mut self) -> bool {
        let look = self.datapath.look_after_pins();
        if let Ok(Footing::Moved) = look {
            tracing::warn!("pinned all anew: another BPF file system is mounted in place of the one before");
        }
        let now = Pinned::of(look);
        if now.trouble != self.pinned.trouble {
            if let Some(trouble) = &now.trouble {
                tracing::error!("{trouble}");
            } else {
                tracing::info!("what is enforced outlives the agent again");
            }
        }
        let ends = now.ends;
        self.pinned = now;
        !ends
    }
}
