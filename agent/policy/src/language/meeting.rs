//! Who meets whom among very many: looked up instead of comparing everybody with everybody.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    rc::Rc,
};

use super::{
    Cidr, End, EnvironmentId, Policy, Ports, Rule, WorkloadId,
    overlap::{Overlap, ports_meet},
};
use crate::compile::PortPrefix;

/// Things that lie in nested groups: two meet if one of them is the other or a group around it.
struct Nested<K> {
    /// The things that are this group.
    here: HashMap<K, Vec<usize>>,
    /// The things that are in it.
    within: HashMap<K, Vec<usize>>,
}

impl<K: Copy + Eq + Hash> Nested<K> {
    fn new() -> Self {
        Self { here: HashMap::new(), within: HashMap::new() }
    }

    fn add(&mut self, thing: usize, group: K, around: &[K]) {
        self.here.entry(group).or_default().push(thing);
        for wider in around {
            self.within.entry(*wider).or_default().push(thing);
        }
    }

    /// The things that meet a group, list by list.
    fn meeting(&self, group: K, around: &[K]) -> impl Iterator<Item = &[usize]> {
        let own = [self.here.get(&group), self.within.get(&group)];
        own.into_iter().chain(around.iter().map(|wider| self.here.get(wider))).flatten().map(Vec::as_slice)
    }
}

/// A group of those whom ends name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Everybody,
    Environment(EnvironmentId),
    Workload(WorkloadId),
    Range(Cidr),
    /// An end by itself: whoever it may be.
    Only(End),
}

/// Whether two ends are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// The policy says so.
    Certain,
    /// They are if somebody of whom no address is known has the addresses for it: `host` beyond loopback, `dns`, or who has
    /// a DNS name.
    Possible,
}

/// What a policy tells of an end's addresses. Whoever may meet one of these may meet those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Addresses {
    /// It has none.
    None,
    /// It has those in an environment: but for those of whom a narrower statement says that they are in another.
    Environment,
    /// It has these.
    Declared,
    /// Only a host knows them, or some of them. Wherever they lie, they are in an environment of their own.
    Member,
    /// Only a host knows them, or some of them.
    Unresolved,
}

impl Addresses {
    /// Who has the one may be who has the other.
    fn may_meet(self, other: Self) -> bool {
        match (self.min(other), self.max(other)) {
            (Self::None, _) => false,
            (Self::Environment, most) => most == Self::Unresolved,
            (_, most) => most >= Self::Member,
        }
    }
}

/// The rules of a policy, by the ends and ports that they name.
pub(super) struct Meetings<'p> {
    policy: &'p Policy,
    overlap: Overlap<'p>,
    /// The ends that rules name.
    ends: Vec<End>,
    groups: Nested<Group>,
    /// The lengths of prefixes that occur.
    lengths: BTreeSet<u8>,
    from: Named,
    to: Named,
    ports: Nested<PortPrefix>,
    port_lengths: BTreeSet<u8>,
    /// What is known of ends that have been asked for.
    met: HashMap<End, Rc<Met>>,
}

/// The rules, by whom they name at one side.
#[derive(Default)]
struct Named {
    by_end: HashMap<End, Vec<usize>>,
    /// Those that name somebody who has or may have an address.
    addressed: Vec<usize>,
    /// Those that name somebody of whom no address is known.
    unresolved: Vec<usize>,
}

impl Named {
    /// Those that somebody in the circle may meet, beside those that are met for certain.
    fn possible(&self, circle: &Circle) -> &[usize] {
        match circle.addresses {
            Some(Addresses::Unresolved | Addresses::Member) => &self.addressed,
            Some(Addresses::Declared | Addresses::Environment) => &self.unresolved,
            Some(Addresses::None) | None => &[],
        }
    }
}

/// Who meets one end for certain.
struct Met {
    ends: HashSet<End>,
    /// How many rules have one of them at each end.
    from: usize,
    to: usize,
}

/// Who meets one of several ends.
struct Circle {
    met: Vec<Rc<Met>>,
    /// The ends that all of these hold, if they are put together.
    all: Option<HashSet<End>>,
    /// The most that is open of their addresses, if it is asked who may meet them.
    addresses: Option<Addresses>,
}

impl Circle {
    /// For many questions everybody is put together: that is less work than to look into each of them every time.
    fn expect(&mut self, questions: usize) {
        let sizes = self.met.iter().map(|met| met.ends.len());
        if sizes.sum::<usize>() < questions.saturating_mul(self.met.len()) {
            self.all = Some(self.met.iter().flat_map(|met| &met.ends).copied().collect());
        }
    }

    fn holds(&self, end: End) -> bool {
        let one_does = || self.met.iter().any(|met| met.ends.contains(&end));
        self.all.as_ref().map_or_else(one_does, |all| all.contains(&end))
    }
}

impl<'p> Meetings<'p> {
    /// `asked` are the lists of ends and ports that will be asked for.
    pub(super) fn new<'a>(policy: &'p Policy, asked: impl Iterator<Item = (&'a [End], &'a [Ports])>) -> Self {
        let mut meetings = Self {
            policy,
            overlap: Overlap::new(policy),
            ends: Vec::new(),
            groups: Nested::new(),
            lengths: BTreeSet::new(),
            from: Named::default(),
            to: Named::default(),
            ports: Nested::new(),
            port_lengths: BTreeSet::new(),
            met: HashMap::new(),
        };
        meetings.from = meetings.named(|rule| &rule.from);
        meetings.to = meetings.named(|rule| &rule.to);
        let mut known: HashSet<End> = HashSet::new();
        for rule in &policy.rules {
            known.extend(rule.from.iter().chain(&rule.to));
            meetings.port_lengths.extend(PortPrefix::of(&rule.ports).iter().map(|p| p.len()));
        }
        meetings.ends = known.iter().copied().collect();
        for (ends, ports) in asked {
            known.extend(ends);
            meetings.port_lengths.extend(PortPrefix::of(ports).iter().map(|p| p.len()));
        }
        let lengths = known.into_iter().flat_map(|end| meetings.overlap.declared(end));
        meetings.lengths = lengths.map(Cidr::prefix_len).collect();
        for n in 0..meetings.ends.len() {
            for group in meetings.groups_of(meetings.ends[n]) {
                let around = meetings.around(group);
                meetings.groups.add(n, group, &around);
            }
        }
        for (n, rule) in policy.rules.iter().enumerate() {
            for prefix in PortPrefix::of(&rule.ports) {
                let around = meetings.ports_around(prefix);
                meetings.ports.add(n, prefix, &around);
            }
        }
        meetings
    }

    fn named(&self, ends: impl Fn(&Rule) -> &[End]) -> Named {
        let mut named = Named::default();
        for (n, rule) in self.policy.rules.iter().enumerate() {
            for end in ends(rule) {
                named.by_end.entry(*end).or_default().push(n);
            }
            let most = ends(rule).iter().map(|end| self.addresses(*end)).max();
            named.addressed.extend((most > Some(Addresses::None)).then_some(n));
            named.unresolved.extend((most >= Some(Addresses::Member)).then_some(n));
        }
        named
    }

    /// The rules that let somebody of `from` reach somebody of `to` on one of `ports`, in order, each with two of its ends
    /// that they are: for certain, or possibly and not for certain. `compared` is increased by what that takes, in ends and
    /// ports of rules.
    pub(super) fn rules(
        &mut self,
        [from, to]: [&[End]; 2],
        ports: &[Ports],
        meeting: Meeting,
        compared: &mut usize,
    ) -> impl Iterator<Item = (usize, End, End)> {
        let [mut from, mut to] = [from, to].map(|ends| self.circle(ends, meeting));
        let meetings = &*self;
        let rules = meetings.nearest(&from, &to, ports);
        from.expect(rules.len());
        to.expect(rules.len());
        rules.into_iter().filter_map(move |n| {
            let rule = &meetings.policy.rules[n];
            *compared += rule.from.len() + rule.to.len() + rule.ports.len();
            let (a, from) = meetings.common(&rule.from, &from)?;
            let (b, to) = meetings.common(&rule.to, &to)?;
            let is_asked =
                (from == Meeting::Certain && to == Meeting::Certain) == (meeting == Meeting::Certain);
            (is_asked && ports_meet(&rule.ports, ports)).then_some((n, a, b))
        })
    }

    fn circle(&mut self, ends: &[End], meeting: Meeting) -> Circle {
        let met = ends.iter().map(|end| self.met(*end)).collect();
        let addresses = ends.iter().map(|end| self.addresses(*end)).max();
        Circle { met, all: None, addresses: addresses.filter(|_| meeting == Meeting::Possible) }
    }

    /// One of `ends` that is in the circle, or may be.
    fn common(&self, ends: &[End], circle: &Circle) -> Option<(End, Meeting)> {
        let certain = ends.iter().find(|end| circle.holds(**end)).map(|end| (*end, Meeting::Certain));
        certain.or_else(|| {
            let addresses = circle.addresses?;
            let end = ends.iter().find(|end| self.addresses(**end).may_meet(addresses))?;
            Some((*end, Meeting::Possible))
        })
    }

    /// The rules that meet the ends at one side, or the ports: whichever are the fewest. Or those that name somebody
    /// unresolved, if one must be and nobody is who is asked for.
    fn nearest(&self, from: &Circle, to: &Circle, ports: &[Ports]) -> BTreeSet<usize> {
        let by_ends = |side: &Named, circle: &Circle| {
            let certain = circle.met.iter().flat_map(|met| &met.ends).filter_map(|end| side.by_end.get(end));
            certain.flatten().chain(side.possible(circle)).copied().collect()
        };
        let prefixes: Vec<_> = PortPrefix::of(ports).into_iter().map(|p| (p, self.ports_around(p))).collect();
        let by_ports = || prefixes.iter().flat_map(|(prefix, around)| self.ports.meeting(*prefix, around));
        let unresolved = || self.from.unresolved.iter().chain(&self.to.unresolved);
        let must_be = [from, to].iter().all(|circle| circle.addresses.is_some_and(|a| a < Addresses::Member));
        let counts = [
            from.met.iter().map(|met| met.from).sum::<usize>() + self.from.possible(from).len(),
            to.met.iter().map(|met| met.to).sum::<usize>() + self.to.possible(to).len(),
            by_ports().map(<[_]>::len).sum(),
            if must_be { unresolved().count() } else { usize::MAX },
        ];
        match counts.iter().min().and_then(|least| counts.iter().position(|count| count == least)) {
            Some(0) => by_ends(&self.from, from),
            Some(1) => by_ends(&self.to, to),
            Some(2) => by_ports().flatten().copied().collect(),
            _ => unresolved().copied().collect(),
        }
    }

    /// Who meets `end` for certain.
    fn met(&mut self, end: End) -> Rc<Met> {
        if let Some(known) = self.met.get(&end) {
            return Rc::clone(known);
        }
        let mut ends = HashSet::new();
        for group in self.groups_of(end) {
            let around = self.around(group);
            let found = self.groups.meeting(group, &around).flatten();
            ends.extend(found.map(|n| self.ends[*n]));
        }
        // Of an environment, ranges may be in another one.
        let is_environment = |end: End| matches!(end, End::Environment(_));
        ends.retain(|other| {
            !(is_environment(end) || is_environment(*other)) || self.overlap.meets(*other, end)
        });
        let rules = |side: &Named| ends.iter().filter_map(|e| side.by_end.get(e)).map(Vec::len).sum();
        let met = Rc::new(Met { from: rules(&self.from), to: rules(&self.to), ends });
        self.met.insert(end, Rc::clone(&met));
        met
    }

    fn addresses(&self, end: End) -> Addresses {
        match end {
            End::Peer(p) if is_unresolved(self.policy, end) => match self.policy.peers[p].environment {
                Some(_) => Addresses::Member,
                None => Addresses::Unresolved,
            },
            end if is_unresolved(self.policy, end) => Addresses::Unresolved,
            end if !self.overlap.has_ranges(end) => Addresses::None,
            End::Environment(_) => Addresses::Environment,
            _ => Addresses::Declared,
        }
    }

    fn groups_of(&self, end: End) -> Vec<Group> {
        let own = match end {
            End::Any => Group::Everybody,
            End::Environment(e) => Group::Environment(e),
            End::Workload(w) => Group::Workload(w),
            other => Group::Only(other),
        };
        let ranges = self.overlap.declared(end).into_iter().map(Group::Range);
        [own].into_iter().chain(ranges).collect()
    }

    /// The groups around one.
    fn around(&self, group: Group) -> Vec<Group> {
        let environment = |e: Option<EnvironmentId>| e.map(Group::Environment);
        let mut around: Vec<_> = match group {
            Group::Everybody => return Vec::new(),
            Group::Workload(w) => environment(self.policy.workloads[w.0].environment).into_iter().collect(),
            Group::Only(End::Peer(p)) => environment(self.policy.peers[p].environment).into_iter().collect(),
            Group::Environment(_) | Group::Only(_) => Vec::new(),
            Group::Range(cidr) => {
                let wider = self.lengths.range(..cidr.prefix_len()).map(|len| cidr.widened(*len));
                wider.filter(|wider| wider.covers(cidr)).map(Group::Range).collect()
            }
        };
        around.push(Group::Everybody);
        around
    }

    fn ports_around(&self, prefix: PortPrefix) -> Vec<PortPrefix> {
        self.port_lengths.range(..prefix.len()).map(|len| prefix.widened(*len)).collect()
    }
}

/// Is it somebody of whom only a host knows the addresses, or some of them?
pub(super) fn is_unresolved(policy: &Policy, end: End) -> bool {
    match end {
        End::Host | End::Dns => true,
        End::Peer(p) => !policy.peers[p].names.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const ENDS: [&str; 24] = [
        "any",
        "host",
        "dns",
        "private",
        "internet",
        "env:lan",
        "env:iot",
        "env:empty",
        "web",
        "cam",
        "alone",
        "nas",
        "inner",
        "names",
        "stranger",
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.40.0.0/16",
        "10.40.7.0/24",
        "10.41.0.0/16",
        "127.0.0.0/16",
        "::/0",
        "fd00::/8",
        "2001:db8::1",
    ];

    fn policy() -> Policy {
        let declared = "[environment.lan]\ncidrs = [\"10.0.0.0/8\", \"fd00::/8\"]\n\
             [environment.iot]\ncidrs = [\"10.40.0.0/16\"]\n[environment.empty]\n\
             [workload.web]\nenvironment = \"lan\"\nselect = { systemd = \"web.service\" }\n\
             [workload.cam]\nenvironment = \"iot\"\nselect = { systemd = \"cam.service\" }\n\
             [workload.alone]\nselect = { systemd = \"alone.service\" }\n\
             [peer.nas]\nenvironment = \"lan\"\ncidrs = [\"192.168.1.9\", \"10.40.7.7\"]\n\
             [peer.inner]\ncidrs = [\"10.40.7.0/28\", \"2001:db8::/32\"]\n\
             [peer.names]\nenvironment = \"iot\"\nnames = [\"cam.example.org\"]\n\
             [peer.stranger]\nnames = [\"example.org\"]\n";
        let ports = ["", "tcp/1-100", "tcp/80", "udp/80", "icmp"];
        let rules = ENDS.iter().flat_map(|end| {
            ports.map(|ports| {
                let ports = if ports.is_empty() { String::new() } else { format!("ports = [{ports:?}]\n") };
                format!("[[allow]]\nfrom = {end:?}\nto = [\"alone\", \"dns\"]\n{ports}[[allow]]\nfrom = \"web\"\nto = {end:?}\n{ports}")
            })
        });
        testing::policy(&rules.fold(declared.to_owned(), |text, rule| text + &rule))
    }

    #[test]
    fn whom_is_looked_up_is_whoever_would_be_found_by_comparing_all() {
        let policy = policy();
        let overlap = Overlap::new(&policy);
        let ends: Vec<_> = policy
            .rules
            .iter()
            .flat_map(|rule| &rule.to)
            .copied()
            .collect::<HashSet<_>>()
            .into_iter()
            .collect();
        let may_meet = |a: End, b: End| {
            let unresolved = |end| is_unresolved(&policy, end);
            let ranges = |end| !overlap.declared(end).is_empty() || unresolved(end);
            let has_environment = |end| matches!(end, End::Peer(p) if policy.peers[p].environment.is_some());
            let elsewhere = |a, b| has_environment(a) && matches!(b, End::Environment(_));
            (unresolved(a) || unresolved(b)) && ranges(a) && ranges(b) && !elsewhere(a, b) && !elsewhere(b, a)
        };
        let common = |ours: &[End], theirs: &[End]| {
            let found = |meets: &dyn Fn(End, End) -> bool| {
                ours.iter().find(|end| theirs.iter().any(|other| meets(**end, *other))).copied()
            };
            let certain = found(&|a, b| overlap.meets(a, b)).map(|end| (end, true));
            certain.or_else(|| Some((found(&may_meet)?, false)))
        };
        let ports = ["tcp/90-200", "udp/80", "icmp/8", "sctp/1"].map(|text| vec![text.parse().unwrap()]);
        let ports = || ports.iter().map(Vec::as_slice).chain([&[][..]]);
        let web = policy.workload("web").map(End::Workload).unwrap();
        let two = |n: usize| vec![ends[n], ends[(n + 5) % ends.len()]];
        let asked = (0..ends.len()).flat_map(|n| {
            let end = vec![ends[n]];
            [(end.clone(), vec![End::Any]), (vec![web], end.clone()), (end.clone(), end), (two(n), two(1))]
        });
        let lists: Vec<_> = ends.chunks(1).flat_map(|end| ports().map(move |ports| (end, ports))).collect();
        let mut meetings = Meetings::new(&policy, lists.into_iter());
        for (from, to) in asked {
            let meet = policy.rules.iter().enumerate().filter_map(|(n, rule)| {
                let ((a, x), (b, y)) = (common(&rule.from, &from)?, common(&rule.to, &to)?);
                let meeting = if x && y { Meeting::Certain } else { Meeting::Possible };
                Some((meeting, (n, a, b)))
            });
            let meet: Vec<_> = meet.collect();
            for ports in ports() {
                for meeting in [Meeting::Certain, Meeting::Possible] {
                    let found: Vec<_> = meetings.rules([&from, &to], ports, meeting, &mut 0).collect();
                    let compared = meet.iter().filter(|(known, (n, ..))| {
                        *known == meeting && ports_meet(&policy.rules[*n].ports, ports)
                    });
                    let compared: Vec<_> = compared.map(|(_, ends)| *ends).collect();
                    assert_eq!(found, compared, "{meeting:?}: {from:?} to {to:?} on {ports:?}");
                }
            }
        }
    }
}
