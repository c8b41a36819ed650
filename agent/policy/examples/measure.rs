//! Measures the policy engine: `cargo run --release -p bulkhead-policy --example measure`.
//!
//! A large site: 20 environments, 10,000 workloads, 100,000 rules between workloads or, three in ten, to an address
//! range; and a million recorded flows.

use std::{fmt::Write, fs, time::Duration};

use bulkhead_policy::{Inventory, Simulation, Source, compile, load};

const ENVIRONMENTS: u64 = 20;
const WORKLOADS: u64 = 10_000;
const RULES: u64 = 100_000;
const FLOWS: u64 = 1_000_000;

/// Pseudo-random numbers (Knuth's multiplier): the same site every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn site(numbers: &mut Numbers) -> String {
    let mut text = String::new();
    for e in 0..ENVIRONMENTS {
        let _ = writeln!(text, "[environment.e{e}]\ncidrs = [\"10.{e}.0.0/16\"]");
    }
    for w in 0..WORKLOADS {
        let environment = w % ENVIRONMENTS;
        let _ = writeln!(
            text,
            "[workload.w{w}]\nenvironment = \"e{environment}\"\nselect = {{ systemd = \"w{w}.service\" }}"
        );
    }
    for _ in 0..RULES {
        let from = numbers.below(WORKLOADS);
        let to = if numbers.below(10) < 3 {
            format!("10.{}.{}.{}/28", numbers.below(256), numbers.below(256), numbers.below(16) * 16)
        } else {
            format!("w{}", numbers.below(WORKLOADS))
        };
        let port = numbers.below(60_000) + 1;
        let _ = writeln!(text, "[[allow]]\nfrom = \"w{from}\"\nto = \"{to}\"\nports = [\"tcp/{port}\"]");
    }
    text
}

fn flow(numbers: &mut Numbers) -> String {
    let (from, to, port) = (numbers.below(WORKLOADS), numbers.below(WORKLOADS), numbers.below(60_000));
    format!(
        r#"{{"time":"2026-11-21T20:15:03.123456Z","verdict":"denied","mode":"enforce","direction":"egress","protocol":"tcp","workload":{{"name":"w{from}","environment":"dev","cgroup":"/ci.slice/job-7.scope","unit":"job-7.scope"}},"process":{{"pid":4711,"comm":"curl","exe":"/usr/bin/curl","uid":1000}},"peer":{{"address":"10.0.3.7","port":{port},"name":"w{}","environment":"prod"}},"rule":null,"reason":"no-rule","nearest_rule":null,"count":1,"suppressed":0,"generation":12,"service":"tcp/{port}"}}"#,
        to % 100,
    )
}

/// The most memory that this process has held, in MB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// The time that this process has spent on a processor: other load on the machine does not count.
fn busy() -> Duration {
    let schedstat = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    Duration::from_nanos(schedstat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// The time since [`busy`] was `start`.
fn since(start: Duration) -> Duration {
    busy().saturating_sub(start)
}

fn main() {
    let mut numbers = Numbers(1);
    let source = [Source::new("site.toml", site(&mut numbers))];
    let start = busy();
    let loaded = load(&source).unwrap_or_else(|e| panic!("{}", e.render(&source, false)));
    println!("load {} MB: {:?}, peak {} MB", source[0].text.len() >> 20, since(start), peak_memory());
    let start = busy();
    let compiled = compile(&loaded.policy, &Inventory::default());
    println!(
        "compile {WORKLOADS} workloads, {RULES} rules: {:?}, peak {} MB; {} entries, {} peers, {} warnings",
        since(start),
        peak_memory(),
        compiled.policy.len(),
        compiled.peers.len(),
        loaded.warnings.len(),
    );
    let flows: Vec<_> = (0..FLOWS / 10).map(|_| flow(&mut numbers)).collect();
    let mut simulation = Simulation::new(&loaded.policy, None, &Inventory::default());
    let start = busy();
    for line in flows.iter().cycle().take(usize::try_from(FLOWS).unwrap_or(usize::MAX)) {
        if let Err(e) = simulation.record(line.as_bytes()) {
            panic!("{e}");
        }
    }
    let nanoseconds = since(start).as_nanos() / u128::from(FLOWS);
    println!("simulate: {nanoseconds} ns a flow");
}
