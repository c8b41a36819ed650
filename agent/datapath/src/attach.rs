//! Attaches the programs, in the place of those that an agent before has left attached.

use std::{fs::File, io, os::fd::AsFd as _};

use aya::{
    Btf,
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError, links::FdLink},
};

use crate::{Datapath, DatapathError, Unguarded, holders::Visited, programs::program, security, sys};

/// The programs in the order in which they are attached: first those that tag and mark, then those that judge, so
/// that no packet is judged without its mark.
pub(crate) const PROGRAMS: [&str; 11] = [
    "create",
    "setsockopt",
    "bind4",
    "bind6",
    "release",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "ingress",
    "egress",
];

/// Once this one is attached, all are.
pub(crate) const LAST: &str = PROGRAMS[PROGRAMS.len() - 1];

/// The programs that follow cgroups, each named as its tracepoint: first the one that forgets, so that nothing that the
/// other notes is kept for ever.
const CGROUPS: [&str; 2] = ["cgroup_release", "cgroup_mkdir"];

/// What came of attaching.
#[derive(Debug)]
pub struct Attached {
    /// Has it taken over what another agent had left attached? Then no packet went undecided meanwhile.
    pub taken_over: bool,
    /// Sockets that were there already and are tagged.
    pub sockets: usize,
    /// Network namespaces whose sockets could not be listed.
    pub unreadable_namespaces: usize,
    /// Does the kernel tell of programs that begin? If not, one that ends at once may be reported without its path.
    pub watches_programs: bool,
    /// Why it is not known which datagrams answer those that programs of another version have let pass; none: it is.
    pub uncarried: Option<DatapathError>,
    /// Why the kernel does not tell of processes that are moved out of their workload; none: it does.
    pub unwatched: Option<DatapathError>,
    /// Why sockets and devices whose packets no program sees are not refused; none: they are.
    pub unguarded: Option<Unguarded>,
}

impl Datapath {
    /// Attaches all programs, those that judge to the cgroup root, and tags the sockets that are already open. Where pinned
    /// programs are attached, each is replaced at once by the one of its name, and only tags that are of another policy are
    /// put right. What another version has left attached judges on, too, until it is [dismissed](Self::dismiss_others).
    ///
    /// Install a generation first: until there is one, nothing is refused. `anchor` tells the cgroup whose entry holds
    /// for another: itself or the nearest above it that has one.
    pub fn attach(&mut self, anchor: impl Fn(u64) -> Option<u64>) -> Result<Attached, DatapathError> {
        let cgroup = self.open_root()?;
        let taken_over = self.pins.as_ref().is_some_and(|pins| pins.attaches(LAST));
        for name in CGROUPS {
            self.attach_tracepoint(name, name, true)?;
        }
        let (tags, judges) = PROGRAMS.split_at(1);
        for name in tags {
            self.attach_program(&cgroup, name)?;
        }
        let places = self.tables.places();
        let tagged = if taken_over {
            self.sockets.retag(&anchor, places)?
        } else {
            self.sockets.tag_open(&anchor, places)?
        };
        // Before the first of them judges a datagram; and once more when they take note of exchanges themselves.
        let first = self.carry_over();
        for name in judges {
            self.attach_program(&cgroup, name)?;
        }
        let uncarried = first.and_then(|()| self.carry_over()).err();
        // Nothing but the completeness of reports depends on it.
        let watches_programs = self.attach_tracepoint("exec", "sched_process_exec", false).is_ok();
        let unwatched = self.attach_departure().err();
        let unguarded = security::attach(self.programs.loaded()?, self.pins.as_ref()).err();
        let Visited { sockets, unreadable_namespaces } = tagged;
        Ok(Attached {
            taken_over,
            sockets,
            unreadable_namespaces,
            watches_programs,
            uncarried,
            unwatched,
            unguarded,
        })
    }

    /// Removes what other versions have left attached: these programs are shown to refuse.
    pub fn dismiss_others(&self) -> Result<(), DatapathError> {
        self.pins.as_ref().map_or(Ok(()), |pins| pins.detach_other_versions().map(drop))
    }

    fn carry_over(&mut self) -> Result<(), DatapathError> {
        self.pins.as_ref().map_or(Ok(()), |pins| self.exchanges.carry_over(pins))
    }

    pub(crate) fn open_root(&self) -> Result<File, DatapathError> {
        File::open(&self.cgroup_root)
            .map_err(|source| DatapathError::Read { path: self.cgroup_root.clone(), source })
    }

    /// Attaches to a tracepoint. `for_good`: pinned, if anything is.
    fn attach_tracepoint(
        &mut self,
        name: &'static str,
        tracepoint: &'static str,
        for_good: bool,
    ) -> Result<(), DatapathError> {
        let Program::RawTracePoint(program) = program(self.programs.loaded()?, name)? else {
            return Err(DatapathError::Missing { name });
        };
        let failed = |source| DatapathError::Program { name, source };
        let link = program.load().and_then(|()| program.attach(tracepoint)).map_err(failed)?;
        match &self.pins {
            // Both are attached for a moment: they say the same.
            Some(pins) if for_good => pins.keep(name, program.take_link(link).map_err(failed)?.into()),
            _ => Ok(()),
        }
    }

    fn attach_departure(&mut self) -> Result<(), DatapathError> {
        const NAME: &str = "departure";
        let Program::FEntry(program) = program(self.programs.loaded()?, NAME)? else {
            return Err(DatapathError::Missing { name: NAME });
        };
        let types = Btf::from_sys_fs().map_err(ProgramError::from);
        let attached = types.and_then(|types| program.load("cgroup_attach_task", &types));
        let attached = attached.and_then(|()| program.attach());
        attached.map(drop).map_err(|source| DatapathError::Program { name: NAME, source })
    }

    fn attach_program(&mut self, cgroup: &File, name: &'static str) -> Result<(), DatapathError> {
        let program = program(self.programs.loaded()?, name)?;
        let failed = |source| DatapathError::Program { name, source };
        let Some(pins) = &self.pins else {
            return attach(program, cgroup, name).map_err(failed);
        };
        if pins.attaches(name) && pins.replace(name, program.fd().map_err(failed)?.as_fd()) {
            return Ok(());
        }
        if let Program::CgroupSockopt(program) = program {
            let attached = sys::attach_to_setsockopt(program.fd().map_err(failed)?.as_fd(), cgroup.as_fd());
            let link = attached.map_err(|error| failed(ProgramError::IOError(error)))?;
            return pins.keep_as(name, |path| sys::pin(link.as_fd(), path));
        }
        let link = attach_for_good(program, cgroup, name).map_err(failed)?;
        pins.keep(name, link)
    }
}

/// `Single` is the mode that links take; they coexist with other programs all the same.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

/// Attaches by a link that goes with the program.
pub(crate) fn attach(program: &mut Program, cgroup: &File, name: &str) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSock(p) => p.attach(cgroup, MODE).map(drop),
        Program::CgroupSockAddr(p) => p.attach(cgroup, MODE).map(drop),
        Program::CgroupSkb(p) => p.attach(cgroup, way(name), MODE).map(drop),
        Program::CgroupSockopt(p) => p.attach(cgroup, MODE).map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Attaches by a link that the caller owns.
fn attach_for_good(program: &mut Program, cgroup: &File, name: &str) -> Result<FdLink, ProgramError> {
    let link = match program {
        Program::CgroupSock(p) => {
            let link = p.attach(cgroup, MODE)?;
            FdLink::try_from(p.take_link(link)?)
        }
        Program::CgroupSockAddr(p) => {
            let link = p.attach(cgroup, MODE)?;
            FdLink::try_from(p.take_link(link)?)
        }
        Program::CgroupSkb(p) => {
            let link = p.attach(cgroup, way(name), MODE)?;
            FdLink::try_from(p.take_link(link)?)
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    link.map_err(|error| ProgramError::IOError(io::Error::other(error)))
}

/// Which packets a program is for, by its name.
fn way(name: &str) -> CgroupSkbAttachType {
    if name.ends_with("ingress") { CgroupSkbAttachType::Ingress } else { CgroupSkbAttachType::Egress }
}
