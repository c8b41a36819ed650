//! The programs that compare a generation with the one in force: in the kernel only while there is one to compare.

use std::fs::File;

use aya::{Ebpf, programs::Program};

use crate::{
    DatapathError,
    attach::attach,
    programs::{load_all, program},
};

const PROGRAMS: [&str; 6] = [
    "shadow_connect4",
    "shadow_connect6",
    "shadow_sendmsg4",
    "shadow_sendmsg6",
    "shadow_ingress",
    "shadow_egress",
];

/// Loads and attaches those that are not there yet.
pub(crate) fn begin(ebpf: &mut Ebpf, cgroup: &File) -> Result<(), DatapathError> {
    let mut missing = Vec::new();
    for name in PROGRAMS {
        if program(ebpf, name)?.fd().is_err() {
            missing.push(name);
        }
    }
    load_all(ebpf, &missing)?;
    missing.into_iter().try_for_each(|name| {
        attach(program(ebpf, name)?, cgroup, name).map_err(|source| DatapathError::Program { name, source })
    })
}

/// Detaches and unloads those that are there.
pub(crate) fn end(ebpf: &mut Ebpf) {
    for name in PROGRAMS {
        // What is not loaded need not be unloaded.
        let _not_loaded = match ebpf.program_mut(name) {
            Some(Program::CgroupSockAddr(program)) => program.unload().is_err(),
            Some(Program::CgroupSkb(program)) => program.unload().is_err(),
            _ => true,
        };
    }
}
