//! The programs of the security hooks: only some kernels run them.

use std::{fs, io};

use aya::{
    Btf, BtfError, Ebpf,
    programs::{Lsm, ProgramError},
};

use crate::pins::Pins;

/// The security modules that the kernel runs, in its order (Documentation/admin-guide/LSM/index.rst).
const MODULES: &str = "/sys/kernel/security/lsm";

/// Each is named as its hook.
const PROGRAMS: [&str; 3] = ["socket_create", "tun_dev_create", "tun_dev_open"];

/// Why sockets and devices whose packets no program sees are not refused.
#[derive(Debug, thiserror::Error)]
pub enum Unguarded {
    /// The kernel runs no BPF programs at its security hooks.
    #[error(
        "the kernel runs no BPF security programs: boot it with `bpf` at the end of its `lsm=` parameter ({now} now)"
    )]
    NotRun {
        /// The modules that it runs.
        now: String,
    },
    /// Nobody tells.
    #[error(
        "cannot read {MODULES}, which tells whether the kernel runs BPF security programs ({0}): mount it with \
         `mount -t securityfs securityfs /sys/kernel/security`"
    )]
    Unknown(io::Error),
    /// The kernel does not describe its hooks.
    #[error("the kernel's types cannot be read: {0}")]
    Types(#[from] BtfError),
    /// It did not take a program.
    #[error("the kernel refused the security program {name}: {source}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// The object has no such program.
    #[error("the BPF object has no {0}: this build is broken, build it anew")]
    Missing(&'static str),
}

/// Loads and attaches them, where that has an effect: elsewhere the kernel takes them and never runs them.
pub(crate) fn attach(ebpf: &mut Ebpf, pins: Option<&Pins>) -> Result<(), Unguarded> {
    are_run()?;
    let types = Btf::from_sys_fs()?;
    for name in PROGRAMS {
        let program = ebpf.program_mut(name).and_then(|program| <&mut Lsm>::try_from(program).ok());
        let program = program.ok_or(Unguarded::Missing(name))?;
        let failed = |source| Unguarded::Program { name, source };
        let link = program.load(name, &types).and_then(|()| program.attach()).map_err(failed)?;
        if let Some(pins) = pins {
            let link = program.take_link(link).map_err(failed)?;
            pins.keep(name, link.into()).map_err(|error| failed(io::Error::other(error).into()))?;
        }
    }
    Ok(())
}

/// Does the kernel run BPF programs at its security hooks?
pub(crate) fn are_run() -> Result<(), Unguarded> {
    let now = fs::read_to_string(MODULES).map_err(Unguarded::Unknown)?;
    if runs_bpf(&now) { Ok(()) } else { Err(Unguarded::NotRun { now: now.trim().to_owned() }) }
}

fn runs_bpf(modules: &str) -> bool {
    modules.trim().split(',').any(|module| module == "bpf")
}

#[cfg(test)]
mod tests {
    use super::runs_bpf;

    #[test]
    fn the_module_is_known_by_its_whole_name() {
        assert!(runs_bpf("lockdown,capability,yama,apparmor,bpf\n"));
        assert!(!runs_bpf("lockdown,capability,yama,apparmor\n"));
        assert!(!runs_bpf("capability,bpfilter"));
        assert!(!runs_bpf(""));
    }
}
