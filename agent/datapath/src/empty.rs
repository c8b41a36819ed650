//! The program that does nothing, to hold the others against.

use std::{fs::File, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, Program},
};

use crate::{DatapathError, OBJECT, programs::program};

const NAME: &str = "empty";

/// An empty program on every packet of a cgroup, both ways. Dropping it detaches it.
///
/// Minimum kernel: 5.10.
pub struct Empty {
    _ebpf: Ebpf,
}

impl Empty {
    /// Attaches it.
    pub fn attach(cgroup: &Path) -> Result<Self, DatapathError> {
        let mut ebpf = EbpfLoader::new().load(OBJECT)?;
        let cgroup =
            File::open(cgroup).map_err(|source| DatapathError::Read { path: cgroup.to_owned(), source })?;
        let Program::CgroupSkb(empty) = program(&mut ebpf, NAME)? else {
            return Err(DatapathError::Missing { name: NAME });
        };
        let attached = empty.load().and_then(|()| {
            for way in [CgroupSkbAttachType::Egress, CgroupSkbAttachType::Ingress] {
                CgroupSkb::attach(empty, &cgroup, way, CgroupAttachMode::Single)?;
            }
            Ok(())
        });
        attached.map_err(|source| DatapathError::Program { name: NAME, source })?;
        Ok(Self { _ebpf: ebpf })
    }
}
