//! A flow: all traffic of one kind in a stretch of time, as `bulkhead flows` tells it.

use std::{borrow::Cow, net::IpAddr};

use bulkhead_common::{Address, Protocol, Reason};

use super::{Cursor, Ends, FlowRecord, Head, Is, Memo, Named, port, rule, unjudged, verdict, way};

/// Passages of flows that were read before. Other records go on otherwise after the same beginnings.
#[derive(Debug)]
pub(super) struct Passages<N> {
    heads: Memo<Head, 118>,
    pub(super) workloads: Memo<Named<N>, 176>,
    pub(super) peers: Memo<Named<N>, 48>,
    classes: Memo<Class, 182>,
    causes: Memo<Option<Reason>, 182>,
}

/// Who is at the other end, but for its name.
#[derive(Clone, Copy, Debug)]
struct Class {
    /// It is known, if only by its name.
    is_known: bool,
    is: Is,
    /// An address that the policy took for the same.
    like: Option<Address>,
}

impl<N: Copy> Passages<N> {
    /// The record of a flow, from the beginning of its stretch of time on.
    #[inline(always)]
    pub(super) fn read<'l>(&mut self, at: &mut Cursor<'l>, time: &'l [u8]) -> Option<(FlowRecord<'l>, Ends)> {
        at.text()?;
        let (Head { verdict, direction, protocol }, _) = self.heads.pass(at, [13, 29, 37, 51], head)?;
        let port = service(at, protocol)?;
        let from_workload = *at;
        let (workload, workload_passage) = self.workloads.pass(at, [0, 8, 16, 24], workload)?;
        let from_peer = *at;
        let (peer, peer_passage) = self.peers.pass(at, [0, 8, 16, 24], peer)?;
        let peer_name = peer.at(from_peer)?.map(Cow::Borrowed);
        let (class, _) = self.classes.pass(at, [0, 8, 16, 24], class)?;
        let Class { is_known, is: peer_is, like: peer_address } = class;
        if !is_known && peer_address.is_none() {
            return None;
        }
        let is_told = peer_address.is_some() || peer_name.is_some();
        let (unjudged, _) = self.causes.pass(at, [6, 30, 54, 78], cause)?;
        at.any_number()?;
        at.pass(b",\"count\":")?;
        let count = at.number()?;
        traffic(at)?;
        let record = FlowRecord {
            verdict,
            direction,
            protocol,
            port,
            workload: workload.at(from_workload)?.filter(|_| is_told).map(Cow::Borrowed),
            peer_name,
            peer_address,
            peer_is,
            unjudged,
            count,
            time: Cow::Borrowed(time),
        };
        Some((record, Ends { is_flow: true, workload: workload_passage, peer: peer_passage }))
    }
}

impl<N: Copy> Default for Passages<N> {
    fn default() -> Self {
        Self {
            heads: Memo::new(1 << 6),
            workloads: Memo::new(1 << 9),
            peers: Memo::new(1 << 9),
            classes: Memo::new(1 << 9),
            causes: Memo::new(1 << 9),
        }
    }
}

/// From the end of the stretch to the service.
#[inline(always)]
fn head(at: &mut Cursor<'_>) -> Option<Head> {
    at.pass(b"\",\"verdict\":\"")?;
    let verdict = verdict(at)?;
    let (direction, protocol) = way(at)?;
    at.pass(b"\",\"service\":\"")?;
    Some(Head { verdict, direction, protocol })
}

/// The port of the service, up to the name of the workload.
#[inline(always)]
fn service(at: &mut Cursor<'_>, protocol: Protocol) -> Option<u16> {
    let usual = match protocol {
        Protocol::TCP => at.pass(b"tcp/"),
        Protocol::UDP => at.pass(b"udp/"),
        _ => None,
    };
    let port = match usual {
        Some(()) => at.number()?.try_into().ok()?,
        None => port(str::from_utf8(at.text()?).ok()?)?,
    };
    at.pass(b"\",\"workload\":{\"name\":")?;
    Some(port)
}

/// From the name of the workload to that of the peer.
#[inline(always)]
fn workload<N>(at: &mut Cursor<'_>) -> Option<Named<N>> {
    let name = at.text_or_null()?;
    at.pass(b",\"environment\":")?;
    at.text_or_null()?;
    at.pass(b"},\"peer\":{\"address\":null,\"port\":null,\"name\":")?;
    Named::new(name)
}

/// From the name of the peer to what it is.
#[inline(always)]
fn peer<N>(at: &mut Cursor<'_>) -> Option<Named<N>> {
    let name = at.text_or_null()?;
    at.pass(b",\"environment\":")?;
    at.text_or_null()?;
    at.pass(b",\"is\":")?;
    Named::new(name)
}

/// From what the peer is to the rule.
#[inline(always)]
fn class(at: &mut Cursor<'_>) -> Option<Class> {
    let is_known = at.pass(b"null").is_none();
    let mut is = Is::default();
    if is_known && at.pass(b"[]").is_none() {
        at.pass(b"[\"")?;
        is.note(at.text()?);
        while at.pass(b"\",\"").is_some() {
            is.note(at.text()?);
        }
        at.pass(b"\"]")?;
    }
    at.pass(b",\"like\":")?;
    let like = match at.text_or_null()? {
        Some(address) => Some(str::from_utf8(address).ok()?.parse::<IpAddr>().ok()?.into()),
        None => None,
    };
    at.pass(b"},\"rule\":")?;
    is.of_address = like.is_some();
    Some(Class { is_known, is, like })
}

/// From the rule to the generation: the reason, if no policy had a say.
#[inline(always)]
#[expect(clippy::option_option, reason = "no such passage, or one with or without it")]
fn cause(at: &mut Cursor<'_>) -> Option<Option<Reason>> {
    if at.pass(b"null").is_none() {
        rule(at)?;
        at.pass(b"}")?;
    }
    at.pass(b",\"reason\":\"")?;
    let unjudged = unjudged(at.text()?);
    at.pass(b"\",\"generation\":")?;
    Some(unjudged)
}

/// From the count to the end of the line.
#[inline(always)]
fn traffic(at: &mut Cursor<'_>) -> Option<()> {
    at.pass(b",\"calls\":")?;
    at.any_number()?;
    at.pass(b",\"packets\":")?;
    at.any_number()?;
    at.pass(b",\"bytes\":")?;
    at.any_number()?;
    at.pass(b",\"connections\":")?;
    at.any_number()?;
    at.pass(b",\"first_seen\":\"")?;
    at.text()?;
    at.pass(b"\",\"last_seen\":\"")?;
    at.last_text().map(|_| ())
}
