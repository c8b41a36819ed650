use super::*;
use crate::testing::{policy, unchecked};
use proptest::prelude::*;

/// What the kernel holds a cgroup for: the identity of the nearest directory that has been placed.
fn who(automaton: &Automaton, path: &[CgroupDir<'_>]) -> (Identity, u32) {
    let mut held = automaton.root;
    for dir in path {
        if dir.delegated {
            held.state |= STATE_DELEGATED;
        }
        let target = automaton.follow(held.state, dir.name.as_bytes());
        held = Target { identity: target.identity.or(held.identity), state: target.state };
    }
    (held.identity.unwrap_or(Identity::None), held.state)
}

/// A path in which the names from the first with a `~` on are delegated.
fn dirs(path: &str) -> Vec<CgroupDir<'_>> {
    let mut delegated = false;
    let names = path.split('/').filter(|name| !name.is_empty());
    names
        .map(|name| {
            delegated |= name.starts_with('~');
            CgroupDir { name: name.trim_start_matches('~'), delegated }
        })
        .collect()
}

#[track_caller]
fn agree(text: &str, paths: &[&str]) {
    let policy = policy(text);
    let automaton = Automaton::new(&policy);
    for path in paths {
        let path = dirs(path);
        assert_eq!(who(&automaton, &path).0, policy.identify(&path), "{path:?}");
    }
}

#[test]
fn units_are_found_in_any_slice() {
    let text = "[workload.web]\nselect = { systemd = \"nginx.service\" }\n\
                [workload.all]\nselect = { cgroup = \"/system.slice/**\" }\n\
                [workload.ci]\nselect = { cgroup = \"/ci.slice/job-*.scope\" }";
    agree(
        text,
        &[
            "/",
            "/nginx.service",
            "/system.slice",
            "/system.slice/nginx.service",
            "/system.slice/cron.service",
            "/system.slice/cron.service/nginx.service",
            "/a.slice/a-b.slice/nginx.service/worker",
            "/user.slice/~nginx.service",
            "/ci.slice/job-7.scope",
            "/ci.slice/job-.scope",
            "/ci.slice/job-7.service",
            "/ci.slice/job.scope",
        ],
    );
    let automaton = Automaton::new(&policy(text));
    let dead = |path| who(&automaton, &dirs(path)).1 == STATE_DEAD;
    assert!(dead("/system.slice/cron.service"), "below a service there is nothing more to find");
    assert!(!dead("/system.slice"));
}

#[test]
fn names_whose_beginning_and_end_overlap_are_told_apart() {
    let text = "[workload.a]\nselect = { cgroup = \"/ab*ba\" }\n[workload.b]\nselect = { cgroup = \"/a*\" }";
    agree(text, &["/aba", "/abba", "/abxba", "/ab", "/a", "/ba"]);
}

#[test]
fn what_a_lookup_cannot_decide_is_unidentified_until_the_agent_tells() {
    let policy = policy("[workload.a]\nselect = { cgroup = \"/x*y*z/w\" }");
    let automaton = Automaton::new(&policy);
    let path = dirs("/x1y2z");
    assert_eq!(who(&automaton, &path), (Identity::Unidentified, STATE_LOST));
    assert_eq!(who(&automaton, &dirs("/x1y2")), (Identity::None, STATE_DEAD), "this one is decided");
    assert_eq!(automaton.state(&dirs("/x12z")), STATE_DEAD, "the agent knows better");
}

#[test]
fn a_name_too_long_to_compare_is_unidentified() {
    let long = "x".repeat(NAME_BYTES);
    let policy = policy(&format!("[workload.a]\nselect = {{ cgroup = \"/{long}\" }}"));
    let automaton = Automaton::new(&policy);
    assert_eq!(who(&automaton, &dirs(&format!("/{long}"))).0, Identity::Unidentified);
    assert_eq!(who(&automaton, &dirs(&format!("/{}", "x".repeat(NAME_BYTES - 1)))).0, Identity::None);
}

#[test]
fn many_units_are_one_state() {
    let units: Vec<String> =
        (0..2_000).map(|n| format!("[workload.w{n}]\nselect = {{ systemd = \"w{n}.service\" }}\n")).collect();
    let slices: Vec<String> =
        (0..50).map(|n| format!("[workload.s{n}]\nselect = {{ systemd = \"s{n}.slice\" }}\n")).collect();
    let automaton = Automaton::new(&policy(&(units.concat() + &slices.concat())));
    assert_eq!(automaton.states.len(), 1);
    assert_eq!(automaton.edges.len(), 2 + 2_050 + 3, "those that are lost, the names, and every other name");
}

/// Few names and patterns, so that they meet.
fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "a",
        "b",
        "ab",
        "aba",
        "abba",
        "a.slice",
        "ab.slice",
        "b.slice",
        ".slice",
        "a.service",
        "ab.service",
        "b.scope",
        "\u{e4}.slice",
    ])
    .prop_map(str::to_owned)
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => name(),
        3 => prop::sample::select(vec![
            "*", "a*", "*a", "ab*ba", "a*a", "*.slice", "a*.slice", "a.slice*", "*.service", "ab*",
        ]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["a*b*", "*b*", "a*.s*e"]).prop_map(str::to_owned),
    ]
}

fn selector() -> impl Strategy<Value = String> {
    let component = prop_oneof![4 => pattern(), 1 => Just("**".to_owned())];
    let glob = prop::collection::vec(component, 0..4)
        .prop_map(|parts| format!("{{ cgroup = \"/{}\" }}", parts.join("/")));
    let unit = prop::sample::select(vec![
        "a.service",
        "ab.service",
        "a*.service",
        "*b.service",
        "a.slice",
        "*.slice",
        "b.scope",
        "a*b.*.service",
    ]);
    prop_oneof![glob, unit.prop_map(|unit| format!("{{ systemd = \"{unit}\" }}"))]
}

fn path() -> impl Strategy<Value = Vec<(String, bool)>> {
    (prop::collection::vec(name(), 0..6), 0..12_usize).prop_map(|(names, from)| {
        names.into_iter().enumerate().map(|(depth, name)| (name, depth >= from)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_tells_what_the_policy_does_or_refuses(
        selectors in prop::collection::vec(selector(), 1..6),
        paths in prop::collection::vec(path(), 40),
    ) {
        let workloads = selectors.iter().enumerate();
        let workloads: Vec<_> = workloads.map(|(n, s)| format!("[workload.w{n}]\nselect = {s}")).collect();
        let text = workloads.join("\n");
        let policy = unchecked(&text);
        let automaton = Automaton::new(&policy);
        for path in &paths {
            let path: Vec<_> =
                path.iter().map(|(name, delegated)| CgroupDir { name, delegated: *delegated }).collect();
            let (found, state) = who(&automaton, &path);
            let wanted = policy.identify(&path);
            let decided = found == wanted;
            prop_assert!(
                decided || (found == Identity::Unidentified && state == STATE_LOST),
                "{path:?}: the kernel says {found:?}, the policy {wanted:?}\n{text}"
            );
            // The agent's state for a directory is one from which the kernel goes on rightly.
            let below = CgroupDir { name: "b", delegated: path.last().is_some_and(|dir| dir.delegated) };
            let longer: Vec<_> = path.iter().copied().chain([below]).collect();
            let from = automaton.state(&path) | if below.delegated { STATE_DELEGATED } else { 0 };
            let target = automaton.follow(from, below.name.as_bytes());
            let found = target.identity.unwrap_or(wanted);
            prop_assert!(
                found == policy.identify(&longer) || target == LOST,
                "{longer:?}: {found:?} from the agent's state {from}\n{text}"
            );
        }
    }
}
