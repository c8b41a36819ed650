//! Compiled tables asked through the verdict function.

use bulkhead_common::{Direction, Flow, Peer, PeerEntry, Protocol, SubjectId, Verdict, decide};

use super::{Compiled, Compiler, Edits, compile};
use crate::{
    Inventory, Policy,
    testing::{ip, policy},
};

const SHOP: &str = r#"
    [environment.prod]
    cidrs = ["10.20.0.0/16"]
    [environment.dev]
    mode = "audit"
    [workload.web]
    environment = "prod"
    select = { systemd = "web.service" }
    [workload.db]
    environment = "prod"
    select = { systemd = "db.service" }
    [workload.ci]
    environment = "dev"
    select = { systemd = "ci.service" }
    egress = "allow"
    [peer.registry]
    cidrs = ["10.30.0.0/24"]
    [[allow]]
    id = "web-db"
    from = "web"
    to = ["db", "registry"]
    ports = ["tcp/5432", "udp/8000-8100"]
    [[allow]]
    from = "web"
    to = "127.0.0.1"
    [[allow]]
    from = "any"
    to = "web"
    ports = ["tcp/443"]
    [[allow]]
    from = "db"
    to = "::/0"
    [[allow]]
    from = "db"
    to = "env:prod"
    ports = ["icmp"]
"#;

/// Who is at the other end: a workload by name, or an address.
fn peer(policy: &Policy, compiled: &Compiled, name: &str) -> Peer {
    if let Some(w) = policy.workload(name) {
        let end = compiled.endpoints[w.0];
        return Peer { subject: end.subject, class: end.peer };
    }
    let entry = compiled.peer(ip(name).into());
    Peer { subject: entry.subject, class: entry.class }
}

#[track_caller]
fn verdict(
    text: &str,
    inventory: &Inventory,
    at: &str,
    direction: Direction,
    other: &str,
    port: (u8, u16),
) -> Verdict {
    let policy = policy(text);
    let compiled = compile(&policy, inventory);
    let local = compiled.endpoints[policy.workload(at).unwrap().0];
    let peer = peer(&policy, &compiled, other);
    decide(&compiled.at(0), &local, &Flow { direction, protocol: Protocol(port.0), port: port.1, peer })
        .verdict
}

use Direction::{Egress, Ingress};
use Verdict::{Allowed, Denied, WouldDeny};

#[test]
fn a_rule_opens_both_ends_and_only_those() {
    for (at, direction, other, port, expected) in [
        ("web", Egress, "db", (6, 5432), Allowed),
        ("db", Ingress, "web", (6, 5432), Allowed),
        ("web", Egress, "db", (6, 5433), Denied),
        ("web", Egress, "db", (17, 8077), Allowed),
        ("web", Egress, "db", (17, 8101), Denied),
        ("web", Egress, "10.30.0.9", (6, 5432), Allowed),
        ("web", Egress, "10.30.1.9", (6, 5432), Denied),
        ("web", Egress, "127.0.0.1", (6, 5433), Allowed),
        ("db", Ingress, "127.0.0.1", (6, 5432), Denied),
        ("web", Ingress, "192.0.2.1", (6, 443), Allowed),
        ("web", Ingress, "ci", (6, 443), Allowed),
        ("db", Egress, "web", (6, 443), Denied),
        ("ci", Egress, "db", (6, 5432), Allowed),
        ("db", Ingress, "ci", (6, 5432), Denied),
        ("ci", Ingress, "db", (6, 5432), WouldDeny),
        ("db", Egress, "web", (1, 0x800), Allowed),
        ("web", Ingress, "db", (58, 0x8000), Allowed),
        ("db", Egress, "10.20.3.4", (1, 0x800), Allowed),
    ] {
        let found = verdict(SHOP, &Inventory::default(), at, direction, other, port);
        assert_eq!(found, expected, "{at} {direction:?} {other} {port:?}");
    }
}

#[test]
fn no_ipv6_range_holds_an_ipv4_address() {
    let at = |address| verdict(SHOP, &Inventory::default(), "db", Egress, address, (6, 80));
    assert_eq!(at("2001:db8::1"), Allowed);
    assert_eq!(at("192.0.2.1"), Denied);
    assert_eq!(at("::ffff:192.0.2.1"), Denied);
}

#[test]
fn an_address_of_its_own_identifies_a_workload() {
    let p = policy(SHOP);
    let mut inventory = Inventory::default();
    inventory.addresses.insert(ip("10.88.0.2"), p.workload("db"));
    inventory.addresses.insert(ip("10.88.0.3"), None);
    let at = |other| verdict(SHOP, &inventory, "web", Egress, other, (6, 5432));
    assert_eq!(at("10.88.0.2"), Allowed);
    assert_eq!(at("10.88.0.3"), Denied);
    let compiled = compile(&p, &inventory);
    assert_eq!(compiled.peer(ip("10.88.0.2").into()).subject, SubjectId(2));
    assert_eq!(compiled.peer(ip("10.88.0.3").into()).subject, SubjectId::NONE);
}

#[test]
fn this_machines_addresses_are_marked_and_are_host() {
    let text = "[workload.a]\nselect = { systemd = \"a.service\" }\n[[allow]]\nfrom = \"a\"\nto = \"host\"";
    let mut inventory =
        Inventory { local: [ip("192.0.2.1"), ip("10.88.0.2")].into(), ..Inventory::default() };
    inventory.addresses.insert(ip("10.88.0.2"), None);
    let compiled = compile(&policy(text), &inventory);
    let local = |a: &str| compiled.peer(ip(a).into()).flags & PeerEntry::LOCAL != 0;
    assert!(["127.9.9.9", "::1", "0.0.0.0", "::", "192.0.2.1", "10.88.0.2"].into_iter().all(local));
    assert!(!local("192.0.2.2"));
    let at = |other| verdict(text, &inventory, "a", Egress, other, (6, 80));
    assert_eq!((at("127.0.0.1"), at("::1"), at("192.0.2.1")), (Allowed, Allowed, Allowed));
    assert_eq!((at("192.0.2.2"), at("10.88.0.2")), (Denied, Denied));
}

#[test]
fn the_internet_is_what_is_not_private() {
    let text =
        "[workload.a]\nselect = { systemd = \"a.service\" }\n[[allow]]\nfrom = \"a\"\nto = \"internet\"";
    let at = |other| verdict(text, &Inventory::default(), "a", Egress, other, (6, 80));
    for public in ["192.0.2.1", "9.9.9.9", "2001:4860:4860::8888"] {
        assert_eq!(at(public), Allowed, "{public}");
    }
    for other in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "224.0.0.1", "fd00::1", "fe80::1", "::1"] {
        assert_eq!(at(other), Denied, "{other}");
    }
}

#[test]
fn of_nested_ranges_the_narrower_gives_the_environment() {
    let text = "[environment.lan]\ncidrs = [\"10.0.0.0/8\"]\n[environment.iot]\ncidrs = [\"10.40.0.0/16\"]\n\
                [workload.a]\nselect = { systemd = \"a.service\" }\n[[allow]]\nfrom = \"env:lan\"\nto = \"a\"";
    let at = |other| verdict(text, &Inventory::default(), "a", Ingress, other, (6, 80));
    assert_eq!((at("10.1.0.1"), at("10.40.0.1")), (Allowed, Denied));
}

#[test]
fn an_allowlist_names_an_expiry_only_where_it_is_the_last_word() {
    let text = "[workload.a]\nselect = { systemd = \"a.service\" }\n\
                [[allow]]\nfrom = \"a\"\nto = \"any\"\nports = [\"tcp/443\"]\nexpires = 2026-01-01T00:00:00Z\n\
                [[allow]]\nfrom = \"a\"\nto = \"any\"\nports = [\"tcp/*\"]\nexpires = 2027-01-01T00:00:00Z";
    let compiled = compile(&policy(text), &Inventory::default());
    let rules: Vec<_> = compiled.policy.iter().map(|(len, _, value)| (*len, value.rule.0)).collect();
    assert_eq!(rules, [(80, 1)], "the wider entry lasts longer and says it all");
}

#[test]
fn peers_that_no_rule_tells_apart_share_a_class() {
    let p = policy(SHOP);
    let compiled = compile(&p, &Inventory::default());
    let class = |a: &str| compiled.peer(ip(a).into()).class;
    assert_eq!(class("10.30.0.1"), class("10.30.0.200"));
    assert_ne!(class("10.30.0.1"), class("10.20.0.1"));
    let tables = |c: &Compiled| (c.peers.clone(), c.policy.clone());
    assert_eq!(tables(&compiled), tables(&compile(&p, &Inventory::default())));
}

#[test]
fn a_new_address_of_a_workload_edits_what_it_touches() {
    let p = policy(SHOP);
    let mut compiler = Compiler::new(&p, Inventory::default());
    let mut inventory = Inventory::default();
    let mut edits = |ip: &str, owner: Option<&str>| {
        match owner {
            Some(name) => inventory.addresses.insert(self::ip(ip), p.workload(name)),
            None => inventory.addresses.remove(&self::ip(ip)),
        };
        let Edits { policy_puts, peers, policy_removes } = compiler.follow(inventory.clone());
        (policy_puts.len(), peers.len(), policy_removes.len())
    };
    // In the registry's range and of a workload: a class of its own. web's allowlist names it on five prefixes; for ICMP
    // and ICMPv6 db's does on the way out, and those of web and db on the way in.
    assert_eq!(edits("10.30.0.5", Some("db")), (11, 1, 0));
    assert_eq!(edits("10.30.0.6", Some("db")), (0, 1, 0), "one more of the same class");
    assert_eq!(edits("10.88.0.2", Some("db")), (0, 1, 0), "the class of db by its socket");
    assert_eq!(edits("10.88.0.2", Some("db")), (0, 0, 0), "known already");
    assert_eq!(edits("10.30.0.5", None), (0, 1, 0));
    assert_eq!(edits("10.30.0.6", Some("ci")), (0, 1, 11), "no rule tells ci from the range around it");
    assert_eq!(edits("10.30.0.6", None), (0, 1, 0));
}

#[test]
fn an_ipv4_address_in_ipv6_clothes_is_the_same_address() {
    let p = policy(SHOP);
    let owned = |ips: &[(&str, &str)]| {
        let addresses = ips.iter().map(|(address, owner)| (ip(address), p.workload(owner))).collect();
        Compiler::new(&p, Inventory { addresses, ..Inventory::default() }).compiled()
    };
    let subject = |compiled: &Compiled| compiled.peer(ip("10.88.0.2").into()).subject;
    assert_eq!(subject(&owned(&[("::ffff:10.88.0.2", "db")])), SubjectId(2));
    let contested = owned(&[("10.88.0.2", "db"), ("::ffff:10.88.0.2", "web")]);
    assert_eq!(subject(&contested), SubjectId::NONE, "claimed by two");
}
