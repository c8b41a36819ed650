//! What a policy says, in one short text: equal for equal policies.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::language::{Cidr, End, Environment, Peer, Policy, PortSpan, Ports, Rule, Selector, Workload};

/// SHA-256 of what decides about connections and how they are reported; shown in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentHash(pub(crate) [u8; 32]);

impl ContentHash {
    /// So many digits are enough for people to compare.
    pub const SHORT: usize = 12;

    /// The first digits.
    pub fn short(&self) -> String {
        self.to_string()[..Self::SHORT].to_owned()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Content to be hashed, part by part. Every part says where it ends, so that different contents differ in their
/// bytes.
pub(crate) struct Content(Sha256);

impl Content {
    /// `what` it is content of, with a version.
    pub(crate) fn new(what: &str) -> Self {
        let mut content = Self(Sha256::new());
        content.text(what);
        content
    }

    pub(crate) fn hash(self) -> ContentHash {
        ContentHash(self.0.finalize().into())
    }

    /// Bytes whose number goes without saying.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn number(&mut self, number: impl Into<u64>) {
        self.0.update(number.into().to_le_bytes());
    }

    pub(crate) fn list<T>(&mut self, list: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.count(list.len());
        for part in list {
            item(self, part);
        }
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes(text.as_bytes());
    }

    fn texts(&mut self, texts: &[String]) {
        self.list(texts, |content, text| content.text(text));
    }

    /// One part, or none.
    fn option<T>(&mut self, part: Option<T>, some: impl FnOnce(&mut Self, T)) {
        self.number(part.is_some());
        if let Some(part) = part {
            some(self, part);
        }
    }

    fn cidr(&mut self, cidr: Cidr) {
        self.bytes(&cidr.first().octets());
        self.number(cidr.prefix_len());
    }

    fn end(&mut self, end: End) {
        let (kind, index) = match end {
            End::Any => (0_u8, 0),
            End::Host => (1, 0),
            End::Dns => (2, 0),
            End::Private => (3, 0),
            End::Internet => (4, 0),
            End::Environment(e) => (5, e.0),
            End::Workload(w) => (6, w.0),
            End::Peer(p) => (7, p),
            End::Cidr(_) => (8, 0),
        };
        self.number(kind);
        self.count(index);
        if let End::Cidr(cidr) = end {
            self.cidr(cidr);
        }
    }

    fn ports(&mut self, ports: &Ports) {
        self.list(ports.spans(), |content, PortSpan { protocol, first, last }| {
            content.number(protocol.0);
            content.number(*first);
            content.number(*last);
        });
    }

    fn selector(&mut self, selector: &Selector) {
        match selector {
            Selector::Systemd(unit) => {
                self.number(0_u8);
                self.text(&unit.to_string());
            }
            Selector::Cgroup(path) => {
                self.number(1_u8);
                self.text(&path.to_string());
            }
            Selector::Container { name, image, labels } => {
                self.number(2_u8);
                for pattern in [name, image] {
                    self.option(pattern.as_ref(), |content, pattern| content.text(&pattern.to_string()));
                }
                self.labels(labels.iter());
            }
            Selector::Kubernetes { namespace, labels } => {
                self.number(3_u8);
                self.text(&namespace.to_string());
                self.labels(labels.iter());
            }
        }
    }

    fn labels(&mut self, labels: impl ExactSizeIterator<Item = (impl fmt::Display, impl fmt::Display)>) {
        self.count(labels.len());
        for (label, value) in labels {
            self.text(&label.to_string());
            self.text(&value.to_string());
        }
    }
}

impl Policy {
    /// The hash of all that the policy says of connections and their reports: declarations and rules with their
    /// names, ids and reasons. Not of where and with which comments that is written, nor of `[[forbid]]` and
    /// `[[test]]`, of which nothing is left once they are kept; and a dry run is the same policy.
    pub fn content_hash(&self) -> ContentHash {
        let Self { environments, workloads, peers, rules, forbids: _, tests: _, .. } = self;
        let mut content = Content::new("bulkhead policy 1");
        content.list(environments, |content, environment| {
            let Environment { name, mode, interfaces, cidrs, place: _ } = environment;
            content.text(name);
            content.text(mode.name());
            content.texts(interfaces);
            content.list(cidrs, |content, cidr| content.cidr(*cidr));
        });
        content.list(workloads, |content, workload| {
            let Workload { name, environment, selectors, ingress_open, egress_open, place: _ } = workload;
            content.text(name);
            content.option(*environment, |content, e| content.count(e.0));
            content.list(selectors, |content, (selector, _)| content.selector(selector));
            content.number(*ingress_open);
            content.number(*egress_open);
        });
        content.list(peers, |content, peer| {
            let Peer { name, environment, cidrs, names, place: _ } = peer;
            content.text(name);
            content.option(*environment, |content, e| content.count(e.0));
            content.list(cidrs, |content, cidr| content.cidr(*cidr));
            content.texts(names);
        });
        content.list(rules, |content, rule| {
            let Rule { id, from, to, ports, expires, reason, place: _ } = rule;
            content.text(id);
            content.list(from, |content, end| content.end(*end));
            content.list(to, |content, end| content.end(*end));
            content.list(ports, Content::ports);
            content.option(*expires, Content::number);
            content.option(reason.as_deref(), Content::text);
        });
        content.hash()
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::policy;

    const SHOP: &str = r#"
[environment.prod]
cidrs = ["10.20.0.0/16"]
[workload.web]
environment = "prod"
select = { systemd = "web.service" }
[workload.db]
select = { cgroup = "/db.slice/**" }
[peer.registry]
names = ["registry.example.org"]
[[allow]]
from = "web"
to = ["db", "registry"]
ports = ["tcp/5432"]
reason = "orders"
"#;

    fn hash(text: &str) -> String {
        policy(text).content_hash().to_string()
    }

    #[test]
    fn whatever_a_policy_says_is_in_its_hash() {
        let said = hash(SHOP);
        for (from, to) in [
            ("[environment.prod]", "[environment.prod]\nmode = \"audit\""),
            ("10.20.0.0/16", "10.20.0.0/17"),
            ("\"web.service\"", "\"www.service\""),
            ("systemd = \"web.service\"", "cgroup = \"/web.service\""),
            ("/db.slice/**", "/db.slice/*"),
            ("[workload.db]", "[workload.db]\nenvironment = \"prod\""),
            ("[workload.db]", "[workload.db]\ningress = \"allow\""),
            ("registry.example.org", "r.example.org"),
            ("[\"db\", \"registry\"]", "[\"db\"]"),
            ("tcp/5432", "udp/5432"),
            ("tcp/5432", "tcp/5432-5433"),
            ("orders", "bills"),
            ("reason", "expires = 2030-01-01T00:00:00Z\nreason"),
            ("reason", "id = \"r\"\nreason"),
        ] {
            let changed = SHOP.replace(from, to);
            assert_ne!(changed, SHOP, "{from}");
            assert_ne!(hash(&changed), said, "{from} -> {to}");
        }
    }

    #[test]
    fn how_and_where_it_is_written_is_not() {
        let other = format!("# a shop\n{}", SHOP.replace(" = ", "  =  "));
        assert_eq!(hash(&other), hash(SHOP));
        let mut dry = policy(SHOP);
        dry.dry_run();
        assert_eq!(dry.content_hash().to_string(), hash(SHOP));
    }

    /// The hash of a policy is noted elsewhere: a change of it is a change that users see.
    #[test]
    fn the_hash_stays_the_same_from_build_to_build() {
        assert_eq!(policy(SHOP).content_hash().short(), "c871eb9ccec8");
    }
}
