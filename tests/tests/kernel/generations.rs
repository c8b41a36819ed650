//! What the kernel holds besides the generation in force: one to go back to, and one to compare with.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_common::{
    CounterKey, Direction, Endpoint, NAME_BYTES, NameEntry, NameKey, PeerId, Protocol, RuleId, STATE_DEAD,
    SubjectId, Verdict,
};
use bulkhead_datapath::{Cgroups, Datapath, DatapathError, Generation, Renewal};
use bulkhead_policy::{Compiled, compile};
use bulkhead_tests::{
    Lab, Probe, Socket,
    pace::{fewer, until},
    probe::{Family, Kind},
    verdicts::{allowed, at, refused},
};
use bulkhead_worlds::World;

use crate::{Case, site::Site, verifier};

pub(crate) const CASES: &[Case] = &[
    ("generations::one_is_compared_and_one_ends_at_its_deadline", compared_and_ended),
    ("generations::a_new_cgroup_is_nothing_by_names_of_another", born_under_new_tables),
];

/// The port that the shop's rule opens.
const PORT: u16 = 443;
const MANY: u32 = 100;
/// How long a generation is in force that nobody confirms.
const WHILE: Duration = Duration::from_secs(2);

/// The shop on a host of its own, under a datapath without an agent: nobody interferes.
struct Shop {
    datapath: Datapath,
    number: u32,
    /// The number that the generation compared had as that began.
    compared: u32,
    placed: [u64; 2],
    open: Compiled,
    closed: Compiled,
    lab: Lab,
}

impl Shop {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let placed = [lab.cgroup("/w0")?.id()?, lab.cgroup("/w1")?.id()?];
        let mut datapath = Datapath::load(lab.root()?.path(), None)?;
        datapath.attach(|_| None)?;
        let world = World::shop();
        let of = |world: &World| compile(&world.policy(), &world.inventory());
        let (open, closed) = (of(&world), of(&world.with_rules([].iter())));
        Ok(Self { datapath, number: 0, compared: 0, placed, open, closed, lab })
    }

    /// Hands the policy with its rule, or without, to the datapath.
    fn hand(
        &mut self,
        is_open: bool,
        install: impl FnOnce(&mut Datapath, &Generation<'_>) -> Result<(), DatapathError>,
    ) -> Result<()> {
        let compiled = if is_open { &self.open } else { &self.closed };
        let endpoints: Vec<_> = self.placed.into_iter().zip(compiled.endpoints.iter().copied()).collect();
        self.number += 1;
        let generation = Generation {
            number: self.number,
            cgroups: Cgroups { endpoints: &endpoints, followed: &[], names: &[] },
            peers: &compiled.peers,
            policy: &compiled.policy,
        };
        install(&mut self.datapath, &generation)?;
        Ok(())
    }

    /// Has it compared with the one in force.
    fn compare(&mut self, is_open: bool) -> Result<()> {
        self.hand(is_open, |datapath, generation| {
            datapath.prepare(generation)?;
            datapath.compare(generation.number)
        })?;
        self.compared = self.number;
        Ok(())
    }

    /// Gives the policy without its rule, which is compared, new tables.
    fn renew(&mut self) -> Result<()> {
        let renewal = Renewal {
            number: self.number + 1,
            grows: false,
            peers: &self.closed.peers,
            policy: &self.closed.policy,
        };
        self.datapath.renew(self.number, &renewal)?;
        self.number += 1;
        Ok(())
    }

    /// How often the generation that is compared would have said this of the one rule's traffic: of calls, of packets by
    /// direction, those of answers included, and of connections that they opened.
    fn differences(&self, verdict: Verdict) -> Result<[u64; 4]> {
        let mut sums = [0; 4];
        let differences = self.datapath.tally().differences(self.compared)?;
        for (key, counter) in differences.context("nothing is compared")?.kinds {
            let CounterKey { rule, port, protocol, .. } = key;
            ensure!(key.verdict == verdict as u8 && rule == RuleId(0).0 && port == PORT, "{key:?}");
            let in_force = if verdict == Verdict::Denied { Verdict::Allowed } else { Verdict::Denied };
            ensure!(key.verdict_in_force() == Some(in_force as u8), "{key:?}");
            ensure!([Protocol::TCP.0, Protocol::UDP.0].contains(&protocol), "{key:?}");
            let of = match (key.packets, key.direction) {
                (0, _) => 0,
                (_, direction) if direction == Direction::Egress as u8 => 1,
                _ => 2,
            };
            sums[of] += counter.packets;
            sums[3] += counter.connections;
        }
        Ok(sums)
    }
}

fn compared_and_ended(_: &Site) -> Result<()> {
    let mut shop = Shop::new()?;
    shop.hand(true, Datapath::install)?;
    let (web, db) = (shop.lab.probe("/w0")?, shop.lab.probe("/w1")?);
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    let (_udp, _tcp) = (db.serve(Kind::Udp, to)?, db.serve(Kind::Tcp, to)?);
    compared(&mut shop, &web, to)?;
    ended(&mut shop, &web, to)
}

/// A shadow changes nothing, and every difference is counted.
fn compared(shop: &mut Shop, web: &Probe, to: SocketAddr) -> Result<()> {
    shop.compare(false)?;
    verifier::check(process::id())?;
    let client = web.open(Kind::Udp, Family::V4)?;
    allowed("connect", client.connect(to)?)?;
    ensure!(send(&client)? == MANY, "a shadow refuses");
    let many = u64::from(MANY);
    // What is on its way arrives in its own time.
    until("one call and all datagrams with their answers are counted", || {
        Ok(shop.differences(Verdict::Denied)? == [1, 2 * many, 2 * many, 0])
    })?;
    // Under new tables, twice, it goes on, and what was counted under those before is not lost.
    for _ in 0..2 {
        shop.renew()?;
        ensure!(send(&client)? == MANY, "a shadow with new tables refuses");
    }
    until("those under new tables are counted as well", || {
        Ok(shop.differences(Verdict::Denied)? == [1, 6 * many, 6 * many, 0])
    })?;
    allowed("a connection", web.tcp(to)?)?;
    until("another call and a connection are counted", || {
        let [calls, egress, ingress, opened] = shop.differences(Verdict::Denied)?;
        Ok(calls == 2 && egress > 6 * many && ingress > 6 * many && opened == 2)
    })?;

    shop.datapath.end_comparison()?;
    let before = shop.differences(Verdict::Denied)?;
    ensure!(send(&client)? == MANY, "refused");
    let after = shop.differences(Verdict::Denied)?;
    ensure!(after == before, "counted after the end: {before:?} and {after:?}");

    shop.hand(false, Datapath::install)?;
    shop.compare(true)?;
    let second = web.open(Kind::Udp, Family::V4)?;
    refused("connect under a policy without rules", second.connect(to)?)?;
    ensure!(send(&client)? == 0, "not refused under a policy without rules");
    let counted = shop.differences(Verdict::Allowed)?;
    ensure!(counted == [1, many, 0, 0], "of one call and {MANY} datagrams counted: {counted:?}");
    Ok(())
}

/// The kernel goes back by itself.
fn ended(shop: &mut Shop, web: &Probe, to: SocketAddr) -> Result<()> {
    shop.hand(true, Datapath::install)?;
    let last = shop.number;
    let client = web.open(Kind::Udp, Family::V4)?;
    allowed("connect", client.connect(to)?)?;
    shop.hand(false, |datapath, generation| {
        datapath.prepare(generation)?;
        datapath.put_in_force_for(generation.number, WHILE)
    })?;
    let start = Instant::now();
    ensure!(send(&client)? == 0, "not refused under a policy without rules");
    thread::sleep(WHILE.saturating_sub(start.elapsed()));
    ensure!(send(&client)? == MANY, "the deadline has passed, and the last policy is not back");
    ensure!(shop.datapath.in_force() == Some(last), "in force: {:?}", shop.datapath.in_force());
    Ok(())
}

/// How many of many datagrams are taken.
fn send(client: &Socket<'_>) -> Result<u32> {
    client.repeat(&[], vec![0; 10], MANY)
}

/// Tables that are in force, and which the programs write, are shown in another slot. That one last held a generation by
/// which cgroups of the same name may do anything.
fn born_under_new_tables(_: &Site) -> Result<()> {
    const VISITS: u32 = 2_000;
    let lab = Lab::new()?;
    let (site, home) = (lab.cgroup("/site")?, lab.cgroup("/home")?);
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    let server = lab.probe("/home")?;
    server.serve(Kind::Tcp, to)?;
    let caller = lab.probe("/home")?;
    let mut datapath = Datapath::load(lab.root()?.path(), None)?;
    datapath.attach(|_| None)?;
    let place = site.id()?;
    let prepare = |datapath: &mut Datapath, number, flags| {
        let endpoint = Endpoint { subject: SubjectId(1), peer: PeerId::NONE, flags };
        let mut name = [0; NAME_BYTES];
        name[..5].copy_from_slice(b"born-");
        datapath.prepare(&Generation {
            number,
            cgroups: Cgroups {
                endpoints: &[],
                followed: &[(place, 1)],
                names: &[(
                    NameKey::prefix_len(5),
                    NameKey { of: 1, name },
                    NameEntry { endpoint, next: STATE_DEAD, flags: NameEntry::PLACE },
                )],
            },
            peers: &[],
            policy: &[],
        })
    };
    prepare(&mut datapath, 1, Endpoint::ISOLATE_EGRESS)?;
    datapath.put_in_force(1)?;
    thread::scope(|scope| {
        let (site, home) = (&site, &home);
        let visits = scope.spawn(move || caller.visit((site, "born-", ""), fewer(VISITS), home, to));
        let mut number = 1;
        while !visits.is_finished() {
            prepare(&mut datapath, number + 1, 0)?;
            datapath.renew(number, &Renewal { number: number + 2, grows: false, peers: &[], policy: &[] })?;
            number += 2;
        }
        let (through, refused) = visits.join().expect("no panic")?;
        ensure!(through == 0 && refused == fewer(VISITS), "{through} got through, {refused} were refused");
        ensure!(number > 10, "too few tables: {number}");
        Ok(())
    })
}
