use crate::{Endpoint, Flow, PeerId, PolicyKey, PolicyValue, RuleId, SubjectId};

/// What happens to a connection or packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// It passes.
    Allowed = 0,
    /// It is refused.
    Denied = 1,
    /// It passes, and would be refused if its environment were enforced.
    WouldDeny = 2,
}

/// Why. The set is closed: reports, metrics and docs/policy.md list the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Allowed by a rule.
    Rule = 0,
    /// Allowed: this side of the local end is open, or the end is no workload.
    NotIsolated = 1,
    /// Allowed: a workload's traffic with itself.
    SameWorkload = 2,
    /// Allowed: IPv6 neighbour discovery, path-MTU and other errors that IP does not work without.
    Essential = 3,
    /// Refused: no rule allows it.
    NoRule = 4,
    /// Refused: the rule that allowed it has expired.
    Expired = 5,
    /// Refused: the local end must be in a workload and could not be told which.
    Unidentified = 6,
    /// Refused: the packet could not be parsed.
    Malformed = 7,
    /// Refused: the kernel had no memory to note who opened the connection.
    SocketMemory = 8,
    /// Refused: the packet bears the address of another workload, on this host with the port of its socket.
    ForgedSource = 9,
    /// Refused: a raw socket of a protocol that no rule of the workload allows.
    RawSocket = 10,
    /// Refused: a socket whose packets the programs would not see.
    UnseenSocket = 11,
}

impl Reason {
    /// All of them, in order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Rule,
        Self::NotIsolated,
        Self::SameWorkload,
        Self::Essential,
        Self::NoRule,
        Self::Expired,
        Self::Unidentified,
        Self::Malformed,
        Self::SocketMemory,
        Self::ForgedSource,
        Self::RawSocket,
        Self::UnseenSocket,
    ];

    /// The name that reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::NotIsolated => "not-isolated",
            Self::SameWorkload => "same-workload",
            Self::Essential => "essential",
            Self::NoRule => "no-rule",
            Self::Expired => "expired",
            Self::Unidentified => "unidentified",
            Self::Malformed => "malformed",
            Self::SocketMemory => "socket-memory",
            Self::ForgedSource => "forged-source",
            Self::RawSocket => "raw-socket",
            Self::UnseenSocket => "unseen-socket",
        }
    }

    /// Does this reason refuse?
    #[inline(always)]
    pub const fn refuses(self) -> bool {
        self as u8 >= Self::NoRule as u8
    }
}

/// A verdict with its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that allows it, or the one that has expired; else [`RuleId::NONE`].
    pub rule: RuleId,
}

impl Decision {
    /// The decision that `reason` means for `local`: in an audited environment a refusal is only marked.
    #[inline(always)]
    pub const fn new(local: &Endpoint, reason: Reason, rule: RuleId) -> Self {
        let verdict = if !reason.refuses() {
            Verdict::Allowed
        } else if local.audits() {
            Verdict::WouldDeny
        } else {
            Verdict::Denied
        };
        Self { verdict, reason, rule }
    }
}

/// A [`Decision`] as one word: what a BPF function that is verified by itself can return, and what the verifier does not
/// take for one case for each of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Outcome(pub u64);

#[expect(clippy::cast_possible_truncation, reason = "each part is cut out of the word")]
impl Outcome {
    const TIMED: u64 = 1 << 63;

    /// Of what needs no rule.
    pub const PASSES: Self = {
        let (verdict, reason, rule) = (Verdict::Allowed, Reason::NotIsolated, RuleId::NONE);
        Self::new(Decision { verdict, reason, rule }, false)
    };

    /// Of a decision; `timed`: the clock had a part in it.
    #[inline(always)]
    pub const fn new(decision: Decision, timed: bool) -> Self {
        let Decision { verdict, reason, rule } = decision;
        let timed = if timed { Self::TIMED } else { 0 };
        Self(rule.0 as u64 | (verdict as u64) << 32 | (reason as u64) << 40 | timed)
    }

    /// The rule that allows it, or the one that has expired; else [`RuleId::NONE`].
    #[inline(always)]
    pub const fn rule(self) -> RuleId {
        RuleId(self.0 as u32)
    }

    /// The [`Verdict`] as a number.
    #[inline(always)]
    pub const fn verdict(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// The [`Reason`] as a number.
    #[inline(always)]
    pub const fn reason(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// Is this the reason?
    #[inline(always)]
    pub const fn is(self, reason: Reason) -> bool {
        self.reason() == reason as u8
    }

    /// Does it refuse, or mark?
    #[inline(always)]
    pub const fn refuses(self) -> bool {
        self.reason() >= Reason::NoRule as u8
    }

    /// Does it refuse, and not only mark?
    #[inline(always)]
    pub const fn stops(self) -> bool {
        self.verdict() == Verdict::Denied as u8
    }

    /// May it be another a moment later, with nothing changed but the time?
    #[inline(always)]
    pub const fn is_timed(self) -> bool {
        self.0 & Self::TIMED != 0
    }
}

/// Where [`decide`] looks things up: BPF maps in the kernel, compiled tables in user space.
pub trait Tables {
    /// The longest entry of the policy table that covers `key`.
    fn policy(&self, key: &PolicyKey) -> Option<PolicyValue>;
    /// Nanoseconds on the clock of [`PolicyValue::expires`]. Asked only where an entry has an expiry.
    fn now(&self) -> u64;
}

/// The verdict function: may `flow` pass at the local end `local`?
///
/// A flow between two ends of ours passes if it passes at both: each end asks its own allowlist, first for the other
/// end, then for everybody. The first entry that holds is the answer; nothing found means refused.
#[inline(always)]
pub fn decide(tables: &impl Tables, local: &Endpoint, flow: &Flow) -> Decision {
    if !local.isolates(flow.direction) {
        return Decision::new(local, Reason::NotIsolated, RuleId::NONE);
    }
    if local.subject == SubjectId::UNIDENTIFIED {
        return Decision::new(local, Reason::Unidentified, RuleId::NONE);
    }
    if flow.peer.subject == local.subject {
        return Decision::new(local, Reason::SameWorkload, RuleId::NONE);
    }
    let mut refusal = Decision::new(local, Reason::NoRule, RuleId::NONE);
    if let Some(allowed) = probe(tables, local, flow, flow.peer.class, &mut refusal) {
        return allowed;
    }
    match probe(tables, local, flow, PeerId::ANY, &mut refusal) {
        Some(allowed) => allowed,
        None => refusal,
    }
}

/// The answer of one class of peers, or none, with `refusal` told of a rule that has expired.
#[inline(always)]
fn probe(
    tables: &impl Tables,
    local: &Endpoint,
    flow: &Flow,
    peer: PeerId,
    refusal: &mut Decision,
) -> Option<Decision> {
    if peer == PeerId::NONE {
        return None;
    }
    let key = PolicyKey::new(local.subject, peer, flow.direction, flow.protocol, flow.port);
    let entry = tables.policy(&key)?;
    if entry.expires != 0 && tables.now() >= entry.expires {
        *refusal = Decision::new(local, Reason::Expired, entry.rule);
        return None;
    }
    Some(Decision::new(local, Reason::Rule, entry.rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Direction, Peer, Protocol};

    /// A policy table of a few entries, searched as the kernel's trie is.
    struct Few(Vec<(u32, PolicyKey, PolicyValue)>, u64);

    impl Tables for Few {
        fn policy(&self, key: &PolicyKey) -> Option<PolicyValue> {
            let covers = |len: u32, k: &PolicyKey| {
                let bits = |k: &PolicyKey| u128::from_be_bytes(padded(bytemuck::bytes_of(k)));
                (bits(k) ^ bits(key)) >> (128 - len) == 0
            };
            self.0.iter().filter(|(len, k, _)| covers(*len, k)).max_by_key(|(len, ..)| *len).map(|e| e.2)
        }
        fn now(&self) -> u64 {
            self.1
        }
    }

    fn padded(b: &[u8]) -> [u8; 16] {
        let mut out = [0; 16];
        out[..b.len()].copy_from_slice(b);
        out
    }

    const CI: Endpoint =
        Endpoint { subject: SubjectId(1), peer: PeerId(11), flags: Endpoint::ISOLATE_EGRESS };
    const DB: Peer = Peer { subject: SubjectId(2), class: PeerId(12) };

    fn postgres(peer: Peer) -> Flow {
        Flow { direction: Direction::Egress, protocol: Protocol::TCP, port: 5432, peer }
    }

    fn entry(peer: PeerId, len: u32, port: u16, rule: u32, expires: u64) -> (u32, PolicyKey, PolicyValue) {
        let key = PolicyKey::new(CI.subject, peer, Direction::Egress, Protocol::TCP, port);
        (len, key, PolicyValue { rule: RuleId(rule), flags: 0, expires })
    }

    #[track_caller]
    fn expect(tables: &Few, local: &Endpoint, flow: &Flow, verdict: Verdict, reason: Reason, rule: u32) {
        assert_eq!(decide(tables, local, flow), Decision { verdict, reason, rule: RuleId(rule) });
    }

    #[test]
    fn nothing_found_is_refused() {
        expect(&Few(vec![], 0), &CI, &postgres(DB), Verdict::Denied, Reason::NoRule, u32::MAX);
        expect(&Few(vec![], 0), &CI, &postgres(Peer::default()), Verdict::Denied, Reason::NoRule, u32::MAX);
    }

    #[test]
    fn an_audited_end_only_marks() {
        let ci = Endpoint { flags: CI.flags | Endpoint::AUDIT, ..CI };
        expect(&Few(vec![], 0), &ci, &postgres(DB), Verdict::WouldDeny, Reason::NoRule, u32::MAX);
    }

    #[test]
    fn an_open_side_needs_no_rule() {
        let flow = Flow { direction: Direction::Ingress, ..postgres(DB) };
        expect(&Few(vec![], 0), &CI, &flow, Verdict::Allowed, Reason::NotIsolated, u32::MAX);
    }

    #[test]
    fn the_other_end_and_everybody_are_asked_in_turn() {
        for (peer, len, port) in [
            (PeerId(12), PolicyKey::FULL, 5432),
            (PeerId(12), PolicyKey::ANY_PORT, 0),
            (PeerId::ANY, PolicyKey::ANY_PROTOCOL, 0),
        ] {
            let t = Few(vec![entry(peer, len, port, 7, 0)], 0);
            expect(&t, &CI, &postgres(DB), Verdict::Allowed, Reason::Rule, 7);
        }
    }

    #[test]
    fn another_port_peer_direction_or_subject_is_another_entry() {
        let t = Few(vec![entry(PeerId(12), PolicyKey::FULL, 5432, 7, 0)], 0);
        let other_port = Flow { port: 5433, ..postgres(DB) };
        let other_peer = postgres(Peer { class: PeerId(13), subject: SubjectId(3) });
        let web = Endpoint { subject: SubjectId(9), ..CI };
        expect(&t, &CI, &other_port, Verdict::Denied, Reason::NoRule, u32::MAX);
        expect(&t, &CI, &other_peer, Verdict::Denied, Reason::NoRule, u32::MAX);
        expect(&t, &web, &postgres(DB), Verdict::Denied, Reason::NoRule, u32::MAX);
    }

    #[test]
    fn an_expired_rule_is_named_and_does_not_hide_one_that_holds() {
        let expired = entry(PeerId(12), PolicyKey::FULL, 5432, 7, 1_000);
        let t = Few(vec![expired], 1_000);
        expect(&t, &CI, &postgres(DB), Verdict::Denied, Reason::Expired, 7);
        let t = Few(vec![expired], 999);
        expect(&t, &CI, &postgres(DB), Verdict::Allowed, Reason::Rule, 7);
        let t = Few(vec![expired, entry(PeerId::ANY, PolicyKey::ANY_PROTOCOL, 0, 8, 0)], 1_000);
        expect(&t, &CI, &postgres(DB), Verdict::Allowed, Reason::Rule, 8);
    }

    #[test]
    fn a_workload_reaches_itself_but_nobody_is_not_somebody() {
        let own = Peer { subject: CI.subject, class: CI.peer };
        expect(&Few(vec![], 0), &CI, &postgres(own), Verdict::Allowed, Reason::SameWorkload, u32::MAX);
        let unidentified = Endpoint { subject: SubjectId::UNIDENTIFIED, ..CI };
        let twin = Peer { subject: SubjectId::UNIDENTIFIED, ..DB };
        let flow = postgres(twin);
        expect(&Few(vec![], 0), &unidentified, &flow, Verdict::Denied, Reason::Unidentified, u32::MAX);
    }

    #[test]
    fn an_outcome_tells_what_the_decision_does() {
        for reason in Reason::ALL {
            for verdict in [Verdict::Allowed, Verdict::Denied, Verdict::WouldDeny] {
                for timed in [false, true] {
                    let decision = Decision { verdict, reason, rule: RuleId(0xdead_beef) };
                    let outcome = Outcome::new(decision, timed);
                    assert_eq!((outcome.verdict(), outcome.reason()), (verdict as u8, reason as u8));
                    assert_eq!((outcome.rule(), outcome.is_timed()), (decision.rule, timed));
                    assert_eq!(outcome.refuses(), reason.refuses());
                    assert_eq!(outcome.stops(), verdict == Verdict::Denied);
                    assert!(Reason::ALL.iter().all(|r| outcome.is(*r) == (*r == reason)));
                }
            }
        }
    }

    #[test]
    fn reasons_are_numbered_in_order_and_named_apart() {
        for (n, r) in Reason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, n);
            assert!(Reason::ALL.iter().filter(|o| o.name() == r.name()).count() == 1);
        }
    }
}
