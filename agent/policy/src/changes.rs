//! Which connections fare otherwise under another policy.

use std::{collections::BTreeMap, fmt};

use bulkhead_common::Verdict;

use crate::{connection::verdict_name, question::Answer};

/// How the connections that two policies were asked about fare under one and the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// By what comes of them under the old policy and under the new one; nothing where nobody was found to ask about.
    fates: BTreeMap<Connection, [Option<Verdict>; 2]>,
}

/// Who opens it, to whom, and protocol and port.
type Connection = (String, String, u8, u16);

fn connections(answer: &Answer) -> impl Iterator<Item = Connection> {
    let asked = answer.explanation.connection;
    answer.ends.iter().map(move |(from, to)| (from.clone(), to.clone(), asked.protocol.0, asked.port))
}

impl Changes {
    /// Of the answers that each gave to the same question, asked among both.
    pub fn between(old: &[Answer], new: &[Answer]) -> Self {
        let mut fates: BTreeMap<_, [Option<Verdict>; 2]> = BTreeMap::new();
        for (n, answers) in [old, new].into_iter().enumerate() {
            for answer in answers {
                for connection in connections(answer) {
                    fates.entry(connection).or_default()[n] = Some(answer.explanation.verdict());
                }
            }
        }
        Self { fates }
    }

    /// Does one of the connections that an answer is about fare otherwise?
    pub fn touch(&self, answer: &Answer) -> bool {
        connections(answer).any(|c| self.fates.get(&c).is_some_and(|[old, new]| old != new))
    }
}

/// In words, without a line end.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: BTreeMap<_, usize> = BTreeMap::new();
        for [old, new] in self.fates.values().filter(|[old, new]| old != new) {
            *kinds.entry([old, new].map(|fate| fate.map_or("not asked", verdict_name))).or_default() += 1;
        }
        if kinds.is_empty() {
            return f.write_str("nothing changes");
        }
        for (n, ([old, new], count)) in kinds.into_iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{old} -> {new}")?;
            if self.fates.len() > 1 {
                write!(f, " ({count} of {})", self.fates.len())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_common::Protocol;

    use super::*;
    use crate::{Policy, ask, testing::policy};

    const SHOP: &str = r#"
[workload.web]
select = { systemd = "web.service" }
[workload.db]
select = { systemd = "db.service" }
[[allow]]
from = "web"
to = ["db", "192.0.2.0/24"]
ports = ["tcp/443"]
"#;

    #[track_caller]
    fn changes(old: &str, new: &str, to: &str) -> String {
        let [old, new] = [old, new].map(policy);
        let among = [&old, &new];
        let answers = |policy: &Policy| {
            let [from, to] = ["web", to].map(|text| policy.whom(text).unwrap());
            ask(policy, &among, &from, &to, &[(Protocol::TCP, 443)], 0).unwrap()
        };
        Changes::between(&answers(&old), &answers(&new)).to_string()
    }

    #[test]
    fn what_fares_otherwise_is_counted_and_nothing_else() {
        let narrow = SHOP.replace("192.0.2.0/24", "192.0.2.7");
        assert_eq!(changes(SHOP, &narrow, "db"), "nothing changes");
        assert_eq!(changes(SHOP, &narrow, "192.0.2.9"), "allowed -> denied");
        assert_eq!(changes(&narrow, SHOP, "192.0.2.0/24"), "denied -> allowed (2 of 3)");
        let all = changes(SHOP, &SHOP.replace("443", "444"), "any");
        assert!(all.starts_with("allowed -> denied (2 of "), "{all}");
        let renamed = SHOP.replace("ports", "id = \"other\"\nports");
        assert_eq!(changes(SHOP, &renamed, "any"), "nothing changes", "the rule alone is another");
    }
}
