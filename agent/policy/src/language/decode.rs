//! TOML to declarations in which names are still words.

use std::collections::BTreeMap;

use super::{Cidr, CidrError, Expectation, Mode, Pattern, Ports, Selector};
use crate::text::{Code, Diagnostic, Findings, Place, Reader, Source, Table, Word, nearest, or_list};

/// Everything that the files declare.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) environments: Vec<Environment>,
    pub(super) workloads: Vec<Workload>,
    pub(super) peers: Vec<Peer>,
    pub(super) rules: Vec<Rule>,
    pub(super) forbids: Vec<Forbid>,
    pub(super) tests: Vec<Test>,
    /// A file has syntax errors, or declares by a misspelt kind: it may declare more than what is here.
    pub(super) unreadable: bool,
}

#[derive(Debug)]
pub(super) struct Environment {
    pub(super) name: Word,
    pub(super) mode: Mode,
    pub(super) interfaces: Vec<Word>,
    pub(super) cidrs: Vec<(Cidr, Place)>,
}

#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: Word,
    pub(super) environment: Option<Word>,
    pub(super) selectors: Vec<(Selector, Place)>,
    pub(super) ingress_open: bool,
    pub(super) egress_open: bool,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: Word,
    pub(super) environment: Option<Word>,
    pub(super) cidrs: Vec<(Cidr, Place)>,
    pub(super) names: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: Option<Word>,
    pub(super) from: Vec<Word>,
    pub(super) to: Vec<Word>,
    pub(super) ports: Vec<Ports>,
    pub(super) expires: Option<jiff::Timestamp>,
    pub(super) reason: Option<String>,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) struct Forbid {
    pub(super) from: Vec<Word>,
    pub(super) to: Vec<Word>,
    pub(super) ports: Vec<Ports>,
    pub(super) except: Vec<Word>,
    pub(super) reason: Option<String>,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) from: Vec<Word>,
    pub(super) to: Vec<Word>,
    pub(super) ports: Vec<Ports>,
    pub(super) expect: Expectation,
    pub(super) place: Place,
}

/// Reads all files.
pub(super) fn decode(sources: &[Source], findings: &mut Findings) -> Document {
    let mut document = Document::default();
    for source in sources {
        let before = findings.syntax_errors();
        Reader::read(source, findings, |reader, root| document.read(reader, root));
        document.unreadable |= findings.syntax_errors() > before;
    }
    document
}

impl Document {
    fn read(&mut self, r: &mut Reader<'_>, root: Table<'_>) {
        let known = ["environment", "workload", "peer", "allow", "forbid", "test"];
        r.known_keys(root, "a policy", &known);
        self.unreadable |= root.has_named_tables_beside(&known);
        for (name, table) in r.named_tables(root, "environment") {
            self.environments.push(environment(r, name, table));
        }
        for (name, table) in r.named_tables(root, "workload") {
            self.workloads.push(workload(r, name, table));
        }
        for (name, table) in r.named_tables(root, "peer") {
            self.peers.push(peer(r, name, table));
        }
        for table in r.tables(root, "allow") {
            self.rules.push(rule(r, table));
        }
        for table in r.tables(root, "forbid") {
            self.forbids.push(forbid(r, table));
        }
        for table in r.tables(root, "test") {
            self.tests.extend(test(r, table));
        }
    }
}

fn environment(r: &mut Reader<'_>, name: Word, table: Table<'_>) -> Environment {
    let what = format!("environment `{}`", name.text);
    r.known_keys(table, &what, &["mode", "interfaces", "cidrs"]);
    let modes = [("enforce", Mode::Enforce), ("audit", Mode::Audit), ("off", Mode::Off)];
    Environment {
        mode: one_of(r, table, "mode", &modes).unwrap_or_default(),
        interfaces: interfaces(r, table),
        cidrs: cidrs(r, table),
        name,
    }
}

fn workload(r: &mut Reader<'_>, name: Word, table: Table<'_>) -> Workload {
    let what = format!("workload `{}`", name.text);
    r.known_keys(table, &what, &["environment", "select", "ingress", "egress"]);
    r.require(table, &what, "select");
    let sides = [("allow", true), ("isolate", false)];
    Workload {
        environment: r.string(table, "environment"),
        selectors: selectors(r, table),
        ingress_open: one_of(r, table, "ingress", &sides).unwrap_or(false),
        egress_open: one_of(r, table, "egress", &sides).unwrap_or(false),
        name,
    }
}

fn peer(r: &mut Reader<'_>, name: Word, table: Table<'_>) -> Peer {
    let what = format!("peer `{}`", name.text);
    r.known_keys(table, &what, &["environment", "cidrs", "names"]);
    let peer = Peer {
        environment: r.string(table, "environment"),
        cidrs: cidrs(r, table),
        names: dns_names(r, table),
        name,
    };
    if !table.has("cidrs") && !table.has("names") {
        let fault = format!("{what} has neither `cidrs` nor `names`");
        r.add(
            Diagnostic::error(Code::MissingKey, &peer.name.at, fault)
                .help("write cidrs = [\"192.0.2.0/24\"]"),
        );
    }
    peer
}

fn rule(r: &mut Reader<'_>, table: Table<'_>) -> Rule {
    r.known_keys(table, "a rule", &["id", "from", "to", "ports", "expires", "reason"]);
    Rule {
        id: r.string(table, "id"),
        from: ends(r, table, "a rule", "from"),
        to: ends(r, table, "a rule", "to"),
        ports: ports(r, table, "ports"),
        expires: r.time(table, "expires").map(|(time, _)| time),
        reason: r.string(table, "reason").map(|w| w.text),
        place: r.at(table),
    }
}

fn forbid(r: &mut Reader<'_>, table: Table<'_>) -> Forbid {
    r.known_keys(table, "a forbid", &["from", "to", "ports", "except", "reason"]);
    Forbid {
        from: ends(r, table, "a forbid", "from"),
        to: ends(r, table, "a forbid", "to"),
        ports: ports(r, table, "ports"),
        except: r.strings(table, "except").unwrap_or_default(),
        reason: r.string(table, "reason").map(|w| w.text),
        place: r.at(table),
    }
}

fn test(r: &mut Reader<'_>, table: Table<'_>) -> Option<Test> {
    r.known_keys(table, "a test", &["name", "from", "to", "port", "expect"]);
    for key in ["name", "port", "expect"] {
        r.require(table, "a test", key);
    }
    let place = r.at(table);
    let name = r.string(table, "name");
    let (from, to) = (ends(r, table, "a test", "from"), ends(r, table, "a test", "to"));
    let ports = ports(r, table, "port");
    let expect = one_of(r, table, "expect", &[("allow", Expectation::Allow), ("deny", Expectation::Deny)]);
    Some(Test { name: name?.text, from, to, ports, expect: expect?, place })
}

/// The value at `key`, one of `values` by its name.
fn one_of<T: Copy>(r: &mut Reader<'_>, table: Table<'_>, key: &str, values: &[(&str, T)]) -> Option<T> {
    let word = r.string(table, key)?;
    let found = values.iter().find(|(name, _)| *name == word.text);
    if found.is_none() {
        let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
        let fault = format!("unknown {key} `{}`", word.text);
        let help = nearest(&word.text, names.iter().copied())
            .unwrap_or_else(|| format!("write {}", or_list(&names)));
        r.add(Diagnostic::error(Code::BadValue, &word.at, fault).help(help));
    }
    found.map(|(_, value)| *value)
}

fn interfaces(r: &mut Reader<'_>, table: Table<'_>) -> Vec<Word> {
    // dev_valid_name() in net/core/dev.c.
    let good = |name: &str| {
        (1..16).contains(&name.len())
            && ![".", ".."].contains(&name)
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
    };
    let mut found = r.strings(table, "interfaces").unwrap_or_default();
    found.retain(|word| {
        if !good(&word.text) {
            let fault = format!("`{}` is no name of an interface", word.text);
            let help = "a name such as \"eth0\" or \"br-iot\": at most 15 bytes without blanks, `/` and `:`";
            r.add(Diagnostic::error(Code::BadValue, &word.at, fault).help(help));
        }
        good(&word.text)
    });
    found
}

/// The ends at `key`, which must be there and name someone.
fn ends(r: &mut Reader<'_>, table: Table<'_>, what: &str, key: &str) -> Vec<Word> {
    r.require(table, what, key);
    let ends = r.strings(table, key);
    if ends.as_ref().is_some_and(Vec::is_empty) && table.is_empty_list(key) {
        let at = r.at_value(table, key);
        r.add(
            Diagnostic::error(Code::BadValue, &at, format!("`{key}` names nobody"))
                .help("write \"any\" for everybody"),
        );
    }
    ends.unwrap_or_default()
}

fn ports(r: &mut Reader<'_>, table: Table<'_>, key: &str) -> Vec<Ports> {
    if table.is_empty_list(key) {
        let at = r.at_value(table, key);
        let help = format!("leave `{key}` out to mean every protocol and port");
        r.add(Diagnostic::error(Code::BadPort, &at, format!("`{key}` names no port")).help(help));
    }
    let mut found = Vec::new();
    for word in r.strings(table, key).unwrap_or_default() {
        match word.text.parse() {
            Ok(ports) => found.push(ports),
            Err(e) => {
                let e: super::PortsError = e;
                r.add(Diagnostic::error(Code::BadPort, &word.at, e.message).help(e.help));
            }
        }
    }
    found
}

fn cidrs(r: &mut Reader<'_>, table: Table<'_>) -> Vec<(Cidr, Place)> {
    let mut found = Vec::new();
    for word in r.strings(table, "cidrs").unwrap_or_default() {
        match word.text.parse() {
            Ok(cidr) => found.push((cidr, word.at)),
            Err(e) => r.add(bad_cidr(&word, &e)),
        }
    }
    found
}

/// What is wrong with an address range.
pub(super) fn bad_cidr(word: &Word, error: &CidrError) -> Diagnostic {
    let text = &word.text;
    let (fault, help) = match error {
        CidrError::NotAnAddress => (
            format!("`{text}` is no address range"),
            Some("write \"192.0.2.0/24\" or \"2001:db8::/32\"".into()),
        ),
        CidrError::TooLong(longest) => {
            (format!("the prefix of `{text}` is longer than an address"), Some(format!("at most /{longest}")))
        }
        CidrError::HostBits(meant) => {
            (format!("`{text}` has bits set after its prefix"), Some(format!("did you mean `{meant}`?")))
        }
        CidrError::Mapped(v4) => {
            let help =
                v4.map_or_else(|| "write IPv4 addresses as such".into(), |c| format!("did you mean `{c}`?"));
            (format!("`{text}` stands for IPv4 addresses"), Some(help))
        }
    };
    Diagnostic::error(Code::BadCidr, &word.at, fault).maybe_help(help)
}

fn dns_names(r: &mut Reader<'_>, table: Table<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for word in r.strings(table, "names").unwrap_or_default() {
        let name = word.text.trim_end_matches('.').to_ascii_lowercase();
        let rest = name.strip_prefix("*.").unwrap_or(&name);
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        // No top-level domain is a number: it would be read as an address.
        let is_address = rest.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
        if name.len() <= 253 && rest.split('.').all(label) && !is_address {
            found.push(name);
            continue;
        }
        let help = if rest.contains('*') {
            "`*` may only be the whole first label, as in \"*.example.org\""
        } else {
            "write a name such as \"updates.example.org\"; addresses belong in `cidrs`"
        };
        let fault = format!("`{}` is no DNS name", word.text);
        r.add(Diagnostic::error(Code::BadValue, &word.at, fault).help(help));
    }
    found
}

/// What to write instead of a selector of nothing.
const SELECTOR: &str = "write select = { systemd = \"nginx.service\" }";

fn selectors(r: &mut Reader<'_>, workload: Table<'_>) -> Vec<(Selector, Place)> {
    let mut found = Vec::new();
    if workload.is_empty_list("select") {
        let at = r.at_value(workload, "select");
        r.add(Diagnostic::error(Code::BadSelector, &at, "this selects nothing").help(SELECTOR));
    }
    for table in r.table_or_tables(workload, "select") {
        let kinds = ["systemd", "cgroup", "container", "kubernetes"];
        r.known_keys(table, "a selector", &kinds);
        let at = r.at(table);
        let given: Vec<_> = kinds.into_iter().filter(|k| table.has(k)).collect();
        match given[..] {
            ["systemd"] => found.extend(words(r, table, "systemd", Selector::systemd)),
            ["cgroup"] => found.extend(words(r, table, "cgroup", Selector::cgroup)),
            ["container"] => found.extend(container(r, table).map(|s| (s, at))),
            ["kubernetes"] => found.extend(kubernetes(r, table).map(|s| (s, at))),
            [] => r.add(Diagnostic::error(Code::BadSelector, &at, "this selects nothing").help(SELECTOR)),
            [..] => r.add(
                Diagnostic::error(
                    Code::BadSelector,
                    &at,
                    format!("a selector is of one kind, not of {}", given.join(" and ")),
                )
                .help("to select by either, write a list: select = [{ … }, { … }]"),
            ),
        }
    }
    found
}

/// Linux's PATH_MAX.
const LONGEST_PATH: usize = 4_096;

type Parsed = Result<Selector, (String, Option<String>)>;

fn words(
    r: &mut Reader<'_>,
    table: Table<'_>,
    key: &str,
    parse: fn(&str) -> Parsed,
) -> Vec<(Selector, Place)> {
    let mut found = Vec::new();
    if table.is_empty_list(key) {
        let at = r.at_value(table, key);
        r.add(Diagnostic::error(Code::BadSelector, &at, "this selects nothing").help(SELECTOR));
    }
    for word in r.strings(table, key).unwrap_or_default() {
        if word.text.len() > LONGEST_PATH {
            let fault = format!("longer than a path can be: {} bytes of {LONGEST_PATH}", word.text.len());
            r.add(Diagnostic::error(Code::BadSelector, &word.at, fault));
            continue;
        }
        match parse(&word.text) {
            Ok(selector) => found.push((selector, word.at)),
            Err((fault, help)) => {
                r.add(Diagnostic::error(Code::BadSelector, &word.at, fault).maybe_help(help));
            }
        }
    }
    found
}

fn container(r: &mut Reader<'_>, table: Table<'_>) -> Option<Selector> {
    let facts = r.table(table, "container")?;
    r.known_keys(facts, "a container selector", &["name", "image", "labels"]);
    let [name, image] = ["name", "image"].map(|key| r.string(facts, key));
    name.iter().chain(&image).for_each(|word| not_empty(r, word));
    let [name, image] = [name, image].map(|word| word.map(|w| Pattern::new(&w.text)));
    let labels = labels(r, facts);
    if name.is_none() && image.is_none() && labels.is_empty() {
        let at = r.at(facts);
        r.add(
            Diagnostic::error(Code::BadSelector, &at, "this container selector names nothing")
                .help("write container = { name = \"*\" } for every container"),
        );
    }
    Some(Selector::Container { name, image, labels })
}

fn kubernetes(r: &mut Reader<'_>, table: Table<'_>) -> Option<Selector> {
    let facts = r.table(table, "kubernetes")?;
    r.known_keys(facts, "a kubernetes selector", &["namespace", "labels"]);
    let namespace = r.required(facts, "a kubernetes selector", "namespace")?;
    not_empty(r, &namespace);
    Some(Selector::Kubernetes { namespace: Pattern::new(&namespace.text), labels: labels(r, facts) })
}

fn labels(r: &mut Reader<'_>, table: Table<'_>) -> BTreeMap<String, Pattern> {
    let Some(labels) = r.table(table, "labels") else { return BTreeMap::new() };
    let labels = r.strings_by_key(labels);
    for (key, _) in &labels {
        not_empty(r, key);
    }
    labels.into_iter().map(|(key, value)| (key.text, Pattern::new(&value.text))).collect()
}

/// Nothing has an empty name. The value of a label may be empty.
fn not_empty(r: &mut Reader<'_>, word: &Word) {
    if word.text.is_empty() {
        r.add(
            Diagnostic::error(Code::BadSelector, &word.at, "this selects nothing")
                .help("write a name, in which `*` may stand, or leave the key out"),
        );
    }
}
