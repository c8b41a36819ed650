//! The programs, which the kernel takes its time to verify.

use std::{
    collections::HashMap,
    num::NonZero,
    panic::resume_unwind,
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};

use crate::DatapathError;

/// The programs of the object, loaded or being loaded.
pub(crate) struct Programs {
    ebpf: Option<Ebpf>,
    loading: Option<JoinHandle<Result<Ebpf, DatapathError>>>,
}

impl Programs {
    /// Begins to load these. Meanwhile tables can be filled, which is mostly waiting.
    pub(crate) fn begin_to_load(
        mut ebpf: Ebpf,
        names: &'static [&'static str],
    ) -> Result<Self, DatapathError> {
        let load = move || load_all(&mut ebpf, names).map(|()| ebpf);
        let loading = thread::Builder::new().name("load".into()).spawn(load);
        Ok(Self { ebpf: None, loading: Some(loading.map_err(DatapathError::Thread)?) })
    }

    /// All of them, once they are loaded.
    pub(crate) fn loaded(&mut self) -> Result<&mut Ebpf, DatapathError> {
        if let Some(loading) = self.loading.take() {
            self.ebpf = Some(loading.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        self.ebpf.as_mut().ok_or(DatapathError::NotLoaded)
    }

    /// One of them, if somebody has waited for them.
    #[cfg(feature = "test-run")]
    pub(crate) fn get(&self, name: &str) -> Option<&Program> {
        self.ebpf.as_ref()?.program(name)
    }
}

pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, DatapathError> {
    ebpf.program_mut(name).ok_or(DatapathError::Missing { name })
}

/// Loads these programs, on as many processors as there are: the verifier goes through hundreds of thousands of instructions,
/// which is most of what a start takes.
pub(crate) fn load_all(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<(), DatapathError> {
    let mut there: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    // The last ones take longest, and are begun first.
    let mut to_load = Vec::new();
    for &name in names {
        to_load.push((name, there.remove(name).ok_or(DatapathError::Missing { name })?));
    }
    let processors = thread::available_parallelism().map_or(1, NonZero::get).min(to_load.len());
    let to_load = Mutex::new(to_load);
    let load_some = || {
        loop {
            let next = to_load.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((name, program)) = next else { return Ok(()) };
            load(program).map_err(|source| DatapathError::Program { name, source })?;
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..processors).map(|_| scope.spawn(load_some)).collect();
        let own = load_some();
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        others.fold(own, Result::and)
    })
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSock(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSkb(p) => p.load(),
        Program::CgroupSockopt(p) => p.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
