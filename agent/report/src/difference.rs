//! What a policy that is only compared with the one in force would have judged otherwise.

use std::{cmp::Reverse, collections::HashMap};

use bulkhead_common::{Counter, CounterKey, RuleId, Verdict};
use bulkhead_policy::Policy;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    FlowEnd, FlowKind, FlowPeer, Policies, Rule, clock,
    denial::{Word, microseconds, word},
    enrich::rule,
    history::verdict_name,
};

/// One kind of traffic that fares otherwise by the shadow: the JSON object of `bulkhead shadow`. Facts that are absent are
/// null, never guessed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `newly-refused` or `newly-allowed`; what only would be refused is between what passes and what does not.
    #[serde(deserialize_with = "word")]
    pub change: Word,
    /// The verdict in force: `allowed`, `denied` or `would-deny`.
    #[serde(deserialize_with = "word")]
    pub in_force: Word,
    /// The shadow's.
    #[serde(deserialize_with = "word")]
    pub shadow: Word,
    /// `egress` or `ingress`, seen from the workload.
    #[serde(deserialize_with = "word")]
    pub direction: Word,
    /// `tcp`, `udp`, …, or the protocol's number.
    pub protocol: String,
    /// Protocol and service port as a rule's `ports` would name them.
    pub service: String,
    /// Whose allowlist judges by the shadow.
    pub workload: FlowEnd,
    /// The other end: a class of peers that the shadow does not tell apart.
    pub peer: FlowPeer,
    /// The shadow's rule that allows it.
    pub rule: Option<Rule>,
    /// Why the shadow judges so.
    #[serde(deserialize_with = "word")]
    pub reason: Word,
    /// The rule in force that allows it, and that the shadow has not.
    pub rule_in_force: Option<Rule>,
    /// Calls that are refused by one of both, before there is a packet.
    pub calls: u64,
    /// Packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// TCP connections that they opened.
    pub connections: u64,
    /// When the first was.
    #[serde(serialize_with = "microseconds")]
    pub first_seen: Timestamp,
    /// When the last was.
    #[serde(serialize_with = "microseconds")]
    pub last_seen: Timestamp,
}

/// What is one line: the kind, as the shadow judges it, the verdict in force, and the rule for it.
type Line = (FlowKind, u8, Option<Rule>);

impl Difference {
    /// Those of what was counted for a shadow, whose generation is `generation` by now: what would newly be refused comes first,
    /// and what there was most of.
    pub fn of(
        kinds: &[(CounterKey, Counter)],
        generation: u32,
        policies: &Policies,
        in_force: &Policy,
    ) -> Vec<Self> {
        let mut lines: HashMap<Line, (u64, Counter)> = HashMap::new();
        for (key, counter) in kinds {
            let Some(line) = line(&CounterKey { generation, ..*key }, policies, in_force) else { continue };
            let (calls, sum) = lines.entry(line).or_default();
            if key.packets == 0 {
                *calls += counter.packets;
                sum.add(&Counter { packets: 0, ..*counter });
            } else {
                sum.add(counter);
            }
        }
        let mut differences: Vec<_> =
            lines.into_iter().map(|(line, (calls, sum))| Self::new(line, calls, &sum)).collect();
        differences.sort_by_cached_key(|one| {
            let ends = (one.workload.name.clone(), one.peer.in_words(), one.service.clone());
            (one.change != REFUSED, Reverse(one.packets + one.calls), one.direction, ends)
        });
        differences
    }

    fn new((kind, in_force, rule_in_force): Line, calls: u64, sum: &Counter) -> Self {
        let FlowKind { verdict: shadow, direction, protocol, service, workload, peer, rule, reason, .. } =
            kind;
        let in_force = verdict_name(in_force);
        Self {
            change: if severity(shadow) > severity(in_force) { REFUSED } else { ALLOWED },
            in_force,
            shadow,
            direction,
            protocol,
            service,
            workload,
            peer,
            rule,
            reason,
            rule_in_force,
            calls,
            packets: sum.packets,
            bytes: sum.bytes,
            connections: sum.connections,
            first_seen: clock::time_of_day(sum.first_seen),
            last_seen: clock::time_of_day(sum.last_seen),
        }
    }

    /// Would it newly be refused, or be said to be?
    pub fn is_refused(&self) -> bool {
        self.change == REFUSED
    }
}

const REFUSED: Word = "newly-refused";
const ALLOWED: Word = "newly-allowed";

/// None: it is no difference, or of another version.
fn line(key: &CounterKey, policies: &Policies, in_force: &Policy) -> Option<Line> {
    let verdict = key.verdict_in_force()?;
    // The rule is that of the policy which lets pass.
    let of_shadow = key.verdict == Verdict::Allowed as u8;
    let shadows = if of_shadow { key.rule } else { RuleId::NONE.0 };
    let kind = FlowKind::of(&CounterKey { rule: shadows, ..*key }, policies)?;
    let allowed_by = (verdict == Verdict::Allowed as u8).then(|| rule(in_force, key.rule)).flatten();
    Some((kind, verdict, allowed_by))
}

fn severity(verdict: Word) -> u8 {
    match verdict {
        "allowed" => 0,
        "would-deny" => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use bulkhead_common::{Direction, Protocol, Reason};
    use bulkhead_policy::{Source, load};

    use super::{
        Verdict::{Allowed, Denied, WouldDeny},
        *,
    };

    fn policy(rules: &str) -> Arc<Policy> {
        let text = format!(
            "[workload.web]\nselect = {{ cgroup = \"/web\" }}\n[workload.db]\nselect = {{ cgroup = \"/db\" }}\n{rules}"
        );
        load(&[Source::new("shop.toml", text)]).unwrap().policy.into()
    }

    fn key(verdict: Verdict, in_force: Verdict, rule: u32, packets: u8) -> CounterKey {
        let reason = if verdict == Allowed { Reason::Rule } else { Reason::NoRule };
        CounterKey {
            generation: 3,
            subject: 1,
            rule,
            port: 5432,
            protocol: Protocol::TCP.0,
            direction: Direction::Egress as u8,
            verdict: verdict as u8,
            reason: reason as u8,
            packets,
            shadow: 1 + in_force as u8,
            ..CounterKey::default()
        }
    }

    #[test]
    fn calls_and_packets_of_a_kind_are_one_difference_over_all_generations_of_the_shadow() {
        let rule = "[[allow]]\nid = \"web-db\"\nfrom = \"web\"\nto = \"db\"\n";
        let (in_force, shadow) = (policy(rule), policy(""));
        let policies = Policies::default();
        policies.note_compared(4, shadow, BTreeMap::new());
        let counter = |packets, connections, first_seen| Counter {
            packets,
            bytes: 60 * packets,
            connections,
            first_seen,
            last_seen: first_seen + 9_000_000_000,
        };
        let refused = |packets| key(Denied, Allowed, 0, packets);
        let kinds = [
            (refused(0), Counter { bytes: 0, ..counter(2, 0, 1_000_000_000) }),
            (refused(1), counter(10, 2, 3_000_000_000)),
            (CounterKey { generation: 4, ..refused(1) }, counter(5, 1, 2_000_000_000)),
        ];
        let differences = Difference::of(&kinds, 4, &policies, &in_force);
        let [one] = &differences[..] else { panic!("{differences:#?}") };
        assert_eq!((one.change, one.in_force, one.shadow), ("newly-refused", "allowed", "denied"));
        assert_eq!((one.calls, one.packets, one.bytes, one.connections), (2, 15, 900, 3));
        assert_eq!((one.workload.name.as_deref(), &*one.service), (Some("web"), "tcp/5432"));
        assert_eq!((one.reason, one.rule.as_ref()), ("no-rule", None));
        assert_eq!(one.rule_in_force.as_ref().map(|rule| (&*rule.id, rule.line)), Some(("web-db", 5)));
        let span = one.last_seen.duration_since(one.first_seen).as_millis();
        assert!((10_900..=11_100).contains(&span), "{span} ms");
        let line = serde_json::to_string(one).unwrap();
        let read: Difference = serde_json::from_str(&line).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), line);
    }

    #[test]
    fn a_rule_is_of_the_policy_that_lets_pass_and_what_is_only_marked_is_in_between() {
        let (in_force, shadow) = (
            policy("[[allow]]\nid = \"old\"\nfrom = \"web\"\nto = \"db\"\n"),
            policy("[[allow]]\nid = \"new\"\nfrom = \"web\"\nto = \"db\"\n"),
        );
        let policies = Policies::default();
        policies.note_compared(3, shadow, BTreeMap::new());
        for (shadow, in_force_verdict, change, ids) in [
            (Allowed, Denied, "newly-allowed", [Some("new"), None]),
            (Denied, Allowed, "newly-refused", [None, Some("old")]),
            (WouldDeny, Allowed, "newly-refused", [None, Some("old")]),
            (Allowed, WouldDeny, "newly-allowed", [Some("new"), None]),
            (WouldDeny, Denied, "newly-allowed", [None, None]),
            (Denied, WouldDeny, "newly-refused", [None, None]),
        ] {
            let rule = if ids == [None, None] { RuleId::NONE.0 } else { 0 };
            let counted = [(key(shadow, in_force_verdict, rule, 1), Counter::default())];
            let differences = Difference::of(&counted, 3, &policies, &in_force);
            let [one] = &differences[..] else { panic!("{differences:#?}") };
            let told = [&one.rule, &one.rule_in_force].map(|rule| rule.as_ref().map(|rule| &*rule.id));
            assert_eq!((one.change, told), (change, ids), "{shadow:?} and in force {in_force_verdict:?}");
            assert_eq!(one.is_refused(), change == "newly-refused");
        }
    }
}
