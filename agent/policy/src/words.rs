//! Rules as people say them.

use crate::language::{End, Forbid, Policy, Ports, Rule};

impl Policy {
    /// What a rule allows: `web may reach db and 10.20.0.0/24 on tcp/5432`.
    pub fn rule_in_words(&self, rule: &Rule) -> String {
        self.in_words(&rule.from, "may reach", &rule.to, &rule.ports)
    }

    /// What a `[[forbid]]` keeps rules from: `everything in dev must not reach everything in prod`, and the rules that may.
    pub fn forbid_in_words(&self, forbid: &Forbid) -> String {
        let words = self.in_words(&forbid.from, "must not reach", &forbid.to, &forbid.ports);
        let except: Vec<_> = forbid.except.iter().map(|rule| self.rules[*rule].id.clone()).collect();
        if except.is_empty() { words } else { format!("{words}, but by {}", listed(&except)) }
    }

    fn in_words(&self, from: &[End], verb: &str, to: &[End], ports: &[Ports]) -> String {
        let [from, to] = [from, to].map(|ends| {
            let ends: Vec<_> = ends.iter().map(|end| self.end_in_words(*end)).collect();
            listed(&ends)
        });
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        let on = if ports.is_empty() { "every protocol and port".to_owned() } else { listed(&ports) };
        format!("{from} {verb} {to} on {on}")
    }

    fn end_in_words(&self, end: End) -> String {
        match end {
            End::Any => "everybody".to_owned(),
            End::Host => "this machine".to_owned(),
            End::Dns => "its DNS resolvers".to_owned(),
            End::Private => "private addresses".to_owned(),
            End::Internet => "the internet".to_owned(),
            End::Environment(e) => format!("everything in {}", self.environments[e.0].name),
            End::Workload(_) | End::Peer(_) | End::Cidr(_) => self.end_name(end).to_string(),
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(words: &[String]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::policy;

    #[test]
    fn rules_read_as_sentences() {
        let p = policy(
            "[environment.prod]\n[environment.dev]\n\
             [workload.web]\nenvironment = \"prod\"\nselect = { systemd = \"web.service\" }\n\
             [[allow]]\nid = \"ask\"\nfrom = [\"web\", \"env:dev\", \"10.0.0.0/8\"]\nto = [\"dns\", \"host\"]\nports = [\"udp/53\", \"tcp/53\"]\n\
             [[allow]]\nfrom = \"any\"\nto = [\"internet\", \"private\"]\n\
             [[forbid]]\nfrom = \"env:dev\"\nto = \"env:prod\"\nports = [\"tcp/22\"]\nexcept = [\"ask\"]\n",
        );
        assert_eq!(
            p.rule_in_words(&p.rules[0]),
            "web, everything in dev and 10.0.0.0/8 may reach its DNS resolvers and this machine on udp/53 and tcp/53"
        );
        assert_eq!(
            p.rule_in_words(&p.rules[1]),
            "everybody may reach the internet and private addresses on every protocol and port"
        );
        assert_eq!(
            p.forbid_in_words(&p.forbids[0]),
            "everything in dev must not reach everything in prod on tcp/22, but by ask"
        );
    }
}
