//! Every packet that is judged is counted once, whatever the way to its verdict.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Agent,
    probe::{Family, Kind},
    scene::PORT,
    verdicts::{allowed, at},
};

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("counters::datagrams_that_pass_are_counted_at_both_ends", datagrams_that_pass),
    ("counters::a_connection_is_counted_with_its_bytes", a_connection),
    ("counters::refused_calls_and_packets_are_counted", what_is_refused),
    ("counters::kinds_beyond_the_last_counter_are_counted_together", more_kinds_than_counters),
];

/// How many datagrams. Most are judged as the one before was, some anew as the second ends.
const MANY: u32 = 3_000;

/// Bytes of the IPv4 and UDP headers.
const HEADERS: u64 = 28;

/// Counts that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    allowed: u64,
    bytes: u64,
    connections: u64,
    denied: u64,
    refused_calls: u64,
    other: u64,
}

impl Counts {
    fn of(agent: &Agent) -> Result<Self> {
        let status = agent.status()?;
        let traffic = &status["traffic"];
        let number = |pointer: &str| traffic.pointer(pointer).and_then(serde_json::Value::as_u64);
        let number = |pointer: &str| number(pointer).with_context(|| format!("no {pointer} in {traffic}"));
        Ok(Self {
            allowed: number("/allowed/packets")?,
            bytes: number("/allowed/bytes")?,
            connections: number("/allowed/connections")?,
            denied: number("/denied/packets")?,
            refused_calls: number("/refused_calls")?,
            other: number("/other/packets")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            allowed: self.allowed - before.allowed,
            bytes: self.bytes - before.bytes,
            connections: self.connections - before.connections,
            denied: self.denied - before.denied,
            refused_calls: self.refused_calls - before.refused_calls,
            other: self.other - before.other,
        }
    }
}

/// What is counted while `act` runs.
fn counted(site: &Site, act: impl FnOnce() -> Result<()>) -> Result<Counts> {
    let before = Counts::of(site.agent())?;
    act()?;
    Ok(Counts::of(site.agent())?.since(before))
}

fn datagrams_that_pass(site: &Site) -> Result<()> {
    let (web, db) = (site.lab().probe("/web")?, site.lab().probe("/db")?);
    let server = db.open(Kind::Udp, Family::V4)?;
    let to = server.bind(at(Ipv4Addr::LOCALHOST, PORT))?;
    for connected in [true, false] {
        let client = web.open(Kind::Udp, Family::V4)?;
        let peers: Vec<SocketAddr> = if connected { vec![] } else { vec![to] };
        if connected {
            allowed("connect", client.connect(to)?)?;
        }
        let seen = counted(site, || {
            ensure!(client.repeat(&peers, vec![0; 100], MANY)? == MANY, "not every datagram was taken");
            Ok(())
        })?;
        let packets = 2 * u64::from(MANY);
        let expected = Counts {
            allowed: packets,
            bytes: packets * (100 + HEADERS),
            // One exchange, seen at both of its ends.
            connections: 2,
            ..Counts::default()
        };
        ensure!(seen == expected, "connected: {connected}: {seen:?} and not {expected:?}");
    }
    Ok(())
}

fn a_connection(site: &Site) -> Result<()> {
    let (web, db) = (site.lab().probe("/web")?, site.lab().probe("/db")?);
    let server = db.serve(Kind::Tcp, at(Ipv4Addr::LOCALHOST, PORT))?;
    let seen = counted(site, || allowed("web to db", web.tcp(server.address)?))?;
    ensure!(seen.connections == 2, "a SYN at each end: {seen:?}");
    // Three to open, a question and an answer with their acknowledgements, and the end from one side at least.
    ensure!(seen.allowed >= 14 && seen.denied == 0, "{seen:?}");
    ensure!(seen.bytes >= seen.allowed * 40, "headers are counted: {seen:?}");
    Ok(())
}

fn what_is_refused(site: &Site) -> Result<()> {
    let (ci, db) = (site.lab().probe("/ci")?, site.lab().probe("/db")?);
    let server = db.open(Kind::Udp, Family::V4)?;
    let to = server.bind(at(Ipv4Addr::LOCALHOST, PORT))?;
    let client = ci.open(Kind::Udp, Family::V4)?;
    let seen = counted(site, || {
        ensure!(client.repeat(&[to], vec![0; 10], MANY)? == 0, "a datagram was taken");
        Ok(())
    })?;
    let expected = Counts { refused_calls: MANY.into(), ..Counts::default() };
    ensure!(seen == expected, "calls: {seen:?} and not {expected:?}");

    // Of another machine's datagrams the receiver is the first to know.
    let there = site.lab().stranger(site.stranger())?;
    let app = site.lab().probe("/app")?;
    let server = app.open(Kind::Udp, Family::V4)?;
    let to = server.bind(at(site.lab().host().v4, PORT))?;
    let seen = counted(site, || {
        ensure!(there.open(Kind::Udp, Family::V4)?.repeat(&[to], vec![0; 10], MANY)? == MANY, "not sent");
        Ok(())
    })?;
    let expected = Counts { denied: MANY.into(), ..Counts::default() };
    ensure!(seen == expected, "packets: {seen:?} and not {expected:?}");
    Ok(())
}

/// More ports than there are counters. The last test here: on a shared site it leaves no counter to the others.
fn more_kinds_than_counters(site: &Site) -> Result<()> {
    const PORTS: u32 = 20_000;
    let ci = site.lab().probe("/ci")?;
    let client = ci.open(Kind::Udp, Family::V4)?;
    let (host, first) = (site.stranger().v4, 10_000);
    let to: Vec<_> = (0..PORTS).filter_map(|n| Some(at(host, u16::try_from(first + n).ok()?))).collect();
    let seen = counted(site, || {
        ensure!(client.repeat(&to, vec![0; 10], PORTS)? == 0, "a datagram was taken");
        Ok(())
    })?;
    ensure!(seen.other > 0, "every port has had a counter of its own: {seen:?}");
    ensure!(seen.refused_calls + seen.other == u64::from(PORTS), "{seen:?}");
    Ok(())
}
