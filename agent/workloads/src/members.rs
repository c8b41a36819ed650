//! Which cgroups belong to which workload.

use std::collections::{HashMap, VecDeque};

use bulkhead_common::MAX_CGROUP_LEVEL;
use bulkhead_policy::{Identity, Policy, WorkloadId};

use crate::{CgroupId, CgroupRoot, Changes, Tree};

/// How many removed cgroups stay identified. A socket outlives the directory of the cgroup that made it if another
/// process holds it; it must not become nobody's with the directory.
const LINGERING: usize = 4096;

/// A change of what the kernel must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// This cgroup, and all below it that has no entry of its own, is this now.
    Place(CgroupId, Identity),
    /// This cgroup needs no entry of its own any more.
    Forget(CgroupId),
}

/// Which cgroups belong to which workload.
#[derive(Debug)]
pub struct Members {
    deepest: usize,
    /// Every cgroup that is somebody's.
    identities: HashMap<CgroupId, Identity>,
    /// Those that need an entry, since they are not what their parent is.
    placed: HashMap<CgroupId, Identity>,
    lingering: VecDeque<CgroupId>,
    too_deep: Vec<CgroupId>,
}

impl Members {
    /// Nobody yet, below `root`.
    pub fn new(root: &CgroupRoot) -> Self {
        let deepest = usize::try_from(MAX_CGROUP_LEVEL).unwrap_or(0).saturating_sub(root.level());
        Self {
            deepest,
            identities: HashMap::new(),
            placed: HashMap::new(),
            lingering: VecDeque::new(),
            too_deep: Vec::new(),
        }
    }

    /// Takes note of changes in the tree; the edits that follow from them.
    pub fn update(&mut self, tree: &Tree, policy: &Policy, changes: &Changes) -> Vec<Edit> {
        let mut edits = Vec::new();
        for &id in &changes.appeared {
            if !tree.contains(id) {
                continue;
            }
            let identity = policy.identify(&tree.lineage(id));
            let above = tree.parent(id).and_then(|parent| self.identities.get(&parent));
            if identity == Identity::None {
                continue;
            }
            if above != Some(&identity) {
                if tree.depth(id).is_some_and(|depth| depth > self.deepest) {
                    self.too_deep.push(id);
                }
                self.placed.insert(id, identity);
                edits.push(Edit::Place(id, identity));
            }
            self.identities.insert(id, identity);
        }
        for id in &changes.vanished {
            self.identities.remove(id);
            self.too_deep.retain(|deep| deep != id);
            if self.placed.contains_key(id) {
                self.lingering.push_back(*id);
            }
        }
        while self.lingering.len() > LINGERING
            && let Some(oldest) = self.lingering.pop_front()
        {
            self.placed.remove(&oldest);
            edits.push(Edit::Forget(oldest));
        }
        edits
    }

    /// Every cgroup that needs an entry in the kernel, those not long gone included.
    pub fn placed(&self) -> impl Iterator<Item = (CgroupId, Identity)> {
        self.placed.iter().map(|(id, identity)| (*id, *identity))
    }

    /// The cgroup whose entry holds for `id`: itself or the nearest above it.
    pub fn anchor(&self, tree: &Tree, id: CgroupId) -> Option<CgroupId> {
        let mut above = std::iter::successors(Some(id), |id| tree.parent(*id));
        above.find(|id| self.placed.contains_key(id))
    }

    /// Every cgroup of a workload that is there now.
    pub fn of_workloads(&self) -> impl Iterator<Item = (CgroupId, WorkloadId)> {
        self.identities.iter().filter_map(|(id, identity)| match identity {
            Identity::Workload(workload) => Some((*id, *workload)),
            Identity::None | Identity::Unidentified => None,
        })
    }

    /// The cgroups that a selector names, by workload: the topmost only, those below them belong to them as well.
    pub fn selected(&self) -> impl Iterator<Item = (CgroupId, Identity)> {
        self.placed().filter(|(id, _)| self.identities.contains_key(id))
    }

    /// Selected cgroups nested deeper than the programs look: they are not enforced.
    pub fn too_deep(&self) -> &[CgroupId] {
        &self.too_deep
    }
}
