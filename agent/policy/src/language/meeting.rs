//! Who meets whom among very many: looked up instead of comparing everybody with everybody.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    rc::Rc,
};

use super::{
    Cidr, End, EnvironmentId, Policy, Ports, WorkloadId,
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

/// The rules of a policy, by the ends and ports that they name.
pub(super) struct Meetings<'p> {
    policy: &'p Policy,
    overlap: Overlap<'p>,
    /// The ends that rules name.
    ends: Vec<End>,
    groups: Nested<Group>,
    /// The lengths of prefixes that occur.
    lengths: BTreeSet<u8>,
    from: HashMap<End, Vec<usize>>,
    to: HashMap<End, Vec<usize>>,
    ports: Nested<PortPrefix>,
    port_lengths: BTreeSet<u8>,
    /// What is known of ends that have been asked for.
    met: HashMap<End, Rc<Met>>,
    /// Whom only a host can find: nobody, or whoever has any address.
    unresolved: Unresolved,
}

/// Whom to take those for of whom no address is known: `host` beyond loopback, `dns`, and who has a DNS name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// Themselves alone.
    Nobody,
    /// Everybody who has an address.
    Anybody,
}

/// Who meets one end.
struct Met {
    ends: HashSet<End>,
    /// How many rules have one of them at each end.
    from: usize,
    to: usize,
}

impl<'p> Meetings<'p> {
    /// `asked` are the lists of ends and ports that will be asked for.
    pub(super) fn new<'a>(
        policy: &'p Policy,
        unresolved: Unresolved,
        asked: impl Iterator<Item = (&'a [End], &'a [Ports])>,
    ) -> Self {
        let mut meetings = Self {
            policy,
            overlap: Overlap::new(policy),
            ends: Vec::new(),
            groups: Nested::new(),
            lengths: BTreeSet::new(),
            from: HashMap::new(),
            to: HashMap::new(),
            ports: Nested::new(),
            port_lengths: BTreeSet::new(),
            met: HashMap::new(),
            unresolved,
        };
        let mut known: HashSet<End> = HashSet::new();
        for (n, rule) in policy.rules.iter().enumerate() {
            rule.from.iter().for_each(|end| meetings.from.entry(*end).or_default().push(n));
            rule.to.iter().for_each(|end| meetings.to.entry(*end).or_default().push(n));
            known.extend(rule.from.iter().chain(&rule.to));
            meetings.port_lengths.extend(PortPrefix::of(&rule.ports).iter().map(|p| p.len()));
        }
        meetings.ends = known.iter().copied().collect();
        for (ends, ports) in asked {
            known.extend(ends);
            meetings.port_lengths.extend(PortPrefix::of(ports).iter().map(|p| p.len()));
        }
        let lengths = known.into_iter().flat_map(|end| meetings.ranges(end));
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

    /// The rules that let somebody of `from` reach somebody of `to` on one of `ports`, in order, each with two of its ends
    /// that they are.
    pub(super) fn rules(
        &mut self,
        from: &[End],
        to: &[End],
        ports: &[Ports],
    ) -> impl Iterator<Item = (usize, End, End)> {
        let [from, to] = [from, to].map(|ends| ends.iter().map(|end| self.met(*end)).collect::<Rc<[_]>>());
        // Who wants no more rules has none looked up.
        let (meetings, ends) = (&*self, (Rc::clone(&from), Rc::clone(&to)));
        let rules = std::iter::once_with(move || meetings.nearest(&ends.0, &ends.1, ports)).flatten();
        let common = |ours: &[End], theirs: &[Rc<Met>]| {
            ours.iter().find(|end| theirs.iter().any(|met| met.ends.contains(end))).copied()
        };
        rules.filter_map(move |n| {
            let rule = &meetings.policy.rules[n];
            let ends = (common(&rule.from, &from)?, common(&rule.to, &to)?);
            ports_meet(&rule.ports, ports).then_some((n, ends.0, ends.1))
        })
    }

    /// The rules that meet the ends at one side, or the ports: whichever are the fewest.
    fn nearest(&self, from: &[Rc<Met>], to: &[Rc<Met>], ports: &[Ports]) -> BTreeSet<usize> {
        let by_ends = |side: &HashMap<End, Vec<usize>>, met: &[Rc<Met>]| {
            met.iter().flat_map(|met| &met.ends).filter_map(|end| side.get(end)).flatten().copied().collect()
        };
        let prefixes: Vec<_> = PortPrefix::of(ports).into_iter().map(|p| (p, self.ports_around(p))).collect();
        let by_ports = || prefixes.iter().flat_map(|(prefix, around)| self.ports.meeting(*prefix, around));
        let counts = [
            from.iter().map(|met| met.from).sum::<usize>(),
            to.iter().map(|met| met.to).sum(),
            by_ports().map(<[_]>::len).sum(),
        ];
        match counts {
            [a, b, c] if a <= b && a <= c => by_ends(&self.from, from),
            [_, b, c] if b <= c => by_ends(&self.to, to),
            _ => by_ports().flatten().copied().collect(),
        }
    }

    /// Who meets `end`.
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
        let certain = |end| self.unresolved == Unresolved::Nobody || !is_unresolved(self.policy, end);
        ends.retain(|other| {
            let narrows = (is_environment(end) || is_environment(*other)) && certain(end) && certain(*other);
            !narrows || self.overlap.meets(*other, end)
        });
        let rules =
            |side: &HashMap<End, Vec<usize>>| ends.iter().filter_map(|e| side.get(e)).map(Vec::len).sum();
        let met = Rc::new(Met { from: rules(&self.from), to: rules(&self.to), ends });
        self.met.insert(end, Rc::clone(&met));
        met
    }

    fn groups_of(&self, end: End) -> Vec<Group> {
        let own = match end {
            End::Any => Group::Everybody,
            End::Environment(e) => Group::Environment(e),
            End::Workload(w) => Group::Workload(w),
            other => Group::Only(other),
        };
        let ranges = self.ranges(end).into_iter().map(Group::Range);
        [own].into_iter().chain(ranges).collect()
    }

    /// The ranges that an end has or may have.
    fn ranges(&self, end: End) -> Vec<Cidr> {
        let mut ranges = self.overlap.declared(end);
        if self.unresolved == Unresolved::Anybody && is_unresolved(self.policy, end) {
            ranges.extend(Cidr::ALL);
        }
        ranges
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
        let ports = ["tcp/90-200", "udp/80", "icmp/8", "sctp/1"].map(|text| vec![text.parse().unwrap()]);
        let ports = || ports.iter().map(Vec::as_slice).chain([&[][..]]);
        let web = policy.workload("web").map(End::Workload).unwrap();
        let asked = ends.iter().flat_map(|end| [([*end], [End::Any]), ([web], [*end]), ([*end], [*end])]);
        let lists: Vec<_> = ends.chunks(1).flat_map(|end| ports().map(move |ports| (end, ports))).collect();
        let mut meetings = Meetings::new(&policy, Unresolved::Nobody, lists.into_iter());
        for (from, to) in asked {
            for ports in ports() {
                let found: Vec<_> = meetings.rules(&from, &to, ports).collect();
                let common =
                    |ours: &[End], theirs: End| ours.iter().find(|end| overlap.meets(**end, theirs)).copied();
                let compared = policy.rules.iter().enumerate().filter_map(|(n, rule)| {
                    let ends = (common(&rule.from, from[0])?, common(&rule.to, to[0])?);
                    ports_meet(&rule.ports, ports).then_some((n, ends.0, ends.1))
                });
                assert_eq!(found, compared.collect::<Vec<_>>(), "{from:?} to {to:?} on {ports:?}");
            }
        }
    }
}
