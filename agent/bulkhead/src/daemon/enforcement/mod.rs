//! What is in force: one policy for good, and at most one for a while, with what the kernel holds of each, and of one that is
//! compared with them.

mod allowances;
mod drafts;
mod footing;
mod held;
mod measures;
mod names;
mod roster;
mod search;
mod shadow;
mod status;
mod traffic;
mod unseen;

use std::time::{Duration, Instant};

use bulkhead_common::{Endpoint, PeerId, STATE_DEAD, SubjectId};
use bulkhead_datapath::{Datapath, DatapathError, Events, Observer, Pins, Tally};
use bulkhead_report::Policies;
use bulkhead_workloads::{CgroupRoot, Changes, SharedTree, Watcher, list_processes};

pub(super) use self::held::{Held, Written};
use self::{footing::Pinned, search::Search, shadow::Compared, unseen::Unseen};
use super::{RunError, ledger::Ledger};

/// What is in force. Dropping it leaves it in force, by the kernel alone.
pub(super) struct Enforcement {
    root: CgroupRoot,
    tree: SharedTree,
    datapath: Datapath,
    policies: Policies,
    /// What is in force for good, or will be again.
    lasting: Held,
    trial: Option<Trial>,
    /// When a trial ended by itself, unless something else has been put in force since.
    lapsed: Option<Instant>,
    compared: Compared,
    search: Search,
    /// The last thing that the kernel did not take.
    fault: Option<String>,
    /// How often there was one.
    faults: u64,
    /// How often cgroups have found no room in the kernel's tables.
    times_crowded: u64,
    /// What the workloads' traffic has come to.
    ledger: Ledger,
    /// None: what the programs do not see is refused.
    unseen: Option<Unseen>,
    /// Why processes that leave their workload are not reported; none: they are.
    unwatched: Option<String>,
    /// Has it been attached in place of what an agent before this one has left?
    taken_over: bool,
    pinned: Pinned,
}

/// How long somebody may not know that a trial has ended.
const A_MOMENT: Duration = Duration::from_mins(5);

/// A policy that is in force for a while.
struct Trial {
    held: Held,
    /// The kernel goes by its own clock, which this is about.
    until: Instant,
}

/// What the kernel holds a policy for. All of them follow what comes and goes.
#[derive(Clone, Copy, Debug)]
enum Role {
    Lasting,
    OnTrial,
    Compared,
}

impl Role {
    const ALL: [Self; 3] = [Self::Lasting, Self::OnTrial, Self::Compared];
}

/// How a trial ended that nobody has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// It is in force for good.
    Yes,
    /// Its time was up: what was in force before is so again.
    TooLate,
}

impl Enforcement {
    /// Loads the programs and puts the policy in force, where an agent before this one has left its programs at work; else
    /// nothing is enforced before [`Self::attach`].
    pub(super) fn start(
        mut lasting: Held,
        root: CgroupRoot,
        pins: &Pins,
        watcher: &mut Watcher,
        policies: Policies,
    ) -> Result<Self, RunError> {
        let mut datapath = Datapath::load(root.path(), Some(pins))?;
        let compared =
            if datapath.compares() { Compared::with_the_agent_before() } else { Compared::default() };
        lasting.prepare(&mut datapath, &policies)?;
        // Made while the tables were filled; of those that come later the kernel tells itself.
        lasting.follow(&mut datapath, &watcher.look_again())?;
        datapath.put_in_force(lasting.number())?;
        Ok(Self {
            tree: watcher.tree(),
            root,
            ledger: Ledger::of(datapath.tally(), policies.clone()),
            datapath,
            policies,
            lasting,
            trial: None,
            lapsed: None,
            compared,
            search: Search::default(),
            fault: None,
            faults: 0,
            times_crowded: 0,
            unseen: None,
            unwatched: None,
            taken_over: false,
            pinned: Pinned::default(),
        })
    }

    /// Enforces from now on.
    pub(super) fn attach(&mut self) -> Result<(), DatapathError> {
        let lasting = &self.lasting;
        let attached = self.datapath.attach(|cgroup| lasting.anchor(cgroup))?;
        self.taken_over = attached.taken_over;
        if attached.taken_over {
            tracing::info!("took over from an agent before this one: enforcement has not paused");
        } else {
            tracing::debug!(sockets = attached.sockets, "tagged the sockets that were there");
        }
        self.unseen = attached.unguarded.map(|why| {
            Unseen::new(why, unseen::capable(lasting.policy(), &list_processes(lasting.directories())))
        });
        if !attached.watches_programs {
            tracing::warn!(
                "the kernel does not tell of programs that begin: one that ends at once may be reported without its path"
            );
        }
        if let Some(error) = attached.uncarried {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "answers to datagrams that the version before has let pass may be refused until the next question"
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

    /// Gives up what this agent has begun to enforce; what it has taken over goes on.
    pub(super) fn withdraw(self) -> Result<(), DatapathError> {
        if self.taken_over { Ok(()) } else { self.datapath.withdraw() }
    }

    /// From here on nobody judges beside this agent's programs: they have been shown to refuse.
    pub(super) fn dismiss_others(&self) -> Result<(), DatapathError> {
        self.datapath.dismiss_others()
    }

    /// Makes a cgroup of the agent's own the [canary](super::canary), isolated or not, whatever the policy says of it.
    pub(super) fn make_canary(&mut self, cgroup: u64, isolated: bool) -> Result<(), DatapathError> {
        let flags = if isolated { Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS } else { 0 };
        let canary = Endpoint { subject: SubjectId::CANARY, peer: PeerId::NONE, flags };
        self.datapath.identify(self.lasting.number(), cgroup, Some(canary), STATE_DEAD)
    }

    /// What counts traffic.
    pub(super) fn tally(&self) -> Tally {
        self.datapath.tally()
    }

    /// The stream of refusals; can be taken once.
    pub(super) fn take_events(&mut self) -> Result<Events, RunError> {
        self.datapath.take_events().ok_or(RunError::ReportsEnded)
    }

    /// Lists what is open; can be taken once.
    pub(super) fn take_observer(&mut self) -> Result<Observer, RunError> {
        self.datapath.take_observer().ok_or(RunError::ReportsEnded)
    }

    /// Hands the tables of another policy to the kernel, which judges nothing by them until it is [put in
    /// force](Self::change_to).
    pub(super) fn prepare(&mut self, held: &mut Held) -> Result<(), DatapathError> {
        held.prepare(&mut self.datapath, &self.policies)
    }

    /// Puts what was [prepared](Self::prepare) just now in force: for good, or for a while, after which the kernel by itself
    /// goes back to what is in force for good now. After an error all is as before.
    pub(super) fn change_to(
        &mut self,
        mut held: Held,
        time: Option<Duration>,
        watcher: &mut Watcher,
    ) -> Result<(), DatapathError> {
        let changes = watcher.look_again();
        self.follow(&changes);
        held.follow(&mut self.datapath, &changes)?;
        let (number, until) = (held.number(), time.map(|time| Instant::now() + time));
        let done = match time {
            Some(time) => self.datapath.put_in_force_for(number, time),
            None => self.datapath.put_in_force(number),
        };
        // It may be in force all the same: then it was tidying up that failed.
        if done.is_err() && self.datapath.in_force() != Some(number) {
            return done;
        }
        self.lapsed = None;
        if let Some(until) = until {
            self.trial = Some(Trial { held, until });
        } else {
            (self.lasting, self.trial) = (held, None);
        }
        self.compared.end("another policy was put in force");
        self.ledger.fold();
        // What the kernel did not take before was of tables that are gone.
        self.fault = None;
        self.note(done);
        // Its addresses have been found a while ago.
        self.look_for_addresses();
        Ok(())
    }

    /// What is on trial is in force for good, unless its time is up. Nothing is on trial: nothing changes.
    pub(super) fn confirm(&mut self) -> Result<Confirmed, DatapathError> {
        let Some(trial) = self.trial.take() else { return Ok(Confirmed::TooLate) };
        match self.datapath.confirm() {
            Ok(Some(number)) if number == trial.held.number() => {
                self.lasting = trial.held;
                Ok(Confirmed::Yes)
            }
            Ok(_) => Ok(Confirmed::TooLate),
            Err(error) => {
                self.trial = Some(trial);
                Err(error)
            }
        }
    }

    /// Ends a trial: what was in force before is so again.
    pub(super) fn end_trial(&mut self) -> Result<(), DatapathError> {
        self.datapath.roll_back()?;
        self.trial = None;
        Ok(())
    }

    /// Has a trial ended by itself a moment ago, and nobody been told? Whoever wants to go back now may think that it goes on.
    pub(super) fn takes_note_of_lapse(&mut self) -> bool {
        self.lapsed.take().is_some_and(|lapsed| lapsed.elapsed() < A_MOMENT)
    }

    /// The policy on trial.
    pub(super) fn on_trial(&self) -> Option<&Held> {
        self.trial.as_ref().map(|trial| &trial.held)
    }

    /// When the time of the trial is up; none: there is no trial.
    pub(super) fn trial_ends(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.until)
    }

    /// The time of the trial is up by the agent's clock. Tells whether the kernel thinks so, too: then it is over.
    pub(super) fn is_trial_over(&mut self) -> bool {
        let over = self.datapath.in_force() == Some(self.lasting.number());
        match &mut self.trial {
            Some(_) if over => {
                let done = self.end_trial();
                self.note(done);
                self.lapsed = Some(Instant::now());
            }
            // It is asked again in a moment.
            Some(trial) => trial.until = Instant::now() + Duration::from_millis(20),
            None => {}
        }
        over
    }

    /// Somebody has set the machine's clock, or it has slept: moments at which rules expire are others on the clock of the
    /// programs, and a trial may be over.
    pub(super) fn follow_the_clock(&mut self) {
        if self.trial.is_some() && self.datapath.in_force() == Some(self.lasting.number()) {
            self.is_trial_over();
        }
        for role in Role::ALL {
            let done = self
                .parts(role)
                .map_or(Ok(()), |(held, datapath, policies)| held.follow_the_clock(datapath, policies));
            self.note(done);
        }
        self.ledger.fold();
    }

    /// The policies that another must not be put in the place of by surprise: the one in force now, and the one to which the
    /// kernel goes back if nobody confirms that.
    pub(super) fn before(&self) -> Vec<&Held> {
        let on_trial = self.trial.as_ref().map(|trial| &trial.held);
        on_trial.into_iter().chain([&self.lasting]).collect()
    }

    /// The policy in force now.
    pub(super) fn in_force(&self) -> &Held {
        self.trial.as_ref().map_or(&self.lasting, |trial| &trial.held)
    }

    /// Brings the kernel's tables up to date with changes in the tree of cgroups.
    pub(super) fn follow(&mut self, changes: &Changes) {
        for role in Role::ALL {
            let done = self.parts(role).map_or(Ok(()), |(held, datapath, _)| held.follow(datapath, changes));
            self.note(done);
        }
    }

    /// Gives cgroups more room in the kernel's tables, if some have found none.
    pub(super) fn make_room(&mut self, watcher: &mut Watcher) {
        for role in Role::ALL {
            while self.parts(role).is_some_and(|(held, ..)| held.is_crowded()) {
                if let Err(error) = self.enlarge(role, watcher) {
                    self.note(Err(error));
                    return;
                }
            }
        }
    }

    fn enlarge(&mut self, role: Role, watcher: &mut Watcher) -> Result<(), DatapathError> {
        self.times_crowded += 1;
        if let Some((held, datapath, policies)) = self.parts(role) {
            held.make_room(datapath, policies)?;
        }
        self.ledger.fold();
        self.follow(&watcher.look_again());
        self.parts(role).map_or(Ok(()), |(held, datapath, _)| held.settle(datapath))
    }

    /// The policy that has this role, if one has, with what it takes to bring it up to date.
    fn parts(&mut self, role: Role) -> Option<(&mut Held, &mut Datapath, &Policies)> {
        let Self { datapath, policies, lasting, trial, compared, .. } = self;
        let held = match role {
            Role::Lasting => Some(lasting),
            Role::OnTrial => trial.as_mut().map(|trial| &mut trial.held),
            Role::Compared => compared.held(),
        };
        held.map(|held| (held, datapath, &*policies))
    }

    fn note(&mut self, done: Result<(), DatapathError>) {
        if let Err(error) = done {
            let message = format!("{:#}", anyhow::Error::new(error));
            tracing::error!("{message}");
            self.fault = Some(message);
            self.faults += 1;
        }
    }

    pub(super) fn root(&self) -> &CgroupRoot {
        &self.root
    }
}
