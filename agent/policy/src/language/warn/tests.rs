//! Policies that say what is hardly meant, and whether their authors are told.

use super::unnamed_resolvers;
use crate::{
    language::WorkloadId,
    testing::{findings, policy},
};

const DECLARED: &str = r#"
[environment.prod]
[environment.v4]
cidrs = ["10.60.0.0/16"]
[environment.nothing]
[environment.lan]
interfaces = ["br0"]
[workload.a]
environment = "prod"
select = { systemd = "a.service" }
[workload.b]
environment = "prod"
select = { systemd = "b.service" }
[peer.mirrors]
names = ["updates.example.org"]
[peer.both-ways]
names = ["updates.example.org"]
cidrs = ["192.0.2.1"]
[peer.nobody]
cidrs = []
[peer.four]
cidrs = ["192.0.2.0/24"]
[peer.both]
cidrs = ["192.0.2.0/24", "2001:db8::/32"]
"#;

/// Rules as `FROM -> TO PORTS`, lists written with commas.
fn rules(text: &str) -> String {
    let list = |words: &str| {
        format!("[{}]", words.split(',').map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", "))
    };
    let rules = text.split(';').enumerate().map(|(n, rule)| {
        let (from, rest) = rule.trim().split_once(" -> ").unwrap();
        let (to, ports) = rest
            .split_once(' ')
            .map_or((rest, String::new()), |(to, ports)| (to, format!("ports = {}\n", list(ports))));
        format!("[[allow]]\nid = \"r{n}\"\nfrom = {}\nto = {}\n{ports}", list(from), list(to))
    });
    DECLARED.to_owned() + &rules.collect::<String>()
}

/// What is said of these rules with this in it.
fn said(text: &str, about: &str) -> Vec<String> {
    findings(&rules(text)).lines().filter(|line| line.contains(about)).map(str::to_owned).collect()
}

#[track_caller]
fn is_warned_of(text: &str, about: &str, warned: bool) {
    let said = said(text, about);
    assert_eq!(!said.is_empty(), warned, "{text}: {said:?} of {}", findings(&rules(text)));
}

#[test]
fn a_rule_that_opens_nothing_is_found_whyever_it_does() {
    for (text, why) in [
        ("a -> nobody", "`nobody` has no address"),
        ("nobody -> a", "`nobody` has no address"),
        ("a -> env:nothing", "nobody is in `nothing`"),
        ("a -> nobody,env:nothing", "`nobody` has no address"),
        ("a -> a", "`a` may always reach itself"),
        ("a -> a tcp/80", "`a` may always reach itself"),
        ("a -> 10.0.0.0/8 icmpv6", "only IPv4 is at one end"),
        ("four -> a icmpv6/128", "only IPv4 is at one end"),
        ("a -> env:v4 icmpv6", "only IPv4 is at one end"),
        ("a -> fd00::/8 icmp/8", "only IPv6 is at one end"),
    ] {
        let found = said(text, "opens nothing");
        assert!(found.len() == 1 && found[0].contains(why), "{text}: {found:?}");
    }
    for text in [
        "a -> nobody,b",
        "a -> env:nothing,four",
        "a -> a,b",
        "a,b -> a",
        "a -> env:prod",
        "a -> env:v4 icmpv6,tcp/80",
        "a -> 10.0.0.0/8 icmp",
        "a -> both icmpv6",
        "a -> mirrors icmpv6",
        "a -> env:lan icmpv6",
        "a -> b icmp/8",
        "a -> 10.0.0.0/8,fd00::1 icmpv6",
        "a -> internet icmpv6",
    ] {
        is_warned_of(text, "opens nothing", false);
    }
}

#[test]
fn a_rule_within_wider_ranges_is_superfluous_at_either_end() {
    for (text, shadowed) in [
        ("10.0.0.0/8 -> a; 10.1.0.0/16 -> a", true),
        ("10.1.0.0/16 -> a; 10.0.0.0/8 -> a", true),
        ("a -> 10.0.0.0/8; a -> 10.1.0.0/16", true),
        ("192.0.0.0/8 -> a; four -> a", true),
        ("four -> a; 192.0.2.7 -> a", true),
        ("both -> a; four -> a", true),
        ("0.0.0.0/0 -> a; 10.1.0.0/16,10.2.0.0/16 -> a", true),
        ("::/0 -> a; 10.1.0.0/16 -> a", false),
        ("10.0.0.0/8 -> a tcp/80; 10.1.0.0/16 -> a tcp/81", false),
        ("10.1.0.0/16 -> a; 10.2.0.0/16 -> a", false),
    ] {
        is_warned_of(text, "does not open", shadowed);
    }
}

#[test]
fn a_resolver_that_is_a_workload_must_be_named() {
    for (text, warned) in [
        ("a -> dns udp/53; 10.0.0.0/8 -> b udp/53", true),
        ("a -> dns udp/53,tcp/53; env:lan -> b udp/53,tcp/53", true),
        ("a -> dns udp/53; 10.0.0.0/8 -> b udp/53; a -> b tcp/53", true),
        ("a -> dns udp/53; 10.0.0.0/8 -> b udp/53; any -> b tcp/53", true),
        ("a -> dns udp/53; any -> b udp/53", true),
        ("env:prod -> dns udp/53; 10.0.0.0/8 -> b udp/53", true),
        ("a -> dns udp/53; a -> any udp/53; 10.0.0.0/8 -> b udp/53", true),
        ("a -> dns udp/53; a -> any udp/53; any -> b udp/53", false),
        ("a -> dns,b udp/53", false),
        ("a -> dns udp/53; a,10.0.0.0/8 -> b udp/53", false),
        ("a -> dns udp/53; env:prod -> b udp/53", false),
        ("b -> dns udp/53; 10.0.0.0/8 -> b udp/53", false),
        ("a -> dns tcp/443; 10.0.0.0/8 -> b udp/53", false),
        ("a -> dns udp/53; 10.0.0.0/8 -> b", false),
        ("a -> dns udp/53", false),
    ] {
        let policy = policy(&rules(text));
        let found = |is_here: &dyn Fn(WorkloadId) -> bool| unnamed_resolvers(&policy, is_here).iter().count();
        assert_eq!(found(&|_| true) > 0, warned, "{text}");
        assert_eq!(found(&|w| policy.workloads[w.0].name != "b"), 0, "{text}: the resolver is elsewhere");
        assert_eq!(found(&|w| policy.workloads[w.0].name == "b"), 0, "{text}: who asks is elsewhere");
    }
}

#[test]
fn a_name_is_of_no_use_to_who_asks_no_resolver() {
    let to_mirrors = "a -> mirrors tcp/443";
    for (rule, mute) in [
        ("a -> b", true),
        ("a -> four tcp/53", true),
        ("a -> mirrors", true),
        ("b -> dns udp/53", true),
        ("a -> dns tcp/443", true),
        ("a -> 10.0.0.7", true),
        ("a -> dns,mirrors udp/53,tcp/443", false),
        ("a -> dns,mirrors", false),
        ("a -> dns", false),
        ("a -> any", false),
        ("a -> host udp/53", false),
        ("a -> host", false),
        ("a -> private", false),
        ("a -> b udp/53", false),
        ("a -> four udp/1-100", false),
        ("a -> 10.0.0.0/8", false),
        ("a -> 10.0.0.7 udp/53", false),
        ("env:prod -> dns udp/53", false),
    ] {
        is_warned_of(&format!("{to_mirrors}; {rule}"), "may not ask a resolver", mute);
    }
    is_warned_of("a -> dns,mirrors", "may not ask a resolver", false);
    is_warned_of("a -> dns,mirrors tcp/443", "may not ask a resolver", true);
}

#[test]
fn what_no_agent_follows_yet_is_said_once_for_each_kind() {
    let selected = |name, by| format!("[workload.{name}]\nselect = {{ {by} = {{ NAME = \"{name}\" }} }}\n");
    let pods = selected("p", "kubernetes").replace("NAME", "namespace");
    let containers = selected("c", "container").replace("NAME", "name")
        + &selected("d", "container").replace("NAME", "name");
    let found = |text: &str| -> Vec<_> {
        let found = findings(text);
        found.lines().filter(|line| line.contains("yet")).map(str::to_owned).collect()
    };
    let all = found(&format!("{DECLARED}{pods}{containers}"));
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all[0].starts_with("p:6:14: no agent watches the interfaces of `lan` yet"), "{all:?}");
    assert!(all[1].starts_with("p:14:7: no agent resolves the DNS names of `mirrors` yet"), "{all:?}");
    assert!(all[2].contains("pod selectors of `p`, `c` and `d` yet"), "{all:?}");
    assert_eq!(
        found("[workload.a]\nselect = { cgroup = \"/a\" }\n[peer.p]\ncidrs = [\"10.0.0.1\"]\n"),
        Vec::<String>::new()
    );
}
