//! What `cargo xtask bench policy` measures within a process, and the files that it measures with:
//!
//! - `measure policy host|site`: prints the policy of one host or of a large site.
//! - `measure flows host|site N`: prints N lines as its agents would record them.
//! - `measure compile POLICY`: reads and compiles a policy, and prints what that took, as JSON.

mod site;

use std::{
    env, fs,
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use bulkhead_policy::{Inventory, Source, compile, load};
use rustix::time::{ClockId, clock_gettime};

use site::{Numbers, Site};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["policy", "host"] => io::stdout().write_all(Site::HOST.policy().as_bytes()),
        ["policy", "site"] => io::stdout().write_all(Site::LARGE.policy().as_bytes()),
        ["flows", "host", count] => flows(Site::HOST, count),
        ["flows", "site", count] => flows(Site::LARGE, count),
        ["compile", policy] => measure_compile(policy),
        _ => Err(io::Error::other("usage: measure policy host|site | flows host|site N | compile POLICY")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn flows(site: Site, count: &str) -> io::Result<()> {
    let count: u64 = count.parse().map_err(io::Error::other)?;
    let mut numbers = Numbers(2);
    let mut out = BufWriter::new(io::stdout().lock());
    for _ in 0..count {
        writeln!(out, "{}", site.flow(&mut numbers))?;
    }
    out.flush()
}

fn measure_compile(path: &str) -> io::Result<()> {
    let source = [Source::new(path, fs::read_to_string(path)?)];
    let start = busy_ns();
    let loaded = load(&source).map_err(|e| io::Error::other(e.render(&source, false)))?;
    let read = busy_ns();
    let compiled = compile(&loaded.policy, &Inventory::default());
    let compile_ns = busy_ns() - read;
    println!(
        "{{\"read_ns\":{},\"compile_ns\":{compile_ns},\"entries\":{},\"peak_kb\":{}}}",
        read - start,
        compiled.policy.len(),
        peak_kb(),
    );
    Ok(())
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
