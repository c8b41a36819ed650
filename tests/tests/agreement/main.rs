//! The programs in the kernel against the compiled tables, on the worlds of the policy's own property tests.
//!
//! Always the same worlds; `PROPTEST_RNG_SEED` draws others and `PROPTEST_CASES` more. Failing seeds are kept in
//! `main.regressions` beside this file and tried first.

#![forbid(unsafe_code)]

mod calls;
mod case;
mod edits;
mod frame;
mod generations;
mod kept;
mod kernel;
mod packets;
mod shadow;
mod switch;
mod worker;

use std::{env, fmt};

use anyhow::{Result, anyhow};
use bulkhead_worlds::{PACKETS, Packet, World, world};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, FileFailurePersistence, RngSeed, TestRunner},
};

use self::case::{Case, Look, look};

/// Any number: which worlds they are.
const SEED: u64 = 7;

fn config(worlds: u32) -> Config {
    let set = |name| env::var_os(name).is_some();
    let from_environment = Config::default();
    Config {
        cases: if set("PROPTEST_CASES") { from_environment.cases } else { worlds },
        rng_seed: if set("PROPTEST_RNG_SEED") { from_environment.rng_seed } else { RngSeed::Fixed(SEED) },
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        source_file: Some(file!()),
        max_shrink_iters: 500,
        max_shrink_time: 60_000,
        ..from_environment
    }
}

/// Holds this many worlds, each with all its packets at one time, to what `agrees` says.
fn hold(worlds: u32, agrees: impl Fn(&World, u64, &[Case]) -> Result<()>) -> Result<()> {
    let config = config(worlds);
    let seed = config.rng_seed;
    let agrees = |(world, Looks(looks)): (World, Looks)| {
        let now_ns = world.packets.first().map_or(0, |packet| packet.now_ns);
        let packets = world.packets.iter().map(|packet| Packet { now_ns, ..*packet });
        let cases: Vec<_> = packets.zip(&looks).map(|(packet, look)| Case::new(&packet, look)).collect();
        agrees(&world, now_ns, &cases).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    };
    TestRunner::new(config)
        .run(&(world(), vec(look(), PACKETS).prop_map(Looks)), agrees)
        .map_err(|error| anyhow!("with PROPTEST_RNG_SEED={seed}: {error}"))
}

/// Of one world's packets. A failure shows the one that matters.
struct Looks(Vec<Look>);

impl fmt::Debug for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets", self.0.len())
    }
}
