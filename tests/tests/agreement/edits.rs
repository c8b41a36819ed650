//! Edits of the tables in force. Entries for one address and one port lie in a hash table, as long as they fit into it, and
//! others in a trie: wherever an entry goes and comes from, the programs go by it alone.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_common::{
    Address, Direction, Endpoint, PeerEntry, PeerId, PolicyKey, PolicyValue, Protocol, RuleId, SubjectId,
};
use bulkhead_datapath::Edits;
use bulkhead_policy::WorkloadId;
use socket2::{Domain, Socket, Type};

use crate::kernel::{Kernel, Plain, in_an_hour};

const CLIENT: WorkloadId = WorkloadId(0);
const SUBJECT: SubjectId = SubjectId(1);
const PORT: u16 = 443;
const FRIEND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Whom a rule names, and whom none does.
const ALLOWED: PeerId = PeerId(11);
const FORBIDDEN: PeerId = PeerId(12);
/// Too large a number for the hash table.
const LARGE: PeerId = PeerId(1 << 24);
/// More than a hash table that begins empty has room for.
const MANY: u32 = 3_000;

/// The client's rules and peers, which begin with none.
struct Tables {
    kernel: Kernel,
    socket: Socket,
}

impl Tables {
    fn new() -> Result<Self> {
        let mut kernel = Kernel::new()?;
        let client = Endpoint { subject: SUBJECT, peer: PeerId(1), flags: Endpoint::ISOLATE_EGRESS };
        kernel.put_in_force(&Plain {
            endpoints: vec![(CLIENT, client)],
            peers: Vec::new(),
            policy: Vec::new(),
        })?;
        let socket = kernel.have(CLIENT, || Socket::new(Domain::IPV4, Type::DGRAM, None))??;
        Ok(Self { kernel, socket })
    }

    fn edit(&self, edits: &Edits<'_>) -> Result<()> {
        let generation = self.kernel.generation();
        Ok(self.kernel.tell(|datapath| datapath.edit(generation, edits))?)
    }

    /// Sets peers, or removes them.
    fn peers(&self, peers: &[(Address, u32, Option<PeerId>)]) -> Result<()> {
        let entry = |class| PeerEntry { class, ..PeerEntry::UNKNOWN };
        let peers: Vec<_> = peers.iter().map(|(a, length, class)| (*a, *length, class.map(entry))).collect();
        self.edit(&Edits { policy_puts: &[], peers: &peers, policy_removes: &[] })
    }

    fn friend(&self, class: Option<PeerId>) -> Result<()> {
        self.peers(&[(address(FRIEND), 128, class)])
    }

    /// Sets a rule for a class of peers.
    fn rule(&self, class: PeerId, length: u32, expires: u64) -> Result<()> {
        let put = (length, key(class), PolicyValue { rule: RuleId(0), flags: 0, expires });
        self.edit(&Edits { policy_puts: &[put], peers: &[], policy_removes: &[] })
    }

    fn remove_rule(&self, class: PeerId, length: u32) -> Result<()> {
        self.edit(&Edits { policy_puts: &[], peers: &[], policy_removes: &[(length, key(class))] })
    }

    /// Holds what becomes of a datagram to what should.
    fn check(&self, attempt: &str, to: Ipv4Addr, passes: bool) -> Result<()> {
        // sendto() asks for itself, and its packet for itself.
        let socket = self.socket.try_clone()?;
        let send = move || socket.send_to(b"x", &SocketAddr::from((to, PORT)).into());
        let is_refused = match self.kernel.have(CLIENT, send)? {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => true,
            Err(error) => return Err(error).context(format!("{attempt}: a datagram to {to}")),
        };
        ensure!(is_refused != passes, "{attempt}: a datagram to {to} is refused: {is_refused}");
        Ok(())
    }
}

fn address(address: Ipv4Addr) -> Address {
    IpAddr::from(address).into()
}

fn key(class: PeerId) -> PolicyKey {
    PolicyKey::new(SUBJECT, class, Direction::Egress, Protocol::UDP, PORT)
}

#[test]
fn a_rule_is_the_same_wherever_it_lies() -> Result<()> {
    let tables = Tables::new()?;
    tables.friend(Some(ALLOWED))?;
    let check = |attempt, passes| tables.check(attempt, FRIEND, passes);
    check("no rule", false)?;
    tables.rule(ALLOWED, PolicyKey::FULL, 0)?;
    check("a rule for the port", true)?;
    tables.rule(ALLOWED, PolicyKey::FULL, 1)?;
    check("it has expired", false)?;
    tables.rule(ALLOWED, PolicyKey::FULL, in_an_hour()?)?;
    check("it expires later", true)?;
    tables.rule(ALLOWED, PolicyKey::FULL, 0)?;
    check("it never expires", true)?;
    tables.rule(ALLOWED, PolicyKey::ANY_PORT, 0)?;
    tables.remove_rule(ALLOWED, PolicyKey::FULL)?;
    check("a rule for every port", true)?;
    tables.remove_rule(ALLOWED, PolicyKey::ANY_PORT)?;
    check("no rule again", false)?;
    tables.rule(ALLOWED, PolicyKey::FULL, in_an_hour()?)?;
    tables.remove_rule(ALLOWED, PolicyKey::FULL)?;
    check("one that expires has gone", false)
}

#[test]
fn an_address_is_the_same_wherever_it_lies() -> Result<()> {
    let tables = Tables::new()?;
    for class in [ALLOWED, LARGE] {
        tables.rule(class, PolicyKey::FULL, 0)?;
    }
    let check = |attempt, passes| tables.check(attempt, FRIEND, passes);
    check("unknown", false)?;
    let steps = [
        ("of a class that is allowed", Some(ALLOWED), true),
        ("of one that is not", Some(FORBIDDEN), false),
        ("of one with a large number", Some(LARGE), true),
        ("of the class that is not again", Some(FORBIDDEN), false),
        ("with the large number again", Some(LARGE), true),
        ("of none", None, false),
        ("allowed again", Some(ALLOWED), true),
        ("of none again", None, false),
    ];
    for (attempt, class, passes) in steps {
        tables.friend(class)?;
        check(attempt, passes)?;
    }
    let network = address(Ipv4Addr::new(198, 51, 100, 0));
    tables.peers(&[(network, 120, Some(ALLOWED))])?;
    check("in a network that is allowed", true)?;
    for class in [FORBIDDEN, LARGE] {
        tables.friend(Some(class))?;
        check("with an entry of its own in it", class == LARGE)?;
        tables.friend(None)?;
        check("without", true)?;
    }
    Ok(())
}

#[test]
fn what_finds_no_room_lies_elsewhere() -> Result<()> {
    let tables = Tables::new()?;
    let hosts = || (0..MANY).map(|n| Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + n));
    let class = |n: u32| PeerId(100 + n);
    let all = |class: &dyn Fn(u32) -> Option<PeerId>| -> Vec<_> {
        hosts().zip(0..).map(|(host, n)| (address(host), 128, class(n))).collect()
    };
    let value = PolicyValue { rule: RuleId(0), flags: 0, expires: 0 };
    let rules: Vec<_> = (0..MANY).map(|n| (PolicyKey::FULL, key(class(n)), value)).collect();
    tables.edit(&Edits { policy_puts: &rules, peers: &[], policy_removes: &[] })?;
    let check = |attempt, passes| {
        hosts()
            .step_by(97)
            .chain(hosts().next_back())
            .try_for_each(|host| tables.check(attempt, host, passes))
    };
    check("a rule, and nobody it is for", false)?;
    tables.peers(&all(&|n| Some(class(n))))?;
    check("an address and a rule each", true)?;
    tables.peers(&all(&|_| Some(FORBIDDEN)))?;
    check("an address each of a class without a rule", false)?;
    tables.peers(&all(&|n| Some(class(n))))?;
    check("the same as before", true)?;
    let gone: Vec<_> = rules.iter().map(|(length, key, _)| (*length, *key)).collect();
    tables.edit(&Edits { policy_puts: &[], peers: &[], policy_removes: &gone })?;
    check("addresses without rules", false)?;
    tables.peers(&all(&|_| None))?;
    check("nothing", false)
}
