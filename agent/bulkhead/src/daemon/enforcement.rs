//! The policy in force: who is in which workload, what that compiles to, and the kernel's copy of it.

mod measures;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bulkhead_common::{Endpoint, STATE_DEAD, UNPLACED};
use bulkhead_datapath::{Cgroups, Datapath, DatapathError, Edits, Events, Generation, Pins, Renewal};
use bulkhead_policy::{Automaton, Compiler, Identity, Inventory, Mode, Policy, WorkloadId};
use bulkhead_workloads::{CgroupId, CgroupRoot, Changes, Edit, Members, SharedTree, addresses};
use tokio::task::JoinHandle;

use super::{
    RunError,
    ledger::Ledger,
    names, priority,
    unseen::{self, Capables, Unseen},
};
use crate::control::{self, Environment, Status, Workload};

/// The policy in force. Dropping it leaves it in force, by the kernel alone.
pub(super) struct Enforcement {
    policy: Arc<Policy>,
    root: CgroupRoot,
    tree: SharedTree,
    members: Members,
    inventory: Inventory,
    compiler: Compiler<Arc<Policy>>,
    automaton: Automaton,
    datapath: Datapath,
    generation: u32,
    /// Does the kernel hold what the compiler has told? Edits are good for nothing else.
    in_step: bool,
    /// Have cgroups found no room in the kernel's tables?
    crowded: bool,
    search: Option<JoinHandle<Found>>,
    cost_of_search: Duration,
    /// How often that has been so.
    times_crowded: u64,
    /// The last thing that the kernel did not take.
    fault: Option<String>,
    faults: u64,
    /// What the workloads' traffic has come to.
    ledger: Ledger,
    /// None: what the programs do not see is refused.
    unseen: Option<Unseen>,
    /// Why processes that leave their workload are not reported; none: they are.
    unwatched: Option<String>,
}

/// What a look through the processes of the workloads has found.
struct Found {
    /// None: the same as before.
    inventory: Option<Inventory>,
    capable: Option<Capables>,
    took: Duration,
}

impl Enforcement {
    /// Loads the programs and fills their tables, which are not in force yet; nothing is enforced before [`Self::attach`].
    pub(super) fn start(
        policy: Arc<Policy>,
        root: CgroupRoot,
        pins: &Pins,
        tree: SharedTree,
        there: &Changes,
    ) -> Result<Self, RunError> {
        let mut members = Members::new(&root);
        members.update(&tree.read(), &policy, there);
        let inventory = addresses(&directories(&root, &tree, &members)).map_err(RunError::Addresses)?;
        let compiler = Compiler::new(Arc::clone(&policy), inventory.clone());
        let automaton = Automaton::new(&policy);
        let datapath = Datapath::load(root.path(), Some(pins))?;
        let generation = datapath.last_generation() + 1;
        let ledger = Ledger::of(datapath.tally(), generation, &policy);
        let mut enforcement = Self {
            policy,
            root,
            tree,
            members,
            inventory,
            compiler,
            automaton,
            datapath,
            generation,
            in_step: false,
            crowded: false,
            search: None,
            cost_of_search: Duration::ZERO,
            fault: None,
            faults: 0,
            times_crowded: 0,
            ledger,
            unseen: None,
            unwatched: None,
        };
        enforcement.begin()?;
        Ok(enforcement)
    }

    /// Judges by this policy from now on, if an agent before this one has left its programs at work. `changes`: cgroups that
    /// were made while the tables were filled; of those that come later the kernel tells itself.
    pub(super) fn put_in_force(&mut self, changes: &Changes) -> Result<(), DatapathError> {
        self.follow(changes);
        self.datapath.put_in_force(self.generation)
    }

    /// Enforces from now on.
    pub(super) fn attach(&mut self) -> Result<(), DatapathError> {
        let (tree, members) = (self.tree.clone(), &self.members);
        let anchor = |cgroup| members.anchor(&tree.read(), CgroupId(cgroup)).map(|id| id.0);
        let attached = self.datapath.attach(anchor)?;
        if attached.taken_over {
            tracing::info!("took over from an agent before this one: enforcement has not paused");
        } else {
            tracing::debug!(sockets = attached.sockets, "tagged the sockets that were there");
        }
        self.unseen = attached.unguarded.map(|why| {
            let directories = directories(&self.root, &self.tree, &self.members);
            Unseen::new(why, unseen::capable(&self.policy, directories))
        });
        if !attached.watches_programs {
            tracing::warn!(
                "the kernel does not tell of programs that begin: one that ends at once may be reported without its path"
            );
        }
        if let Some(error) = attached.unwatched {
            // A verifier has much to say.
            let why = format!("{:#}", anyhow::Error::new(error));
            self.unwatched = why.lines().next().map(str::to_owned);
        }
        if attached.unreadable_namespaces > 0 {
            tracing::warn!(
                namespaces = attached.unreadable_namespaces,
                "sockets opened before now in these network namespaces cannot be told apart by the calls that they \
                 make, only by their packets"
            );
        }
        Ok(())
    }

    /// Takes the policy out of force.
    pub(super) fn detach(self) -> Result<(), DatapathError> {
        self.datapath.detach()
    }

    /// The stream of refusals; can be taken once.
    pub(super) fn take_events(&mut self) -> Result<Events, RunError> {
        self.datapath.take_events().ok_or(RunError::ReportsEnded)
    }

    /// Brings the kernel's tables up to date with changes in the tree of cgroups. Most that appear the kernel has
    /// identified by itself.
    pub(super) fn follow(&mut self, changes: &Changes) {
        let edits = self.members.update(&self.tree.read(), &self.policy, changes);
        for edit in edits {
            tracing::debug!(?edit, "cgroup");
            match edit {
                Edit::Place(cgroup, identity) => self.identify(cgroup, identity),
                Edit::Inherit(cgroup) => self.identify(cgroup, Identity::None),
            }
        }
        match self.datapath.crowded(self.generation) {
            Ok(crowded) => self.crowded |= crowded,
            Err(error) => self.note(Err(error)),
        }
    }

    /// Tells the kernel what a cgroup is, if it is not what the one above it is.
    fn identify(&mut self, cgroup: CgroupId, identity: Identity) {
        let state = {
            let tree = self.tree.read();
            // Gone again: the kernel knows.
            if !tree.contains(cgroup) {
                return;
            }
            self.automaton.state(&tree.lineage(cgroup))
        };
        if let Err(error) = self.datapath.identify(self.generation, cgroup.0, self.endpoint(identity), state)
        {
            tracing::debug!(cgroup = cgroup.0, %error, "no room for a cgroup");
            self.crowded = true;
        }
    }

    /// Have cgroups found no room in the kernel's tables? Then [make room](Self::make_room).
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// Gives cgroups more room in the kernel's tables; is there some now? Until [`Self::settle`] those that had found none
    /// are refused everything.
    pub(super) fn make_room(&mut self) -> bool {
        tracing::warn!("more cgroups than the kernel's tables have room for: making more");
        self.crowded = false;
        self.times_crowded += 1;
        let done = self.renew(true);
        let roomy = done.is_ok();
        self.note(done);
        roomy
    }

    /// Takes note of what had found no room: `changes` come from a look through the whole tree.
    pub(super) fn settle(&mut self, changes: &Changes) {
        self.follow(changes);
        let placed: HashMap<CgroupId, Identity> = self.members.placed().collect();
        let all: Vec<CgroupId> = self.tree.read().ids().collect();
        for cgroup in all {
            self.identify(cgroup, placed.get(&cgroup).copied().unwrap_or(Identity::None));
        }
        if !self.crowded {
            let done = self.datapath.settled(self.generation);
            self.note(done);
        }
    }

    /// Begins to look for addresses, off the thread that follows cgroups: that must not wait for /proc.
    pub(super) fn look_for_addresses(&mut self) {
        if self.search.is_some() {
            return;
        }
        let directories = directories(&self.root, &self.tree, &self.members);
        let known = self.inventory.clone();
        let policy = self.unseen.is_some().then(|| Arc::clone(&self.policy));
        self.search = Some(tokio::task::spawn_blocking(move || {
            priority::ordinary();
            let started = Instant::now();
            let found = addresses(&directories)
                .inspect_err(|error| tracing::warn!(%error, "cannot read the addresses of this machine"));
            let inventory = found.ok().filter(|inventory| *inventory != known);
            let capable = policy.map(|policy| unseen::capable(&policy, directories));
            Found { inventory, capable, took: started.elapsed() }
        }));
    }

    /// Waits until a search for addresses has found others than before; for ever if there is no search.
    pub(super) async fn addresses_found(&mut self) -> Inventory {
        loop {
            let Some(search) = &mut self.search else { return std::future::pending().await };
            let found = search.await;
            self.search = None;
            match found {
                Ok(Found { inventory, capable, took }) => {
                    self.cost_of_search = took;
                    if let (Some(unseen), Some(capable)) = (&mut self.unseen, capable) {
                        unseen.update(capable);
                    }
                    if let Some(inventory) = inventory {
                        return inventory;
                    }
                }
                Err(error) => tracing::error!(%error, "the search for addresses has failed: this is a bug"),
            }
        }
    }

    /// How long the last search for addresses took.
    pub(super) fn cost_of_search(&self) -> Duration {
        self.cost_of_search
    }

    /// Brings the kernel's tables up to date with the addresses found.
    pub(super) fn take_addresses(&mut self, found: Inventory) {
        self.inventory = found.clone();
        let edits = self.compiler.follow(found);
        tracing::debug!(generation = self.generation, edits = edits.len(), "addresses have changed");
        if self.in_step && self.edit(&edits) {
            return;
        }
        let done = self.renew(false);
        tracing::debug!(generation = self.generation, "a generation with room for what has appeared");
        self.note(done);
    }

    /// Edits the tables in force; have they had room for it?
    fn edit(&mut self, edits: &bulkhead_policy::Edits) -> bool {
        let done = self.datapath.edit(
            self.generation,
            &Edits {
                policy_puts: &edits.policy_puts,
                peers: &edits.peers,
                policy_removes: &edits.policy_removes,
            },
        );
        if let Err(error) = &done {
            tracing::debug!(%error, "the tables in force cannot be edited");
        }
        done.is_ok()
    }

    /// Prepares the first generation.
    fn begin(&mut self) -> Result<(), DatapathError> {
        let placed = self.members.placed();
        let placed = placed.filter_map(|(cgroup, identity)| Some((cgroup.0, self.endpoint(identity)?)));
        let endpoints: Vec<(u64, Endpoint)> =
            placed.chain([(UNPLACED, self.compiler.unidentified())]).collect();
        let followed = {
            let tree = self.tree.read();
            let states = tree.ids().map(|id| (id.0, self.automaton.state(&tree.lineage(id))));
            states.filter(|(_, state)| *state != STATE_DEAD).collect::<Vec<_>>()
        };
        let names = names::table(&self.automaton, |identity| self.endpoint(identity));
        let compiled = self.compiler.compiled();
        self.datapath.prepare(&Generation {
            number: self.generation,
            cgroups: Cgroups { endpoints: &endpoints, followed: &followed, names: &names },
            peers: &compiled.peers,
            policy: &compiled.policy,
        })?;
        self.in_step = true;
        Ok(())
    }

    /// New tables of the same policy.
    fn renew(&mut self, grows: bool) -> Result<(), DatapathError> {
        let compiled = self.compiler.compiled();
        let (of, number) = (self.generation, self.generation + 1);
        let renewal = Renewal { number, grows, peers: &compiled.peers, policy: &compiled.policy };
        let done = self.datapath.renew(of, &renewal);
        self.in_step = done.is_ok();
        if self.in_step {
            self.generation = number;
        }
        self.ledger.turn(number, &self.policy);
        done
    }

    fn endpoint(&self, identity: Identity) -> Option<Endpoint> {
        match identity {
            Identity::None => None,
            Identity::Workload(workload) => Some(self.compiler.endpoint(workload)),
            Identity::Unidentified => Some(self.compiler.unidentified()),
        }
    }

    fn note(&mut self, done: Result<(), DatapathError>) {
        if let Err(error) = done {
            let message = format!("{:#}", anyhow::Error::new(error));
            tracing::error!("{message}");
            self.fault = Some(message);
            self.faults += 1;
        }
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(super) fn root(&self) -> &CgroupRoot {
        &self.root
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// What is enforced now.
    pub(super) fn status(
        &self,
        files: &[String],
        dry_run: bool,
        started: Instant,
        events: control::Events,
    ) -> Status {
        let policy = &self.policy;
        let environments = policy.environments.iter().enumerate().map(|(n, environment)| {
            let members = policy.workloads.iter().filter(|w| w.environment.is_some_and(|e| e.0 == n));
            let mode = match environment.mode {
                Mode::Enforce if dry_run => Mode::Audit,
                mode => mode,
            };
            Environment {
                name: environment.name.clone(),
                mode: mode.name().to_owned(),
                workloads: members.count(),
            }
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: started.elapsed().as_secs(),
            cgroup_root: self.root.path().to_owned(),
            dry_run,
            generation: self.generation,
            policy: files.to_vec(),
            policy_hash: policy.content_hash().to_string(),
            tables_hash: self.compiler.content_hash().to_string(),
            rules: policy.rules.len(),
            environments: environments.collect(),
            workloads: (0..policy.workloads.len()).map(|n| self.workload(WorkloadId(n))).collect(),
            warnings: self.warnings(),
            events,
            traffic: self.traffic(),
        }
    }

    fn workload(&self, id: WorkloadId) -> Workload {
        let workload = &self.policy.workloads[id.0];
        let owned = self.inventory.addresses.iter().filter(|(_, owner)| **owner == Some(id));
        Workload {
            name: workload.name.clone(),
            environment: workload.environment.map(|e| self.policy.environments[e.0].name.clone()),
            mode: self.policy.mode(id).name().to_owned(),
            cgroups: self.cgroups(Identity::Workload(id)),
            addresses: owned.map(|(address, _)| *address).collect(),
        }
    }

    /// Paths of the cgroups that selectors match as this identity.
    fn cgroups(&self, wanted: Identity) -> Vec<String> {
        let tree = self.tree.read();
        let selected = self.members.placed().filter(|(_, identity)| *identity == wanted);
        let mut paths: Vec<String> = selected.filter_map(|(id, _)| tree.path(id)).collect();
        paths.sort();
        paths
    }

    /// What the operator should look after.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (n, workload) in self.policy.workloads.iter().enumerate() {
            let (id, place) = (WorkloadId(n), &workload.place);
            if self.policy.needs_container_facts(id) {
                warnings.push(format!(
                    "workload {} ({place}) is selected by container or Kubernetes, which this version does not \
                     follow: select it by systemd or cgroup",
                    workload.name
                ));
            } else if self.cgroups(Identity::Workload(id)).is_empty() {
                warnings.push(format!("workload {} ({place}) selects nothing now", workload.name));
            }
        }
        for cgroup in self.cgroups(Identity::Unidentified) {
            warnings.push(format!(
                "{cgroup} is selected by several workloads with equal right and refused everything: make one selector \
                 more specific"
            ));
        }
        let tree = self.tree.read();
        for cgroup in self.members.too_deep().iter().filter_map(|id| tree.path(*id)) {
            warnings
                .push(format!("{cgroup} is nested too deep and is not enforced: select a cgroup above it"));
        }
        if tree.ignored() > 0 {
            warnings.push(format!(
                "{} cgroups are not followed, since there are too many or they are nested too deep",
                tree.ignored()
            ));
        }
        warnings.extend(
            self.unwatched
                .iter()
                .map(|why| format!("processes that are moved out of their workload are not reported: {why}")),
        );
        warnings.extend(self.unseen.iter().map(|unseen| unseen.warning(&self.policy)));
        warnings.extend(
            self.fault.iter().map(|fault| format!("the kernel's tables may be out of date: {fault}")),
        );
        warnings
    }
}

/// The directories of all cgroups that are in a workload.
fn directories(root: &CgroupRoot, tree: &SharedTree, members: &Members) -> Vec<(WorkloadId, PathBuf)> {
    let tree = tree.read();
    let paths = members.of_workloads().filter_map(|(id, workload)| Some((workload, tree.path(id)?)));
    paths.map(|(workload, path)| (workload, root.path().join(path.trim_start_matches('/')))).collect()
}
