//! Words to what they name.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write,
};

use super::{
    Cidr, CidrError, End, Environment, EnvironmentId, Forbid, Peer, Policy, Ports, Rule, Selector, Test,
    Workload, WorkloadId, decode, selector::Likeness,
};
use crate::text::{Code, Diagnostic, Findings, Place, Word};

/// Turns every name in `document` into what it names.
pub(super) fn resolve(document: decode::Document, findings: &mut Findings) -> Policy {
    let names = Names::new(&document, findings);
    let mut policy = Policy::default();
    for e in document.environments {
        let cidrs = e.cidrs.iter().map(|(cidr, _)| *cidr).collect();
        policy.environments.push(Environment {
            name: e.name.text,
            mode: e.mode,
            interfaces: e.interfaces.into_iter().map(|word| word.text).collect(),
            cidrs,
            place: e.name.at,
        });
    }
    for w in document.workloads {
        policy.workloads.push(Workload {
            environment: w.environment.and_then(|e| names.environment(&e, findings)),
            selectors: w.selectors,
            ingress_open: w.ingress_open,
            egress_open: w.egress_open,
            name: w.name.text,
            place: w.name.at,
        });
    }
    for p in document.peers {
        policy.peers.push(Peer {
            environment: p.environment.and_then(|e| names.environment(&e, findings)),
            cidrs: p.cidrs.iter().map(|(cidr, _)| *cidr).collect(),
            names: p.names,
            name: p.name.text,
            place: p.name.at,
        });
    }
    let mut ids = RuleIds::default();
    for rule in document.rules {
        policy.rules.push(Rule {
            id: ids.name(&rule, findings),
            from: names.ends(rule.from, findings),
            to: names.ends(rule.to, findings),
            ports: rule.ports,
            expires: rule.expires.map(unix_nanoseconds),
            reason: rule.reason,
            place: rule.place,
        });
    }
    for forbid in document.forbids {
        policy.forbids.push(Forbid {
            from: names.ends(forbid.from, findings),
            to: names.ends(forbid.to, findings),
            ports: forbid.ports,
            except: forbid.except.iter().filter_map(|id| ids.find(id, findings)).collect(),
            reason: forbid.reason,
            place: forbid.place,
        });
    }
    for test in document.tests {
        policy.tests.push(Test {
            name: test.name,
            from: names.ends(test.from, findings),
            to: names.ends(test.to, findings),
            ports: test.ports,
            expect: test.expect,
            place: test.place,
        });
    }
    ambiguous_selectors(&policy, findings);
    policy
}

/// At least 1, since 0 stands for never, and at most the year 2554.
fn unix_nanoseconds(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond().max(1)).unwrap_or(u64::MAX)
}

/// Everything that has a name.
struct Names {
    environments: BTreeMap<String, (EnvironmentId, Place)>,
    /// Workloads and peers: rules name both alike.
    ends: BTreeMap<String, (End, Place)>,
}

impl Names {
    fn new(document: &decode::Document, findings: &mut Findings) -> Self {
        let mut names = Self { environments: BTreeMap::new(), ends: BTreeMap::new() };
        for (n, e) in document.environments.iter().enumerate() {
            check_name(&e.name, findings);
            let id = EnvironmentId(n);
            declare(&mut names.environments, &e.name, id, "environment", findings);
        }
        let workloads =
            document.workloads.iter().enumerate().map(|(n, w)| (&w.name, End::Workload(WorkloadId(n))));
        let peers = document.peers.iter().enumerate().map(|(n, p)| (&p.name, End::Peer(n)));
        for (name, end) in workloads.chain(peers) {
            check_name(name, findings);
            check_end_name(name, findings);
            declare(&mut names.ends, name, end, "workload or peer", findings);
        }
        names.ambiguous_cidrs(document, findings);
        ambiguous_interfaces(document, findings);
        names
    }

    /// An address range is in one environment.
    fn ambiguous_cidrs(&self, document: &decode::Document, findings: &mut Findings) {
        let own = document.environments.iter().map(|e| (Some(&e.name), &e.cidrs));
        let peers = document.peers.iter().map(|p| (p.environment.as_ref(), &p.cidrs));
        let mut taken: HashMap<Cidr, (&str, &Place)> = HashMap::new();
        for (environment, cidrs) in own.chain(peers) {
            let Some(environment) = environment.filter(|e| self.environments.contains_key(&e.text)) else {
                continue;
            };
            for (cidr, at) in cidrs {
                let (other, there) = *taken.entry(*cidr).or_insert((&environment.text, at));
                if other != environment.text {
                    let fault =
                        format!("`{cidr}` is in two environments: `{other}` and `{}`", environment.text);
                    findings.add(
                        Diagnostic::error(Code::AmbiguousCidr, at, fault)
                            .related(there, format!("in `{other}` here"))
                            .help(
                                "of nested ranges the narrower one counts; equal ones cannot be told apart",
                            ),
                    );
                }
            }
        }
    }

    fn environment(&self, word: &Word, findings: &mut Findings) -> Option<EnvironmentId> {
        self.environment_named(&word.text, &word.at, findings)
    }

    fn environment_named(&self, name: &str, at: &Place, findings: &mut Findings) -> Option<EnvironmentId> {
        let found = self.environments.get(name).map(|(id, _)| *id);
        if found.is_none() {
            let help = findings
                .nearest(name, self.environments.keys().map(String::as_str))
                .unwrap_or_else(|| format!("declare it: [environment.{name}]"));
            let fault = format!("unknown environment `{name}`");
            findings.add(Diagnostic::error(Code::UnknownName, at, fault).help(help));
        }
        found
    }

    fn ends(&self, words: Vec<Word>, findings: &mut Findings) -> Vec<End> {
        let mut ends: Vec<_> = words.into_iter().filter_map(|w| self.end(&w, findings)).collect();
        let mut seen = HashSet::new();
        ends.retain(|end| seen.insert(*end));
        ends
    }

    fn end(&self, word: &Word, findings: &mut Findings) -> Option<End> {
        let text = word.text.as_str();
        if matches!(text, "" | "env:") {
            let fault = format!("`{text}` names nobody");
            let help = "name a workload or peer, an environment as in \"env:prod\", or \"any\" for everybody";
            findings.add(Diagnostic::error(Code::BadValue, &word.at, fault).help(help));
            return None;
        }
        if let Some(name) = text.strip_prefix("env:") {
            return self.environment_named(name, &word.at, findings).map(End::Environment);
        }
        if let Some((_, end)) = End::BUILT_IN.iter().find(|(name, _)| *name == text) {
            return Some(*end);
        }
        if let Some((end, _)) = self.ends.get(text) {
            return Some(*end);
        }
        match text.parse::<Cidr>() {
            Ok(cidr) => return Some(End::Cidr(cidr)),
            Err(CidrError::NotAnAddress) if !Cidr::is_meant_by(text) => {}
            Err(e) => {
                findings.add(decode::bad_cidr(word, &e));
                return None;
            }
        }
        let help = if self.environments.contains_key(text) {
            format!("did you mean the environment: `env:{text}`?")
        } else {
            let environments = self.environments.keys().map(|e| format!("env:{e}"));
            let built_in = End::BUILT_IN.iter().map(|(name, _)| Cow::Borrowed(*name));
            let ends = self.ends.keys().map(|name| Cow::Borrowed(name.as_str()));
            findings
                .nearest(text, built_in.chain(environments.map(Cow::Owned)).chain(ends))
                .unwrap_or_else(|| format!("declare it: [workload.{text}] or [peer.{text}]"))
        };
        findings
            .add(Diagnostic::error(Code::UnknownName, &word.at, format!("unknown name `{text}`")).help(help));
        None
    }
}

/// An interface leads to one environment.
fn ambiguous_interfaces(document: &decode::Document, findings: &mut Findings) {
    let mut taken: HashMap<&str, (&str, &Place)> = HashMap::new();
    for environment in &document.environments {
        let name = environment.name.text.as_str();
        for interface in &environment.interfaces {
            let (other, there) = *taken.entry(&interface.text).or_insert((name, &interface.at));
            if other != name {
                let fault =
                    format!("interface `{}` is in two environments: `{other}` and `{name}`", interface.text);
                findings.add(
                    Diagnostic::error(Code::AmbiguousInterface, &interface.at, fault)
                        .related(there, format!("in `{other}` here"))
                        .help("what is behind an interface is in one environment; within it, ranges may be in others: `cidrs`"),
                );
            }
        }
    }
}

fn declare<T>(
    names: &mut BTreeMap<String, (T, Place)>,
    name: &Word,
    what: T,
    kind: &str,
    findings: &mut Findings,
) {
    if let Some((_, first)) = names.get(&name.text) {
        findings.add(Diagnostic::declared_twice(name, first, kind));
        return;
    }
    names.insert(name.text.clone(), (what, name.at.clone()));
}

fn check_name(name: &Word, findings: &mut Findings) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || !name.text.chars().all(good) || name.text.len() > 63 {
        let fault = format!("`{}` cannot be a name", name.text);
        let help = "a name is 1 to 63 letters a-z and A-Z, digits, `-`, `_` and `.`, and begins with a letter or digit";
        findings.add(Diagnostic::error(Code::BadValue, &name.at, fault).help(help));
    }
}

/// A name that rules take for something else can never be meant.
fn check_end_name(name: &Word, findings: &mut Findings) {
    let means = if End::BUILT_IN.iter().any(|(built_in, _)| *built_in == name.text) {
        "is built in"
    } else if !matches!(name.text.parse::<Cidr>(), Err(CidrError::NotAnAddress)) {
        "is an address"
    } else {
        return;
    };
    let fault = format!("`{}` {means} and cannot be a name", name.text);
    findings.add(Diagnostic::error(Code::ReservedName, &name.at, fault).help("choose another name"));
}

/// The ids of rules, written or derived.
#[derive(Default)]
struct RuleIds {
    /// Index of the rule and where its id is written.
    rules: BTreeMap<String, (usize, Place)>,
    /// How many rules each derived id was meant for.
    derived: HashMap<String, usize>,
    count: usize,
}

impl RuleIds {
    /// The id of the next rule.
    fn name(&mut self, rule: &decode::Rule, findings: &mut Findings) -> String {
        let index = self.count;
        self.count += 1;
        let Some(word) = &rule.id else {
            let derived = derived_id(rule);
            // Rules that say the same are told apart by their order.
            let mut id = derived.clone();
            let equals = self.derived.entry(derived.clone()).or_insert(1);
            while self.rules.contains_key(&id) {
                *equals += 1;
                id = format!("{derived}-{equals}");
            }
            self.rules.insert(id.clone(), (index, rule.place.clone()));
            return id;
        };
        check_name(word, findings);
        declare(&mut self.rules, word, index, "rule", findings);
        word.text.clone()
    }

    fn find(&self, id: &Word, findings: &mut Findings) -> Option<usize> {
        let found = self.rules.get(&id.text).map(|(index, _)| *index);
        if found.is_none() {
            let help = findings
                .nearest(&id.text, self.rules.keys().map(String::as_str))
                .unwrap_or_else(|| format!("give the rule that may cross this id: id = \"{}\"", id.text));
            let fault = format!("no rule has the id `{}`", id.text);
            findings.add(Diagnostic::error(Code::UnknownName, &id.at, fault).help(help));
        }
        found
    }
}

/// An id that depends on nothing but what the rule opens, so that it survives edits elsewhere.
fn derived_id(rule: &decode::Rule) -> String {
    let sorted = |words: &[Word]| {
        let mut texts: Vec<_> = words.iter().map(|w| w.text.as_str()).collect();
        texts.sort_unstable();
        texts.join(",")
    };
    let mut ports: Vec<_> = rule.ports.iter().map(Ports::to_string).collect();
    ports.sort_unstable();
    let mut content = String::new();
    let _ = write!(content, "{}>{}:{}", sorted(&rule.from), sorted(&rule.to), ports.join(","));
    // FNV-1a, 64 bit: the id must be the same on every machine and in every version.
    let hash = content
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("allow-{:08x}", hash >> 32 ^ hash & 0xffff_ffff)
}

/// Two workloads must not claim one cgroup with equal right.
fn ambiguous_selectors(policy: &Policy, findings: &mut Findings) {
    /// The most globs that one is compared with. A tie that only the host reveals is refused there as `unidentified`.
    const MOST_RIVALS: usize = 200;
    let mut seen: HashMap<Likeness, Vec<(usize, &Selector, &Place)>> = HashMap::new();
    for (n, workload) in policy.workloads.iter().enumerate() {
        for (selector, at) in &workload.selectors {
            let alike = seen.entry(selector.likeness()).or_default();
            let mut rivals = alike.iter().take(MOST_RIVALS).copied();
            // Of two declarations of one name, that is what is wrong.
            let is_other = |owner: usize| policy.workloads[owner].name != workload.name;
            let rival = rivals.find(|(owner, other, _)| is_other(*owner) && other.ties_with(selector));
            if let Some((owner, other, there)) = rival {
                let owner = &policy.workloads[owner].name;
                let same = if other == selector { "the same" } else { "as specific a" };
                let fault = format!("`{}` has {same} selector as `{owner}`", workload.name);
                findings.add(
                    Diagnostic::error(Code::AmbiguousSelector, at, fault)
                        .label("a cgroup can match both")
                        .related(there, format!("`{owner}` selects it here"))
                        .help("a process is in one workload: make one selector more specific"),
                );
            }
            alike.push((n, selector, at));
        }
    }
}
