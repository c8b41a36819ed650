//! Whom a question to a policy is about.

use std::fmt;

use crate::{
    connection::Party,
    inventory::Inventory,
    language::{Cidr, CidrError, End, EnvironmentId, Policy},
    parties::{Addresses, parties},
    text::nearest,
    unresolved::{Outlook, Roll, Unresolved},
};

/// Whom a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whom {
    /// As it was asked.
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// As a rule would name it.
    End(End),
    /// A DNS name that these peers have.
    Name(Vec<usize>),
}

/// What keeps a question from being answered: nobody is known by this name, or nothing can be said of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownEnd {
    fault: String,
    help: String,
}

impl fmt::Display for UnknownEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fault, self.help)
    }
}

impl std::error::Error for UnknownEnd {}

impl Policy {
    /// Who is meant by `text`: all that an end of a rule can be, and DNS names of peers.
    pub fn whom(&self, text: &str) -> Result<Whom, UnknownEnd> {
        let kind = match self.end(text)? {
            Some(end) => Kind::End(end),
            None => Kind::Name(self.peers_of_name(text)?),
        };
        Ok(Whom { text: text.to_owned(), kind })
    }

    fn end(&self, text: &str) -> Result<Option<End>, UnknownEnd> {
        if let Some(name) = text.strip_prefix("env:") {
            return self.environment(name).map(Some);
        }
        let built_in = End::BUILT_IN.iter().find(|(name, _)| *name == text).map(|(_, end)| *end);
        let peer = || self.peers.iter().position(|p| p.name == text).map(End::Peer);
        if let Some(end) = built_in.or_else(|| self.workload(text).map(End::Workload)).or_else(peer) {
            return Ok(Some(end));
        }
        let help = match text.parse::<Cidr>() {
            Ok(cidr) => return Ok(Some(End::Cidr(cidr))),
            Err(CidrError::NotAnAddress) if !Cidr::is_meant_by(text) => return Ok(None),
            Err(CidrError::HostBits(meant)) => format!("did you mean `{meant}`?"),
            Err(CidrError::Mapped(Some(v4))) => format!("did you mean `{v4}`?"),
            Err(CidrError::NotAnAddress | CidrError::TooLong(_) | CidrError::Mapped(None)) => {
                "write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32".into()
            }
        };
        Err(UnknownEnd { fault: format!("`{text}` is no address range"), help })
    }

    fn environment(&self, name: &str) -> Result<End, UnknownEnd> {
        let found = self.environments.iter().position(|e| e.name == name);
        found.map(|n| End::Environment(EnvironmentId(n))).ok_or_else(|| UnknownEnd {
            fault: format!("the policy has no environment `{name}`"),
            help: nearest(name, self.environments.iter().map(|e| e.name.as_str()))
                .unwrap_or_else(|| "`bulkhead status` and the policy's [environment.NAME] list them".into()),
        })
    }

    fn peers_of_name(&self, text: &str) -> Result<Vec<usize>, UnknownEnd> {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let peers = self.peers.iter().enumerate();
        let found: Vec<_> = peers.filter(|(_, p)| p.has_name(&name)).map(|(n, _)| n).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let environments: Vec<_> = self.environments.iter().map(|e| format!("env:{}", e.name)).collect();
        let ends = self.workloads.iter().map(|w| &w.name).chain(self.peers.iter().map(|p| &p.name));
        let known = ends.map(String::as_str).chain(End::BUILT_IN.iter().map(|(name, _)| *name));
        if let Some(environment) = environments.iter().find(|e| e.strip_prefix("env:") == Some(text)) {
            let fault = format!("the policy has no workload or peer `{text}`");
            return Err(UnknownEnd {
                fault,
                help: format!("did you mean the environment: `{environment}`?"),
            });
        }
        match nearest(text, known.chain(environments.iter().map(String::as_str))) {
            Some(help) => Err(UnknownEnd { fault: format!("the policy has no workload or peer `{text}`"), help }),
            None if name.contains('.') => Err(UnknownEnd {
                fault: format!("no peer of the policy has the DNS name `{text}`"),
                help: "whether it may be reached depends on its addresses, and nobody is asked for them here; give one \
                       of them"
                    .into(),
            }),
            None => Err(UnknownEnd {
                fault: format!("the policy has no workload or peer `{text}`"),
                help: "give one that it has, env:NAME, an address or range, any, host, dns, private or internet"
                    .into(),
            }),
        }
    }
}

impl Whom {
    /// As it was asked.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The range of addresses that it is.
    pub(crate) fn range(&self) -> Option<Cidr> {
        match self.kind {
            Kind::End(End::Cidr(cidr)) => Some(cidr),
            Kind::End(_) | Kind::Name(_) => None,
        }
    }

    /// Notes whom it is about, if that is a DNS name.
    pub(crate) fn join(&self, roll: &mut Roll) -> Option<Unresolved> {
        match self.kind {
            Kind::Name(_) => Some(roll.add_name(self.text.trim_end_matches('.').to_ascii_lowercase())),
            Kind::End(_) => None,
        }
    }

    /// Everybody that it is; `name` is who has the DNS name.
    pub(crate) fn parties(
        &self,
        policy: &Policy,
        inventory: &Inventory,
        kinds: &Addresses,
        outlook: &Outlook,
        name: Option<Unresolved>,
    ) -> Vec<Party> {
        match self.kind {
            Kind::End(end) => parties(policy, inventory, kinds, outlook, end),
            Kind::Name(_) => name.map(Party::Unresolved).into_iter().collect(),
        }
    }

    /// What cannot be told of it without a host.
    pub(crate) fn note(&self, policy: &Policy) -> Option<String> {
        let whose = match &self.kind {
            Kind::End(End::Host) => "this machine has besides loopback".to_owned(),
            Kind::End(End::Dns) => "the resolvers have".to_owned(),
            Kind::End(End::Peer(p)) => format!("`{}` has", policy.peers[*p].names.first()?),
            Kind::Name(_) => format!("`{}` has", self.text),
            Kind::End(_) => return None,
        };
        let text = &self.text;
        let or_workload = match &self.kind {
            Kind::End(End::Host | End::Dns) => ", or a workload: what listens there is known by its name",
            Kind::End(_) | Kind::Name(_) => "",
        };
        Some(format!(
            "which addresses {whose} is not known here, so that rules which name addresses are left out for `{text}`; \
             give an address to count them in{or_workload}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::policy;

    const HOME: &str = r#"
[environment.lan]
cidrs = ["192.168.10.0/24"]
[workload.web]
environment = "lan"
select = { systemd = "web.service" }
[peer.mirrors]
names = ["deb.example.org", "*.cdn.example.org"]
"#;

    #[test]
    fn who_is_not_known_is_answered_with_what_to_give() {
        let p = policy(HOME);
        for (text, expected) in [
            ("wbe", "the policy has no workload or peer `wbe`: did you mean `web`?"),
            ("lan", "did you mean the environment: `env:lan`?"),
            ("env:lna", "the policy has no environment `lna`: did you mean `lan`?"),
            ("192.168.10.999", "`192.168.10.999` is no address range: write 192.0.2.7"),
            ("192.168.10.9/24", "is no address range: did you mean `192.168.10.0/24`?"),
            ("example.com", "no peer of the policy has the DNS name `example.com`"),
            ("cdn.example.org", "give one of them"),
            ("whoever", "any, host, dns, private or internet"),
        ] {
            let error = p.whom(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
