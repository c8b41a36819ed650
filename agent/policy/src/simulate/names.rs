//! Names as numbers, so that a record that names nobody new allocates nothing.

use std::{collections::HashMap, net::IpAddr};

use bulkhead_common::Address;
use foldhash::fast::RandomState;

use crate::{
    language::{Cidr, Policy, WorkloadId, bits},
    steps::Steps,
};

/// Number of a name in [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(u32);

/// A table whose keys come from records. Its hashes are seeded at random, so that no file can be made up whose keys
/// collide; that is all that the standard library's slower ones have over them here, since each table is bounded.
pub(super) type Table<K, V> = HashMap<K, V, RandomState>;

/// Everybody who is named.
pub(super) struct Names {
    numbers: Table<Box<str>, Name>,
    named: Vec<Named>,
    addresses: Steps<Name>,
    /// How many names records may add to those of the policies.
    room: usize,
}

/// Who has a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    text: Box<str>,
    /// The workload of this name in the policy that is simulated.
    pub(super) new: Option<WorkloadId>,
    /// The workload of this name in the policy that it is compared with.
    pub(super) old: Option<WorkloadId>,
}

impl Names {
    /// Stands for names beyond [`Names::MOST`].
    pub(super) const OTHERS: Name = Name(0);
    /// The most names that records add.
    const MOST: usize = 1 << 16;
    /// The longest name that is remembered, in bytes. A policy's have at most 63 letters.
    const LONGEST: usize = 255;

    pub(super) fn new(policy: &Policy, against: Option<&Policy>) -> Self {
        let others = Named { text: "(others)".into(), ..Named::default() };
        let mut names = Self {
            numbers: Table::default(),
            named: vec![others],
            addresses: Steps::new(Self::OTHERS, []),
            room: usize::MAX,
        };
        for (n, workload) in policy.workloads.iter().enumerate() {
            let Name(name) = names.number(&workload.name);
            names.named[name as usize].new = Some(WorkloadId(n));
        }
        for (n, workload) in against.into_iter().flat_map(|old| &old.workloads).enumerate() {
            let Name(name) = names.number(&workload.name);
            names.named[name as usize].old = Some(WorkloadId(n));
        }
        names.addresses = names.of_addresses(policy);
        names.room = Self::MOST;
        names
    }

    /// Who is called `text`.
    pub(super) fn number(&mut self, text: &str) -> Name {
        if let Some(known) = self.numbers.get(text) {
            return *known;
        }
        let number = u32::try_from(self.named.len()).map(Name);
        let (1.., Ok(number)) = (self.room, number) else { return Self::OTHERS };
        if text.len() > Self::LONGEST {
            return Self::OTHERS;
        }
        self.room -= 1;
        self.named.push(Named { text: text.into(), ..Named::default() });
        self.numbers.insert(text.into(), number);
        number
    }

    /// Who has an address, as [`crate::describe_peer`] tells it.
    pub(super) fn of_address(&self, ip: IpAddr) -> Name {
        self.addresses.at(bits(Address::from(ip)))
    }

    pub(super) fn named(&self, Name(number): Name) -> &Named {
        &self.named[number as usize]
    }

    pub(super) fn text(&self, name: Name) -> &str {
        &self.named(name).text
    }

    /// The narrowest peer that holds each address, or else its environment.
    fn of_addresses(&mut self, policy: &Policy) -> Steps<Name> {
        let elsewhere = self.number("elsewhere");
        let environments: Vec<_> =
            policy.environments.iter().map(|e| self.number(&format!("env:{}", e.name))).collect();
        let peers: Vec<_> = policy.peers.iter().map(|p| self.number(&p.name)).collect();
        let own = policy.environments.iter().zip(&environments).map(|(e, name)| (*name, &*e.cidrs));
        let of_peers = policy.peers.iter().filter_map(|p| Some((environments[p.environment?.0], &*p.cidrs)));
        let environments = narrowest(own.chain(of_peers));
        let peers = narrowest(policy.peers.iter().zip(&peers).map(|(p, name)| (*name, &*p.cidrs)));
        peers.with(&environments, |peer, environment| peer.or(environment).unwrap_or(elsewhere))
    }
}

/// Whose is the narrowest range around each address; of equal ones, the first.
fn narrowest<'p>(ranges: impl Iterator<Item = (Name, &'p [Cidr])>) -> Steps<Option<Name>> {
    let mut ranges: Vec<_> = ranges
        .flat_map(|(name, cidrs)| cidrs.iter().map(move |c| (bits(c.first()), bits(c.last()), Some(name))))
        .collect();
    // The last of equal ranges counts as the innermost.
    ranges.reverse();
    ranges.sort_by_key(|(first, last, _)| (*first, !*last));
    Steps::new(None, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        describe_peer,
        testing::{ip, policy},
    };

    #[test]
    fn an_address_is_called_what_reports_call_it() {
        let p = policy(
            "[environment.lan]\ncidrs = [\"10.0.0.0/8\", \"fd00::/8\"]\n\
             [environment.iot]\ncidrs = [\"10.40.0.0/16\"]\n\
             [peer.nas]\nenvironment = \"lan\"\ncidrs = [\"10.40.0.9\", \"fd00::9\"]\n\
             [peer.twin]\ncidrs = [\"10.40.0.9\", \"10.0.0.0/8\"]\n\
             [peer.far]\nenvironment = \"lan\"\ncidrs = [\"203.0.113.0/24\"]",
        );
        let names = Names::new(&p, None);
        for text in [
            "0.0.0.0",
            "10.0.0.1",
            "10.40.0.8",
            "10.40.0.9",
            "10.40.0.10",
            "10.41.0.0",
            "11.0.0.0",
            "203.0.113.255",
            "203.0.114.0",
            "::",
            "fd00::8",
            "fd00::9",
            "fd00::a",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let expected = match describe_peer(&p, ip(text)) {
                (Some(name), _) => name.to_owned(),
                (None, Some(environment)) => format!("env:{environment}"),
                (None, None) => "elsewhere".to_owned(),
            };
            assert_eq!(names.text(names.of_address(ip(text))), expected, "{text}");
        }
    }

    #[test]
    fn names_are_remembered_within_bounds_and_those_of_the_policy_always() {
        let p = policy("[workload.web]\nselect = { systemd = \"web.service\" }");
        let mut names = Names::new(&p, None);
        for n in 0..2 * Names::MOST {
            names.number(&format!("n{n}"));
        }
        assert_eq!(names.number("one more"), Names::OTHERS);
        assert_ne!(names.number("n7"), Names::OTHERS);
        let web = names.number("web");
        assert_eq!(names.named(web).new, Some(WorkloadId(0)));
        assert!(names.named.len() < Names::MOST + 10);
        let mut names = Names::new(&p, None);
        assert_eq!(names.number(&"x".repeat(1 << 16)), Names::OTHERS);
    }
}
