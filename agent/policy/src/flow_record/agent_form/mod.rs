//! The forms in which the agent writes a record, read in a fraction of the time that any JSON takes: what it was refused or
//! allowed there and then, and a [flow](flow) of its history.
//!
//! Fields in the agent's order, no white space, plain ASCII: each step either finds what the agent would have written
//! next, or the line is left to the general reader. What is read here, it reads the same.
//!
//! Whole passages come again and again: of one workload, one program, one nearest rule. They are remembered, and passed
//! at once where the same bytes come again at the same place.

mod cursor;
mod flow;
mod memo;
mod numbers;

use std::borrow::Cow;

use bulkhead_common::{Direction, Protocol, Reason, Verdict};

use self::{cursor::Cursor, memo::Memo};
use super::{FlowRecord, Is, port, protocol, time, unjudged};

/// Passages that were read before. Of a name it can be noted whose it is, as `N`.
#[derive(Debug)]
pub(crate) struct Passages<N> {
    heads: Memo<Head, 118>,
    workloads: Memo<Named<N>, 176>,
    programs: Memo<(), 118>,
    peers: Memo<Named<N>, 48>,
    causes: Memo<Option<Reason>, 182>,
    of_flows: flow::Passages<N>,
}

/// What a record is about.
#[derive(Clone, Copy, Debug)]
struct Head {
    verdict: Verdict,
    direction: Direction,
    protocol: Protocol,
}

/// A passage that begins with a name in quotes, or null.
#[derive(Clone, Copy, Debug)]
struct Named<N> {
    length: Option<u16>,
    note: Option<N>,
}

/// Which passages name the ends of a record, if they are remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Whose passages are remembered apart.
    is_flow: bool,
    workload: Option<usize>,
    peer: Option<usize>,
}

impl<N: Copy> Passages<N> {
    /// The note on the name of a record's workload.
    #[inline(always)]
    pub(crate) fn workload(&mut self, ends: Ends) -> Option<&mut Option<N>> {
        let workloads = if ends.is_flow { &mut self.of_flows.workloads } else { &mut self.workloads };
        Some(&mut workloads.value(ends.workload?)?.note)
    }

    /// The note on the name of a record's peer.
    #[inline(always)]
    pub(crate) fn peer(&mut self, ends: Ends) -> Option<&mut Option<N>> {
        let peers = if ends.is_flow { &mut self.of_flows.peers } else { &mut self.peers };
        Some(&mut peers.value(ends.peer?)?.note)
    }

    /// The record of a line in the agent's form; none of any other line, and none of one that is at fault.
    #[inline(always)]
    pub(super) fn read<'l>(&mut self, line: &'l [u8]) -> Option<(FlowRecord<'l>, Ends)> {
        let at = &mut Cursor::new(line);
        at.pass(b"{\"time\":\"")?;
        let time = at.text()?;
        time::check(time).ok()?;
        if at.pass(b"\",\"since\":\"").is_some() {
            return self.of_flows.read(at, time);
        }
        let (Head { verdict, direction, protocol }, _) = self.heads.pass(at, [13, 29, 51, 71], head)?;
        let from_workload = *at;
        let (workload, workload_passage) = self.workloads.pass(at, [0, 8, 16, 24], workload)?;
        if at.pass(b"null").is_none() {
            at.pass(b"{\"pid\":")?;
            at.any_number()?;
            self.programs.pass(at, [9, 16, 24, 32], program)?;
        }
        at.pass(b",\"peer\":{\"address\":\"")?;
        let peer_address = at.address()?;
        at.pass(b"\",\"port\":")?;
        if at.pass(b"null").is_none() {
            u16::try_from(at.number()?).ok()?;
        }
        at.pass(b",\"name\":")?;
        let from_peer = *at;
        let (peer, peer_passage) = self.peers.pass(at, [0, 8, 16, 24], peer)?;
        let (unjudged, _) = self.causes.pass(at, [6, 46, 54, 78], cause)?;
        let count = count(at)?;
        at.any_number()?;
        let record = FlowRecord {
            verdict,
            direction,
            protocol,
            port: service(at, protocol)?,
            workload: workload.at(from_workload)?.map(Cow::Borrowed),
            peer_name: peer.at(from_peer)?.map(Cow::Borrowed),
            peer_address: Some(peer_address),
            peer_is: Is::default(),
            unjudged,
            count,
            time: Cow::Borrowed(time),
        };
        Some((record, Ends { is_flow: false, workload: workload_passage, peer: peer_passage }))
    }
}

impl<N: Copy> Default for Passages<N> {
    fn default() -> Self {
        Self {
            heads: Memo::new(1 << 6),
            workloads: Memo::new(1 << 9),
            programs: Memo::new(1 << 6),
            peers: Memo::new(1 << 9),
            causes: Memo::new(1 << 8),
            of_flows: flow::Passages::default(),
        }
    }
}

impl<N> Named<N> {
    #[inline(always)]
    fn new(name: Option<&[u8]>) -> Option<Self> {
        let length = match name {
            Some(name) => Some(u16::try_from(name.len()).ok()?),
            None => None,
        };
        Some(Self { length, note: None })
    }

    /// The name at the beginning of this passage.
    #[inline(always)]
    #[expect(clippy::option_option, reason = "no such passage, null, or a name")]
    fn at<'l>(&self, Cursor { rest }: Cursor<'l>) -> Option<Option<&'l [u8]>> {
        match self.length {
            Some(length) => rest.get(1..usize::from(length) + 1).map(Some),
            None => Some(None),
        }
    }
}

/// From the end of the time to the name of the workload.
fn head(at: &mut Cursor<'_>) -> Option<Head> {
    at.pass(b"\",\"verdict\":\"")?;
    let verdict = verdict(at)?;
    at.pass(b"\",\"mode\":\"")?;
    at.text()?;
    let (direction, protocol) = way(at)?;
    at.pass(b"\",\"workload\":{\"name\":")?;
    Some(Head { verdict, direction, protocol })
}

fn verdict(at: &mut Cursor<'_>) -> Option<Verdict> {
    Some(match at.text()? {
        b"denied" => Verdict::Denied,
        b"allowed" => Verdict::Allowed,
        b"would-deny" => Verdict::WouldDeny,
        _ => return None,
    })
}

/// Direction and protocol, up to the quote after them.
fn way(at: &mut Cursor<'_>) -> Option<(Direction, Protocol)> {
    at.pass(b"\",\"direction\":\"")?;
    let direction = match at.text()? {
        b"egress" => Direction::Egress,
        b"ingress" => Direction::Ingress,
        _ => return None,
    };
    at.pass(b"\",\"protocol\":\"")?;
    Some((direction, protocol(str::from_utf8(at.text()?).ok()?)?))
}

/// From the name of the workload to the process.
#[inline(always)]
fn workload<N>(at: &mut Cursor<'_>) -> Option<Named<N>> {
    let name = at.text_or_null()?;
    at.pass(b",\"environment\":")?;
    at.text_or_null()?;
    at.pass(b",\"cgroup\":")?;
    at.text_or_null()?;
    at.pass(b",\"unit\":")?;
    at.text_or_null()?;
    at.pass(b"},\"process\":")?;
    Named::new(name)
}

/// From the number of a process to its end.
#[inline(always)]
fn program(at: &mut Cursor<'_>) -> Option<()> {
    at.pass(b",\"comm\":\"")?;
    at.text()?;
    at.pass(b"\",\"exe\":")?;
    at.text_or_null()?;
    at.pass(b",\"uid\":")?;
    at.any_number()?;
    at.pass(b"}")
}

/// From the name of the peer to the rule.
#[inline(always)]
fn peer<N>(at: &mut Cursor<'_>) -> Option<Named<N>> {
    let name = at.text_or_null()?;
    at.pass(b",\"environment\":")?;
    at.text_or_null()?;
    at.pass(b"},\"rule\":")?;
    Named::new(name)
}

/// From the rule to the count: the reason, if no policy had a say.
#[inline(always)]
#[expect(clippy::option_option, reason = "no such passage, or one with or without it")]
fn cause(at: &mut Cursor<'_>) -> Option<Option<Reason>> {
    if at.pass(b"null").is_none() {
        rule(at)?;
        at.pass(b"}")?;
    }
    at.pass(b",\"reason\":\"")?;
    let unjudged = unjudged(at.text()?);
    at.pass(b"\",\"nearest_rule\":")?;
    if at.pass(b"null").is_none() {
        rule(at)?;
        at.pass(b",\"differs\":[\"")?;
        at.text()?;
        while at.pass(b"\",\"").is_some() {
            at.text()?;
        }
        at.pass(b"\"]}")?;
    }
    at.pass(b",\"count\":")?;
    Some(unjudged)
}

#[inline(always)]
fn rule(at: &mut Cursor<'_>) -> Option<()> {
    at.pass(b"{\"id\":\"")?;
    at.text()?;
    at.pass(b"\",\"file\":\"")?;
    at.text()?;
    at.pass(b"\",\"line\":")?;
    at.any_number()
}

/// The count, up to the number of the generation.
#[inline(always)]
fn count(at: &mut Cursor<'_>) -> Option<u64> {
    // Most records stand for one refusal.
    if at.pass(b"1,\"suppressed\":0,\"generation\":").is_some() {
        return Some(1);
    }
    let count = at.number()?;
    at.pass(b",\"suppressed\":")?;
    at.any_number()?;
    at.pass(b",\"generation\":")?;
    Some(count)
}

/// The port of a service, and the end of the line.
#[inline(always)]
fn service(at: &mut Cursor<'_>, protocol: Protocol) -> Option<u16> {
    let usual = match protocol {
        Protocol::TCP => at.last_number(b",\"service\":\"tcp/"),
        Protocol::UDP => at.last_number(b",\"service\":\"udp/"),
        _ => None,
    };
    match usual {
        Some(port) => port.try_into().ok(),
        None => any_service(at),
    }
}

#[inline(never)]
fn any_service(at: &mut Cursor<'_>) -> Option<u16> {
    at.pass(b",\"service\":\"")?;
    port(str::from_utf8(at.last_text()?).ok()?)
}
