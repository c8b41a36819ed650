use super::*;
use crate::testing::policy;

const ENDS: &str = "[workload.a]\nselect = { systemd = \"a.service\" }\n\
                    [workload.b]\nselect = { systemd = \"b.service\" }\n";

fn allow(from: &str, to: impl fmt::Debug, more: &str) -> String {
    format!("[[allow]]\nfrom = {from:?}\nto = {to:?}\n{more}\n")
}

fn between(old: &str, new: &str) -> String {
    let [old, new] = [old, new].map(|rules| policy(&format!("{ENDS}{rules}")));
    diff(&old, &new, &Inventory::default(), 1_800_000_000_000_000_000).to_string()
}

#[test]
fn access_is_compared_and_not_text() {
    let range = allow("a", "b", "ports = [\"tcp/8000-8003\"]");
    let split = allow("a", "b", "ports = [\"tcp/8002-8003\", \"tcp/8000\"]")
        + &allow("a", "b", "ports = [\"tcp/8001\"]");
    assert_eq!(between(&range, &split), "");
    assert_eq!(
        between(
            &allow("a", "10.0.0.0/8", ""),
            &(allow("a", "10.0.0.0/9", "") + &allow("a", "10.128.0.0/9", ""))
        ),
        ""
    );
}

#[test]
fn what_is_added_and_removed_is_named() {
    let one = allow("a", "b", "ports = [\"tcp/80\"]");
    let two = allow("a", "b", "ports = [\"tcp/80\", \"udp/53-54\"]");
    assert_eq!(between(&one, &two), "+ a -> b: udp/53-54\n");
    assert_eq!(between(&two, &one), "- a -> b: udp/53-54\n");
    assert_eq!(
        between("", &allow("a", "192.0.2.0/24", "")),
        "+ a -> 192.0.2.0/24: every protocol and port\n"
    );
    assert_eq!(between("", &allow("10.0.0.7", "b", "ports = [\"gre\"]")), "+ 10.0.0.7 -> b: gre\n");
    let [closed, open] = ["isolate", "allow"].map(|side| {
        let ends = ENDS.replace("b.service\" }", &format!("b.service\" }}\negress = {side:?}"));
        policy(&format!("{ends}{}", allow("b", "10.0.0.7", "")))
    });
    let opened = diff(&closed, &open, &Inventory::default(), 0).to_string();
    assert_eq!(opened, "+ b -> everybody else: every protocol and port\n");
}

#[test]
fn loopback_is_not_all_of_this_machine() {
    let loopback = "[[allow]]\nfrom = \"a\"\nto = [\"127.0.0.0/8\", \"::1\"]\n";
    assert_eq!(between(loopback, &allow("a", "host", "")), "+ a -> host: every protocol and port\n");
}

#[test]
fn an_end_that_stays_closed_is_no_access() {
    assert_eq!(
        between("", &allow("any", "b", "ports = [\"tcp/80\"]"))
            .lines()
            .filter(|l| l.contains("a -> b"))
            .count(),
        0
    );
}

#[test]
fn whom_only_a_host_knows_is_named() {
    let mirrors = "[peer.mirrors]\nnames = [\"deb.example.org\", \"*.cdn.example.org\"]\n";
    let ports = "ports = [\"udp/53\"]";
    let old = format!("{mirrors}{}", allow("a", "192.0.2.1", ""));
    let new = |to| format!("{old}{}", allow("a", to, ports));
    assert_eq!(between(&old, &new("dns")), "+ a -> dns: udp/53\n");
    assert_eq!(between(&old, &new("mirrors")), "+ a -> *.cdn.example.org, deb.example.org: udp/53\n");
    assert_eq!(between(&new("mirrors"), &old), "- a -> *.cdn.example.org, deb.example.org: udp/53\n");
    assert_eq!(between(&new("mirrors"), &new("mirrors")), "");
    assert_eq!(between("", &allow("a", "0.0.0.0/0", ports)), "+ a -> 0.0.0.0/0: udp/53\n");
}

#[test]
fn times_matter_as_long_as_they_are_not_over() {
    let until = |time| allow("a", "b", &format!("ports = [\"tcp/80\"]\nexpires = {time}"));
    assert_eq!(between("", &until("2026-01-01T00:00:00Z")), "");
    assert_eq!(
        between(&until("2030-01-01T00:00:00Z"), &until("2031-01-01T00:00:00Z")),
        "~ a -> b: tcp/80, until another time\n"
    );
}

#[test]
fn workloads_that_change_are_told() {
    let other = policy(&format!("{}{}", ENDS.replace("b.service", "c.service"), allow("a", "b", "")));
    let old = policy(&format!("{ENDS}{}", allow("a", "b", "")));
    let found = diff(&old, &other, &Inventory::default(), 0);
    assert_eq!(found.to_string(), "~ workload b is systemd c.service instead of systemd b.service\n");
}

#[test]
fn workloads_that_fare_alike_are_told_of_together() {
    let ends = |rules: &str| {
        let twin = |n: usize| {
            format!("[workload.w{n}]\nenvironment = \"prod\"\nselect = {{ systemd = \"w{n}.service\" }}\n")
        };
        policy(&format!("{ENDS}[environment.prod]\n{}{rules}", (0..3).map(twin).collect::<String>()))
    };
    let changes = |old: &str, new: &str| diff(&ends(old), &ends(new), &Inventory::default(), 0).to_string();
    let tcp = "ports = [\"tcp/80\"]";
    assert_eq!(changes("", &allow("a", "env:prod", tcp)), "+ a -> w0, w1, w2: tcp/80\n");
    assert_eq!(changes("", &allow("env:prod", "env:prod", tcp)), "+ w0, w1, w2 -> w0, w1, w2: tcp/80\n");
    assert_eq!(changes(&allow("a", "env:prod", tcp), &allow("a", ["w0", "w2"], tcp)), "- a -> w1: tcp/80\n");
}

#[test]
fn a_name_below_a_wildcard_is_no_new_access() {
    let peer = |names: &str| format!("[peer.mirrors]\nnames = [{names}]\n{}", allow("a", "mirrors", ""));
    let (wide, both) = ("\"*.cdn.example.org\"", "\"*.cdn.example.org\", \"x.cdn.example.org\"");
    assert_eq!(between(&peer(wide), &peer(both)), "");
    assert_eq!(
        between(&peer(both), &peer("\"x.cdn.example.org\"")),
        "- a -> *.cdn.example.org: every protocol and port\n"
    );
}

#[test]
fn addresses_of_the_host_lead_to_no_workload() {
    let old = allow("a", "host", "ports = [\"tcp/5432\"]");
    let new = old.clone() + &allow("host", "b", "ports = [\"tcp/5432\"]");
    let lines = between(&old, &new);
    assert!(lines.contains("host") && !lines.contains("a -> b"), "{lines}");
}

#[test]
fn what_needs_no_rule_is_no_access() {
    let ports = "ports = [\"icmp/3.4\", \"icmpv6/2\"]";
    assert_eq!(between("", &allow("10.0.0.0/8", "b", ports)), "");
    assert_eq!(between(&allow("a", "any", ""), &(allow("a", "any", "") + &allow("any", "b", ports))), "");
    assert_eq!(between("", &allow("a", "b", ports)), "+ a -> b: icmp/3.4, icmpv6/2\n");
}

/// What is said of the workloads when `more` is added to `rules` of 40 workloads, of which no two fare alike.
fn said_of_many(rules: &str, more: &str) -> Vec<String> {
    let one = |n: usize| {
        let ends =
            format!("[workload.w{n:02}]\nenvironment = \"e\"\nselect = {{ systemd = \"w{n}.service\" }}\n");
        ends + &allow(&format!("w{n:02}"), format!("10.0.0.{n}"), "")
    };
    let many = || (0..40).map(one).collect::<String>();
    let [old, new] = [rules.to_owned(), format!("{rules}{more}")]
        .map(|rules| policy(&format!("[environment.e]\n{}{rules}", many())));
    let found = diff(&old, &new, &Inventory::default(), 0).to_string();
    found
        .lines()
        .filter(|line| line.matches('w').count() + line.matches("workload").count() > 1)
        .map(str::to_owned)
        .collect()
}

#[test]
fn who_fares_as_everybody_is_told_of_together() {
    let tcp = "ports = [\"tcp/80\"]";
    let [out, into] = [allow("env:e", "any", tcp), allow("any", "env:e", tcp)];
    assert_eq!(said_of_many("", &(out.clone() + &into)), ["+ every workload -> every workload: tcp/80"]);
    assert_eq!(said_of_many(&out, &allow("any", "w07", "")), ["+ every other workload -> w07: tcp/80"]);
    assert_eq!(
        said_of_many(&out, &allow("any", ["w07", "w08"], tcp)),
        ["+ every workload -> w07, w08: tcp/80"]
    );
    let known = out.clone() + &allow("w03", "w07", tcp);
    assert_eq!(
        said_of_many(&known, &allow("any", ["w07", "w08"], tcp)),
        ["+ every other workload -> w08: tcp/80", "+ every other workload but w03 -> w07: tcp/80"]
    );
    assert_eq!(
        said_of_many(&allow("w03", "w07", tcp), &(out.clone() + &into)),
        ["+ every workload -> every workload, where no rule names both: tcp/80"]
    );
    let few: Vec<_> = (0..35).map(|n| format!("w{n:02}")).collect();
    let all_but = said_of_many(&into, &allow("w01", "any", tcp));
    assert_eq!(all_but, ["+ w01 -> every other workload: tcp/80"]);
    let some = said_of_many(&allow("any", &few, tcp), &allow("w39", "any", tcp));
    assert_eq!(some, ["+ w39 -> every other workload but w35, w36, w37, w38: tcp/80"]);
    assert_eq!(said_of_many(&(out.clone() + &into), &allow("w03", "w07", tcp)), [""; 0]);
    assert_eq!(said_of_many(&out, &allow("any", "w07", "ports = [\"tcp/81\"]")), [""; 0]);
}

#[test]
fn so_many_that_nobody_reads_all_are_counted() {
    let ends = |rules: &str| {
        let one = |n: usize| format!("[workload.w{n}]\nselect = {{ systemd = \"w{n}.service\" }}\n");
        let open =
            |n: usize| allow(&format!("w{n}"), "any", &format!("ports = [\"tcp/{}\", \"udp/1\"]", n + 1));
        policy(&format!(
            "{}{}{rules}",
            (0..80).map(one).collect::<String>(),
            (0..40).map(open).collect::<String>()
        ))
    };
    let found = diff(&ends(""), &ends(&allow("any", "w79", "ports = [\"udp/1\"]")), &Inventory::default(), 0);
    let lines: Vec<_> = found.access.iter().filter(|change| change.from.contains("w1")).collect();
    assert!(lines.len() == 1 && lines[0].from.ends_with(" and 8 more workloads"), "{lines:?}");
}

#[test]
fn addresses_that_no_rule_of_a_workload_tells_apart_are_told_of_together() {
    let peers: String =
        (0..20).map(|n| allow("a", format!("10.0.{n}.0/24"), "ports = [\"tcp/80\"]")).collect();
    let own = peers + &allow("b", "10.0.7.0/24", "ports = [\"tcp/80\"]");
    let opened = own.clone() + &allow("b", "any", "ports = [\"tcp/80\"]");
    assert_eq!(between(&own, &opened), "+ b -> every address but 10.0.7.0/24: tcp/80\n");
}
