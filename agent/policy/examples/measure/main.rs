//! What `cargo xtask bench policy` measures within a process, and the files that it measures with:
//!
//! - `measure policy host|site`: prints the policy of one host or of a large site.
//! - `measure denials|flows host|site N`: prints N lines as its agents would record them.
//! - `measure compile POLICY`: reads and compiles a policy, and prints what that took, as JSON.

mod denials;
mod flows;
mod site;

use std::{
    env, fs,
    io::{self, BufWriter, Write},
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
};

use bulkhead_policy::{Compiler, End, Inventory, Policy, Source, WorkloadId, compile, load};
use rustix::time::{ClockId, clock_gettime};

use denials::Denials;
use flows::Flows;
use site::Site;

const USAGE: &str =
    "usage: measure policy host|site | denials host|site N | flows host|site N | compile POLICY";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["policy", site] => {
            Site::named(site).and_then(|site| io::stdout().write_all(site.policy().as_bytes()))
        }
        [kind @ ("denials" | "flows"), site, count] => print(kind, site, count),
        ["compile", policy] => measure_compile(policy),
        _ => Err(io::Error::other(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measure: {error}");
            ExitCode::FAILURE
        }
    }
}

/// So many records of one kind.
fn print(kind: &str, site: &str, count: &str) -> io::Result<()> {
    let count: usize = count.parse().map_err(io::Error::other)?;
    let source = [Source::new("site.toml", Site::named(site)?.policy())];
    let loaded = load(&source).map_err(|e| io::Error::other(e.render(&source, false)))?;
    let policy = &loaded.policy;
    let lines: Box<dyn Iterator<Item = String>> = match kind {
        "denials" => Box::new(Denials::new(policy).map(|denial| denial.to_json())),
        _ => Box::new(Flows::new(policy).map(|flow| flow.to_json())),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    for line in lines.take(count) {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

fn measure_compile(path: &str) -> io::Result<()> {
    let source = [Source::new(path, fs::read_to_string(path)?)];
    let start = busy_ns();
    let loaded = load(&source).map_err(|e| io::Error::other(e.render(&source, false)))?;
    let read = busy_ns();
    let compiled = compile(&loaded.policy, &Inventory::default());
    let (compile_ns, peak_kb) = (busy_ns() - read, peak_kb());
    drop(compiled);
    let (added_ns, added_edits) = add_workloads(&loaded.policy);
    println!(
        "{{\"read_ns\":{},\"compile_ns\":{compile_ns},\"peak_kb\":{peak_kb},\"added_ns\":{added_ns},\
         \"added_edits\":{added_edits}}}",
        read - start,
    );
    Ok(())
}

/// Has half of the workloads on the host and lets a hundred more appear, each with an address of its own in a range that a
/// rule names: the median time, and the longest list of edits.
fn add_workloads(policy: &Policy) -> (i64, usize) {
    let mut inventory = Inventory::default();
    let mut compiler = Compiler::new(policy, inventory.clone());
    for (n, w) in (0..).zip((0..policy.workloads.len()).step_by(2)) {
        inventory.addresses.insert(Ipv4Addr::from_bits(0xac10_0000 + n).into(), Some(WorkloadId(w)));
    }
    compiler.follow(inventory.clone());
    let named = policy.rules.iter().flat_map(|rule| &rule.to).filter_map(|end| match end {
        End::Cidr(cidr) => Some(IpAddr::from(cidr.first())),
        _ => None,
    });
    let (mut times, mut edits) = (Vec::new(), Vec::new());
    for (ip, w) in named.zip((1..).step_by(2)).take(100) {
        inventory.addresses.insert(ip, Some(WorkloadId(w)));
        let next = inventory.clone();
        let start = busy_ns();
        edits.push(compiler.follow(next).len());
        times.push(busy_ns() - start);
    }
    times.sort_unstable();
    (times.get(times.len() / 2).copied().unwrap_or(0), edits.into_iter().max().unwrap_or(0))
}

/// The time that this process has spent on a processor: other load on the machine does not count.
fn busy_ns() -> i64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The most memory that this process has held.
fn peak_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
