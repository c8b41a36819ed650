//! Which cgroups belong to which workload.

use std::collections::HashMap;

use bulkhead_common::MAX_CGROUP_LEVEL;
use bulkhead_policy::{Identity, Policy, WorkloadId};

use crate::{CgroupId, CgroupRoot, Changes, Tree};

/// What the kernel must hold of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// This cgroup, and all below it that has no entry of its own, is this.
    Place(CgroupId, Identity),
    /// This cgroup is what the one above it is.
    Inherit(CgroupId),
}

/// Which cgroups belong to which workload.
#[derive(Debug)]
pub struct Members {
    deepest: usize,
    /// Every cgroup that is somebody's.
    identities: HashMap<CgroupId, Identity>,
    /// Those that need an entry, since they are not what their parent is.
    placed: HashMap<CgroupId, Identity>,
    too_deep: Vec<CgroupId>,
}

impl Members {
    /// Nobody yet, below `root`.
    pub fn new(root: &CgroupRoot) -> Self {
        let deepest = usize::try_from(MAX_CGROUP_LEVEL).unwrap_or(0).saturating_sub(root.level());
        Self { deepest, identities: HashMap::new(), placed: HashMap::new(), too_deep: Vec::new() }
    }

    /// Takes note of changes in the tree; what the kernel must hold of the cgroups that appeared. Those that vanished
    /// the kernel forgets by itself, when their last socket is gone.
    pub fn update(&mut self, tree: &Tree, policy: &Policy, changes: &Changes) -> Vec<Edit> {
        for id in &changes.vanished {
            self.identities.remove(id);
            self.placed.remove(id);
            self.too_deep.retain(|deep| deep != id);
        }
        let appeared = changes.appeared.iter().filter(|id| tree.contains(**id));
        appeared.map(|&id| self.note(tree, id, policy.identify(&tree.lineage(id)))).collect()
    }

    fn note(&mut self, tree: &Tree, id: CgroupId, identity: Identity) -> Edit {
        if identity == Identity::None {
            return Edit::Inherit(id);
        }
        let above = tree.parent(id).and_then(|parent| self.identities.get(&parent));
        let inherits = above == Some(&identity);
        self.identities.insert(id, identity);
        if inherits {
            return Edit::Inherit(id);
        }
        if tree.depth(id).is_some_and(|depth| depth > self.deepest) {
            self.too_deep.push(id);
        }
        self.placed.insert(id, identity);
        Edit::Place(id, identity)
    }

    /// Every cgroup that needs an entry in the kernel: the topmost of those that a selector names, for those below them
    /// belong to them as well.
    pub fn placed(&self) -> impl Iterator<Item = (CgroupId, Identity)> {
        self.placed.iter().map(|(id, identity)| (*id, *identity))
    }

    /// The cgroup whose entry holds for `id`: itself or the nearest above it.
    pub fn anchor(&self, tree: &Tree, id: CgroupId) -> Option<CgroupId> {
        let mut above = std::iter::successors(Some(id), |id| tree.parent(*id));
        above.find(|id| self.placed.contains_key(id))
    }

    /// The workload that a cgroup is in.
    pub fn workload(&self, tree: &Tree, id: CgroupId) -> Option<WorkloadId> {
        match self.placed.get(&self.anchor(tree, id)?)? {
            Identity::Workload(workload) => Some(*workload),
            Identity::None | Identity::Unidentified => None,
        }
    }

    /// Every cgroup of a workload that is there now.
    pub fn of_workloads(&self) -> impl Iterator<Item = (CgroupId, WorkloadId)> {
        self.identities.iter().filter_map(|(id, identity)| match identity {
            Identity::Workload(workload) => Some((*id, *workload)),
            Identity::None | Identity::Unidentified => None,
        })
    }

    /// Selected cgroups nested deeper than the programs look: they are not enforced.
    pub fn too_deep(&self) -> &[CgroupId] {
        &self.too_deep
    }
}
