//! Input of the nastiest shapes: twice as much of it takes about twice as long, and what is said of it stays short.

use std::time::Duration;

use bulkhead_policy::{Inventory, Simulation, Source, diff, load};
use rustix::time::{ClockId, clock_gettime};

/// How many parts the smaller text has. A part is about 20 bytes.
const PARTS: usize = 2_500;
/// How many times as many the larger one has.
const TIMES: usize = 4;
/// How much longer than linear growth that may take. Quadratic growth is TIMES as long as linear growth.
const MOST: f64 = 2.0;
/// What nobody writes by hand and a program may write, in bytes: fifty times as long as the texts above.
const LARGEST: usize = 10_000_000;
/// How much longer than linear growth that may take: what no longer fits the processor's caches is slower.
const MOST_OF_LARGEST: f64 = 5.0;
/// The most that is said of a policy, in bytes.
const LONGEST_REPORT: usize = 1 << 20;

/// The time that this thread has spent on a processor.
fn busy() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn taken(run: impl Fn()) -> Duration {
    let start = busy();
    run();
    busy().saturating_sub(start).max(Duration::from_millis(1))
}

/// Fails if `run` takes unduly longer for more parts. Tried anew on failure: other load disturbs caches.
#[track_caller]
fn grows_evenly(run: impl Fn(usize)) {
    grows_at_most(MOST, PARTS, PARTS * TIMES, run);
}

#[track_caller]
fn grows_at_most(most: f64, few: usize, many: usize, run: impl Fn(usize)) {
    let even = Duration::from_secs(many as u64).div_duration_f64(Duration::from_secs(few as u64));
    let growth = || taken(|| run(many)).div_duration_f64(taken(|| run(few))) / even;
    let seen: Vec<f64> = (0..3).map(|_| growth()).take_while(|growth| *growth > most).collect();
    assert!(seen.len() < 3, "{even:.1} times as much takes {seen:.1?} times as long as that");
}

fn say(text: String) {
    let source = [Source::new("p.toml", text)];
    let findings = match load(&source) {
        Ok(loaded) => loaded.warnings,
        Err(findings) => findings,
    };
    let said = findings.render(&source, true);
    assert!(said.len() < LONGEST_REPORT, "{} bytes are said", said.len());
}

#[track_caller]
fn policy_grows_evenly(text: impl Fn(usize) -> String) {
    grows_evenly(|parts| say(text(parts)));
}

/// And so it is up to 10 MB.
#[track_caller]
fn large_policy_grows_evenly(text: impl Fn(usize) -> String) {
    policy_grows_evenly(&text);
    let few = PARTS * TIMES;
    let many = LARGEST.div_ceil(text(few).len()) * few;
    grows_at_most(MOST_OF_LARGEST, few, many, |parts| say(text(parts)));
}

fn many(parts: usize, part: impl Fn(usize) -> String) -> String {
    (0..parts).map(part).collect()
}

const WEB: &str = "[workload.web]\nselect = { systemd = \"web.service\" }\n";

#[test]
fn equal_rules() {
    large_policy_grows_evenly(|n| {
        WEB.to_owned() + &"[[allow]]\nfrom = \"web\"\nto = \"any\"\n".repeat(n / 4)
    });
}

#[test]
fn rules_that_all_differ() {
    policy_grows_evenly(|n| {
        WEB.to_owned()
            + &many(n / 4, |p| {
                format!("[[allow]]\nfrom = \"web\"\nto = \"any\"\nports = [\"tcp/{}\"]\n", p % 60_000 + 1)
            })
    });
}

#[test]
fn a_syntax_error_on_every_line() {
    policy_grows_evenly(|n| "x = = \"\n".repeat(n));
}

#[test]
fn an_unknown_key_on_every_line() {
    policy_grows_evenly(|n| many(n, |p| format!("workloda{p} = 1\n")));
}

#[test]
fn a_mistake_in_every_word_of_one_line() {
    large_policy_grows_evenly(|n| format!("[peer.a]\ncidrs = [{}]\n", "\"10.0.0.1/8\", ".repeat(n)));
}

#[test]
fn one_long_name_that_is_unknown() {
    large_policy_grows_evenly(|n| {
        let name = "x".repeat(n * 20);
        format!(
            "[workload.{name}y]\nselect = {{ systemd = \"a.service\" }}\n[[allow]]\nfrom = \"{name}\"\nto = \"any\"\n"
        )
    });
}

#[test]
fn unknown_names_that_are_nearly_known() {
    policy_grows_evenly(|n| {
        many(n / 8, |p| format!("[peer.name-{p}-a]\ncidrs = [\"10.0.0.0/8\"]\n"))
            + &many(n / 8, |p| format!("[[allow]]\nfrom = \"name-{p}-b\"\nto = \"env:name-{p}-a\"\n"))
    });
}

#[test]
fn names_declared_twice() {
    large_policy_grows_evenly(|n| many(n / 4, |p| format!("[peer.n{}]\ncidrs = [\"10.0.0.0/8\"]\n", p / 2)));
}

#[test]
fn unclosed_brackets() {
    large_policy_grows_evenly(|n| format!("x = {}", "[".repeat(n * 20)));
    large_policy_grows_evenly(|n| "[".repeat(n * 20));
    large_policy_grows_evenly(|n| format!("x = {}", "{a=".repeat(n * 6)));
    large_policy_grows_evenly(|n| format!("a{} = 1\n", ".a".repeat(n * 10)));
}

#[test]
fn an_unfinished_string() {
    large_policy_grows_evenly(|n| format!("x = '''{}", "line\n".repeat(n * 4)));
    large_policy_grows_evenly(|n| format!("x = \"{}", "x".repeat(n * 20)));
}

#[test]
fn many_addresses_in_two_rules() {
    let addresses = |n| many(n, |p| format!("\"10.{}.{}.{}\",", p >> 16 & 255, p >> 8 & 255, p & 255));
    large_policy_grows_evenly(|n| {
        let rule = format!("[[allow]]\nfrom = \"web\"\nto = [{}]\n", addresses(n / 2));
        format!("{WEB}{rule}{rule}")
    });
}

#[test]
fn many_ports_in_two_rules_and_a_forbid() {
    let ports = |n, add| many(n, |p| format!("\"tcp/{}\",", p * 2 % 60_000 + add));
    policy_grows_evenly(|n| {
        let rule = format!("[[allow]]\nfrom = \"web\"\nto = \"any\"\nports = [{}]\n", ports(n / 2, 1));
        let forbid = format!("[[forbid]]\nfrom = \"web\"\nto = \"any\"\nports = [{}]\n", ports(n / 2, 2));
        format!("{WEB}{rule}{rule}{forbid}")
    });
}

/// A rule of each of many workloads and as many forbids that hold for all of them, of which none is contradicted.
#[track_caller]
fn forbids_grow_evenly(towards: impl Fn(usize, usize) -> String) {
    policy_grows_evenly(|n| {
        let count = n / 4;
        many(2 * count, |p| format!("[workload.w{p}]\nselect = {{ systemd = \"w{p}.service\" }}\n"))
            + &many(count, |p| format!("[[allow]]\nfrom = \"w{p}\"\n{}\n", towards(p, 0)))
            + &many(count, |p| format!("[[forbid]]\nfrom = \"any\"\n{}\n", towards(p, 1)))
    });
}

#[test]
fn forbids_and_rules_of_other_ports() {
    forbids_grow_evenly(|p, add| format!("to = \"any\"\nports = [\"tcp/{}\"]", p * 2 % 60_000 + add + 1));
}

#[test]
fn forbids_and_rules_of_other_addresses() {
    forbids_grow_evenly(|p, add| {
        let (high, low) = (p >> 7 & 255, p << 1 & 255);
        format!("to = [\"10.{high}.{low}.{}/25\", \"fd00:{p:x}:{add}::/64\"]", add * 128)
    });
}

#[test]
fn forbids_and_rules_of_other_workloads() {
    forbids_grow_evenly(|p, add| format!("to = \"w{}\"", 2 * p + add));
}

/// Of whom only a host knows the addresses, in one forbid and in many.
#[test]
fn forbids_and_rules_of_dns_names() {
    type Ends = fn(usize) -> String;
    let name: Ends = |p| format!("n{p}");
    let range: Ends = |p| format!("10.{}.{}.0/24", p >> 8 & 255, p & 255);
    let policy = |n: usize, to: Ends| {
        many(n, |p| format!("[peer.n{p}]\nnames = [\"n{p}.example.org\"]\n"))
            + &many(n, |p| format!("[workload.w{p}]\nselect = {{ systemd = \"w{p}.service\" }}\n"))
            + &many(n, |p| format!("[[allow]]\nfrom = \"w{p}\"\nto = \"{}\"\nports = [\"tcp/1\"]\n", to(p)))
    };
    let forbid = |ends: &[String]| format!("[[forbid]]\nfrom = \"any\"\nto = {ends:?}\n");
    let all = |n: usize, end: Ends| (0..n).map(end).collect::<Vec<_>>();
    for (to, forbidden) in [(range, name), (name, range), (name, name)] {
        policy_grows_evenly(|n| policy(n / 8, to) + &forbid(&all(n / 8, forbidden)));
    }
    policy_grows_evenly(|n| policy(n / 8, range) + &many(n / 8, |p| forbid(&[name(p)])));
}

#[test]
fn a_forbid_between_any_two_environments() {
    policy_grows_evenly(|n| {
        let side = (n / 8).isqrt();
        let pairs = || (0..side * side).map(|p| (p / side, p % side)).filter(|(a, b)| a != b);
        let environments = many(side, |e| format!("[environment.e{e}]\ncidrs = [\"10.{e}.0.0/16\"]\n"));
        let workloads = many(n / 8, |w| {
            let e = w % side;
            format!("[workload.w{w}]\nenvironment = \"e{e}\"\nselect = {{ systemd = \"w{w}.service\" }}\n")
        });
        let forbids = pairs().map(|(a, b)| format!("[[forbid]]\nfrom = \"env:e{a}\"\nto = \"env:e{b}\"\n"));
        let rules = (0..n / 8 - side).map(|w| {
            format!("[[allow]]\nfrom = \"w{w}\"\nto = [\"w{}\", \"172.16.{}.0/24\"]\n", w + side, w & 255)
        });
        environments + &workloads + &forbids.collect::<String>() + &rules.collect::<String>()
    });
}

#[test]
fn forbids_that_every_rule_contradicts() {
    large_policy_grows_evenly(|n| {
        let ends = "from = \"web\"\nto = \"any\"\n";
        let part = |kind| format!("[[{kind}]]\n{ends}").repeat(n / 8);
        WEB.to_owned() + &part("allow") + &part("forbid")
    });
}

#[test]
fn globs_that_select_alike() {
    policy_grows_evenly(|n| {
        let glob = "a*".repeat(n * 10);
        many(2, |p| format!("[workload.w{p}]\nselect = {{ cgroup = \"/{glob}{p}\" }}\n"))
    });
    policy_grows_evenly(|n| {
        many(n / 4, |p| format!("[workload.w{p}]\nselect = {{ cgroup = \"/a*/job-{p}-*.scope\" }}\n"))
    });
}

#[test]
fn many_workloads_with_a_rule_each() {
    large_policy_grows_evenly(|n| {
        "[peer.far]\nnames = [\"example.org\"]\n".to_owned()
            + &many(n / 8, |p| {
                format!("[workload.w{p}]\ningress = \"allow\"\nselect = {{ systemd = \"w{p}.service\" }}\n")
            })
            + &many(n / 8, |p| format!("[[allow]]\nfrom = \"w{p}\"\nto = \"far\"\n"))
    });
}

#[test]
fn many_ranges_in_environments_and_peers() {
    policy_grows_evenly(|n| {
        let range = |p: usize, net| format!("cidrs = [\"10.{}.{}.{net}/32\"]\n", p >> 8 & 255, p & 255);
        "[workload.web]\nselect = { systemd = \"web.service\" }\n".to_owned()
            + &many(n / 8, |p| format!("[environment.e{p}]\n{}", range(p, 1)))
            + &many(n / 8, |p| format!("[peer.p{p}]\n{}", range(p, 2)))
            + &many(n / 8, |p| format!("[[allow]]\nfrom = \"web\"\nto = [\"p{p}\", \"env:e{p}\"]\n"))
    });
}

#[test]
fn rules_from_ranges_within_each_other() {
    policy_grows_evenly(|n| {
        let peers = "[peer.a]\ncidrs = [".to_owned()
            + &many(n / 8, |p| format!("\"11.{}.{}.0/24\",", p >> 8 & 255, p & 255))
            + "]\n";
        let range = |p: usize| {
            let len = p % 17 + 8;
            let first = (10 << 24 | p << 8) & u32::MAX as usize >> (32 - len) << (32 - len);
            format!("10.{}.{}.0/{len}", first >> 16 & 255, first >> 8 & 255)
        };
        WEB.to_owned()
            + &peers
            + &many(n / 8, |p| {
                format!(
                    "[[allow]]\nfrom = \"{}\"\nto = \"web\"\nports = [\"tcp/{}\"]\n",
                    range(p),
                    p % 60_000 + 1
                )
            })
            + &"[[allow]]\nfrom = \"a\"\nto = \"web\"\nports = [\"tcp/1\"]\n".repeat(n / 16)
    });
}

#[test]
fn rules_of_one_environment_with_many_workloads() {
    large_policy_grows_evenly(|n| {
        "[environment.e]\n[peer.far]\nnames = [\"example.org\"]\n".to_owned()
            + &many(n / 8, |p| {
                format!(
                    "[workload.w{p}]\nenvironment = \"e\"\negress = \"allow\"\nselect = {{ systemd = \"w{p}.service\" }}\n"
                )
            })
            + &"[[allow]]\nfrom = \"env:e\"\nto = \"far\"\n".repeat(n / 8)
    });
}

/// Of two policies that differ in every tenth rule, and in a side that is opened to everybody.
#[test]
fn differences_of_many_workloads() {
    let policy = |parts: usize, turn: usize| {
        let n = parts / 8;
        let text = "[environment.e]\ncidrs = [\"10.0.0.0/8\"]\n".to_owned()
            + &many(n, |p| {
                let environment = if p % 3 == 0 { "environment = \"e\"\n" } else { "" };
                format!("[workload.w{p}]\n{environment}select = {{ systemd = \"w{p}.service\" }}\n")
            })
            + &many(n, |p| {
                let to = if p % 10 == 0 { (p + turn) % n } else { (p + 1) % n };
                let port = p % 60_000 + 1;
                format!(
                    "[[allow]]\nfrom = \"w{p}\"\nto = [\"w{to}\", \"10.{}.0.0/16\"]\nports = [\"tcp/{port}\"]\n",
                    p % 250
                )
            })
            + &format!("[[allow]]\nfrom = \"any\"\nto = \"w{turn}\"\n");
        load(&[Source::new("p.toml", text)]).unwrap().policy
    };
    grows_evenly(|parts| {
        let found = diff(&policy(parts, 1), &policy(parts, 2), &Inventory::default(), 0);
        assert!(found.access.len() < parts, "{} changes", found.access.len());
    });
}

/// Of two policies in which rules of every workload for everybody differ: there are as many differences as there are pairs.
#[test]
fn differences_for_everybody() {
    let policy = |n: usize, turn: usize, ports: &dyn Fn(usize, usize) -> String| {
        let text = many(n, |p| format!("[workload.w{p}]\nselect = {{ systemd = \"w{p}.service\" }}\n"))
            + &many(n, |p| {
                let next = (p + 1) % n;
                format!(
                    "[[allow]]\nfrom = \"any\"\nto = \"w{p}\"\nports = [\"{}\"]\n\
                     [[allow]]\nfrom = \"w{p}\"\nto = \"any\"\nports = [\"{}\"]\n\
                     [[allow]]\nfrom = \"w{p}\"\nto = [\"w{next}\", \"10.0.{}.0/24\"]\n",
                    ports(p, turn),
                    ports(p, 1 - turn),
                    p & 255
                )
            });
        load(&[Source::new("p.toml", text)]).unwrap().policy
    };
    let apart = |p: usize, turn: usize| format!("tcp/{}", 2 * p + turn + 1);
    let one_end = |p: usize, turn: usize| if turn == 0 { apart(p, 0) } else { "tcp/*".to_owned() };
    let nested = |p: usize, turn: usize| format!("tcp/{}-{}", p + turn + 1, 60_000 - 7 * p);
    for ports in [&apart as &dyn Fn(usize, usize) -> String, &one_end, &nested] {
        grows_evenly(|parts| {
            let n = parts / 16;
            let found = diff(&policy(n, 0, ports), &policy(n, 1, ports), &Inventory::default(), 0);
            assert!(found.access.len() < 10 * n, "{} changes", found.access.len());
        });
    }
}

fn record_grows_evenly(line: impl Fn(usize) -> String) {
    let policy = load(&[Source::new("p.toml", WEB)]).unwrap().policy;
    grows_evenly(|parts| {
        let mut simulation = Simulation::new(&policy, None, &Inventory::default());
        for line in line(parts).lines() {
            if let Err(error) = simulation.record(line.as_bytes()) {
                assert!(error.to_string().len() < 1_000);
            }
        }
        let pairs = Simulation::MOST_PAIRS;
        assert!(simulation.summary().to_string().len() < LONGEST_REPORT + pairs * 100);
    });
}

#[test]
fn records_of_any_shape() {
    let record = |workload: String, peer: String| {
        format!(
            "{{\"time\":\"2026-06-01T00:00:00Z\",\"verdict\":\"denied\",\"direction\":\"egress\",\"protocol\":\"tcp\",\
             \"workload\":{{\"name\":\"{workload}\"}},\"peer\":{{\"address\":\"10.0.0.1\",\"name\":\"{peer}\"}}}}\n"
        )
    };
    record_grows_evenly(|n| "[".repeat(n * 20));
    record_grows_evenly(|n| format!("{{\"x\":{}", "{\"x\":".repeat(n * 4)));
    record_grows_evenly(|n| record("\\u0041".repeat(n * 3), "x".repeat(n * 20)));
    record_grows_evenly(|n| many(n, |p| record(format!("a{p}"), format!("b{p}"))));
    record_grows_evenly(|n| "{\n".repeat(n * 10));
}
