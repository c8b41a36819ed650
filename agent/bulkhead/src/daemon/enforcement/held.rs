//! One policy that the kernel holds: who is in which workload by it, what that compiles to, and its tables.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc};

use bulkhead_common::{Endpoint, PeerId, STATE_DEAD, UNPLACED};
use bulkhead_datapath::{Cgroups, Datapath, DatapathError, Edits, Generation, Renewal};
use bulkhead_policy::{Automaton, Compiled, Compiler, Identity, Inventory, Policy, Source, WorkloadId};
use bulkhead_report::Policies;
use bulkhead_workloads::{
    CgroupId, CgroupRoot, Changes, Edit, Members, SharedTree, addresses, list_processes,
};

use super::names;

/// A policy and its text.
#[derive(Clone, Debug)]
pub(in crate::daemon) struct Written {
    pub(in crate::daemon) policy: Arc<Policy>,
    pub(in crate::daemon) sources: Vec<Source>,
    /// Content hash of the policy as it is written: a dry run takes it less seriously.
    pub(in crate::daemon) hash: String,
}

/// A policy that the kernel holds, or is to hold.
pub(in crate::daemon) struct Held {
    written: Written,
    root: CgroupRoot,
    tree: SharedTree,
    members: Members,
    inventory: Inventory,
    compiler: Compiler<Arc<Policy>>,
    automaton: Automaton,
    /// Number of its generation; 0: it has none yet.
    number: u32,
    /// Does the kernel hold what the compiler has told? Edits are good for nothing else.
    in_step: bool,
    /// Have cgroups found no room in the kernel's tables?
    crowded: bool,
    /// Is it only compared with what is in force?
    compared: bool,
}

impl Held {
    /// Compiles a policy for what is on this host now. That may take a while, and any thread will do: with what happens to
    /// cgroups meanwhile it catches up as it is [prepared](Self::prepare).
    pub(in crate::daemon) fn new(written: Written, root: &CgroupRoot, tree: &SharedTree) -> io::Result<Self> {
        let policy = &written.policy;
        let mut members = Members::new(root);
        {
            let tree = tree.read();
            members.update(&tree, policy, &Changes { appeared: tree.top_down(), ..Changes::default() });
        }
        let inventory = addresses(&list_processes(directories(root, tree, &members)))?;
        Ok(Self {
            compiler: Compiler::new(Arc::clone(policy), inventory.clone()),
            automaton: Automaton::new(policy),
            written,
            root: root.clone(),
            tree: tree.clone(),
            members,
            inventory,
            number: 0,
            in_step: false,
            crowded: false,
            compared: false,
        })
    }

    /// The same, only to be compared with what is in force.
    pub(super) fn only_compared(self) -> Self {
        Self { compared: true, ..self }
    }

    /// Hands its tables to the kernel, which judges nothing by them yet.
    pub(super) fn prepare(
        &mut self,
        datapath: &mut Datapath,
        policies: &Policies,
    ) -> Result<(), DatapathError> {
        let (endpoints, followed) = {
            let tree = self.tree.read();
            // Cgroups have come and gone since it was compiled.
            self.members = Members::new(&self.root);
            let there = Changes { appeared: tree.top_down(), ..Changes::default() };
            self.members.update(&tree, &self.written.policy, &there);
            let placed = self.members.placed();
            let placed = placed.filter_map(|(cgroup, identity)| Some((cgroup.0, self.endpoint(identity)?)));
            let endpoints: Vec<(u64, Endpoint)> =
                placed.chain([(UNPLACED, self.compiler.unidentified())]).collect();
            let states = tree.ids().map(|id| (id.0, self.automaton.state(&tree.lineage(id))));
            (endpoints, states.filter(|(_, state)| *state != STATE_DEAD).collect::<Vec<_>>())
        };
        let names = names::table(&self.automaton, |identity| self.endpoint(identity));
        let compiled = self.compiler.compiled();
        self.number = datapath.last_generation() + 1;
        self.note(self.number, policies);
        datapath.prepare(&Generation {
            number: self.number,
            cgroups: Cgroups { endpoints: &endpoints, followed: &followed, names: &names },
            peers: &compiled.peers,
            policy: &compiled.policy,
        })?;
        self.in_step = true;
        Ok(())
    }

    /// Brings its tables up to date with changes in the tree of cgroups. Most that appear the kernel has identified by
    /// itself.
    pub(super) fn follow(&mut self, datapath: &mut Datapath, changes: &Changes) -> Result<(), DatapathError> {
        let edits = self.members.update(&self.tree.read(), &self.written.policy, changes);
        for edit in edits {
            tracing::debug!(?edit, generation = self.number, "cgroup");
            match edit {
                Edit::Place(cgroup, identity) => self.identify(datapath, cgroup, identity),
                Edit::Inherit(cgroup) => self.identify(datapath, cgroup, Identity::None),
            }
        }
        self.crowded |= datapath.crowded(self.number)?;
        Ok(())
    }

    /// Tells the kernel what a cgroup is, if it is not what the one above it is.
    fn identify(&mut self, datapath: &mut Datapath, cgroup: CgroupId, identity: Identity) {
        let state = {
            let tree = self.tree.read();
            // Gone again: the kernel knows.
            if !tree.contains(cgroup) {
                return;
            }
            self.automaton.state(&tree.lineage(cgroup))
        };
        if let Err(error) = datapath.identify(self.number, cgroup.0, self.endpoint(identity), state) {
            tracing::debug!(cgroup = cgroup.0, %error, "no room for a cgroup");
            self.crowded = true;
        }
    }

    /// Have cgroups found no room in the kernel's tables? Then [make room](Self::make_room).
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// Gives cgroups more room in the kernel's tables. Until [`Self::settle`] those that had found none are refused
    /// everything.
    pub(super) fn make_room(
        &mut self,
        datapath: &mut Datapath,
        policies: &Policies,
    ) -> Result<(), DatapathError> {
        tracing::warn!("more cgroups than the kernel's tables have room for: making more");
        self.crowded = false;
        self.renew(datapath, policies, true)
    }

    /// Takes note of what had found no room, once every cgroup that is there has been followed.
    pub(super) fn settle(&mut self, datapath: &mut Datapath) -> Result<(), DatapathError> {
        let placed: HashMap<CgroupId, Identity> = self.members.placed().collect();
        let all: Vec<CgroupId> = self.tree.read().ids().collect();
        for cgroup in all {
            let identity = placed.get(&cgroup).copied().unwrap_or(Identity::None);
            self.identify(datapath, cgroup, identity);
        }
        if self.crowded { Ok(()) } else { datapath.settled(self.number) }
    }

    /// Brings its tables up to date with the addresses found.
    pub(super) fn take_addresses(
        &mut self,
        datapath: &mut Datapath,
        policies: &Policies,
        found: Inventory,
    ) -> Result<(), DatapathError> {
        self.inventory = found.clone();
        let edits = self.compiler.follow(found);
        tracing::debug!(generation = self.number, edits = edits.len(), "addresses have changed");
        if self.in_step {
            policies.learn(self.number, self.compiler.classes_above(policies.last_class(self.number)));
            let done = datapath.edit(
                self.number,
                &Edits {
                    policy_puts: &edits.policy_puts,
                    peers: &edits.peers,
                    policy_removes: &edits.policy_removes,
                },
            );
            match done {
                Ok(()) => return Ok(()),
                Err(error) => tracing::debug!(%error, "the tables in force cannot be edited"),
            }
        }
        self.renew(datapath, policies, false)
    }

    /// New tables, if rules expire: the programs go by another clock than the policy.
    pub(super) fn follow_the_clock(
        &mut self,
        datapath: &mut Datapath,
        policies: &Policies,
    ) -> Result<(), DatapathError> {
        let expires = self.policy().rules.iter().any(|rule| rule.expires.is_some());
        if expires { self.renew(datapath, policies, false) } else { Ok(()) }
    }

    /// New tables of the same policy.
    fn renew(
        &mut self,
        datapath: &mut Datapath,
        policies: &Policies,
        grows: bool,
    ) -> Result<(), DatapathError> {
        let compiled = self.compiler.compiled();
        let number = datapath.last_generation() + 1;
        self.note(number, policies);
        self.in_step = false;
        let renewal = Renewal { number, grows, peers: &compiled.peers, policy: &compiled.policy };
        datapath.renew(self.number, &renewal)?;
        self.in_step = true;
        self.number = number;
        tracing::debug!(generation = number, "a generation with room for what has appeared");
        Ok(())
    }

    /// Notes what a generation of it is compiled from.
    fn note(&self, number: u32, policies: &Policies) {
        let (policy, classes) = (Arc::clone(&self.written.policy), self.compiler.classes_above(PeerId::NONE));
        if self.compared {
            policies.note_compared(number, policy, classes);
        } else {
            policies.note(number, policy, classes);
        }
    }

    fn endpoint(&self, identity: Identity) -> Option<Endpoint> {
        match identity {
            Identity::None => None,
            Identity::Workload(workload) => Some(self.compiler.endpoint(workload)),
            Identity::Unidentified => Some(self.compiler.unidentified()),
        }
    }

    /// Number of its generation: another one with each table that is built anew.
    pub(in crate::daemon) fn number(&self) -> u32 {
        self.number
    }

    pub(in crate::daemon) fn policy(&self) -> &Arc<Policy> {
        &self.written.policy
    }

    pub(in crate::daemon) fn written(&self) -> &Written {
        &self.written
    }

    pub(in crate::daemon) fn hash(&self) -> &str {
        &self.written.hash
    }

    pub(in crate::daemon) fn sources(&self) -> &[Source] {
        &self.written.sources
    }

    /// The tables as the kernel is to hold them.
    pub(in crate::daemon) fn compiled(&self) -> Compiled {
        self.compiler.compiled()
    }

    /// The hash of policy and tables.
    pub(super) fn tables_hash(&self) -> String {
        self.compiler.content_hash().to_string()
    }

    pub(in crate::daemon) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The cgroup whose entry holds for `cgroup`: itself or the nearest above it.
    pub(super) fn anchor(&self, cgroup: u64) -> Option<u64> {
        self.members.anchor(&self.tree.read(), CgroupId(cgroup)).map(|id| id.0)
    }

    /// The workload that a cgroup belongs to.
    pub(in crate::daemon) fn workload(&self, cgroup: u64) -> Option<WorkloadId> {
        self.members.workload(&self.tree.read(), CgroupId(cgroup))
    }

    /// The directories of all cgroups that are in a workload.
    pub(super) fn directories(&self) -> Vec<(WorkloadId, PathBuf)> {
        directories(&self.root, &self.tree, &self.members)
    }

    /// The identity of each cgroup that selectors match.
    pub(super) fn identities(&self) -> impl Iterator<Item = Identity> {
        self.members.placed().map(|(_, identity)| identity)
    }

    /// Paths of the cgroups that selectors match, by the identity that they give.
    pub(super) fn selected(&self) -> HashMap<Identity, Vec<String>> {
        let tree = self.tree.read();
        let mut selected: HashMap<Identity, Vec<String>> = HashMap::new();
        for (id, identity) in self.members.placed() {
            if let Some(path) = tree.path(id) {
                selected.entry(identity).or_default().push(path);
            }
        }
        for paths in selected.values_mut() {
            paths.sort();
        }
        selected
    }

    /// Paths of cgroups that are selected and nested deeper than the programs look.
    pub(super) fn too_deep(&self) -> Vec<String> {
        let tree = self.tree.read();
        self.members.too_deep().iter().filter_map(|id| tree.path(*id)).collect()
    }
}

fn directories(root: &CgroupRoot, tree: &SharedTree, members: &Members) -> Vec<(WorkloadId, PathBuf)> {
    let tree = tree.read();
    let paths = members.of_workloads().filter_map(|(id, workload)| Some((workload, tree.path(id)?)));
    paths.map(|(workload, path)| (workload, root.path().join(path.trim_start_matches('/')))).collect()
}
