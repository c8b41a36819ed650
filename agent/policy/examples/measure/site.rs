//! The policy of a large site, or of one of its hosts.

use std::{fmt::Write, io};

const ENVIRONMENTS: u64 = 20;

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    workloads: u64,
    rules: u64,
}

/// Pseudo-random numbers (Knuth's multiplier): the same site every time.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// One of 0 to `end`, `end` not included.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

impl Site {
    /// One busy host.
    const HOST: Self = Self { workloads: 100, rules: 2_000 };
    /// Many of them under one policy.
    const LARGE: Self = Self { workloads: 10_000, rules: 100_000 };

    pub(crate) fn named(name: &str) -> io::Result<Self> {
        match name {
            "host" => Ok(Self::HOST),
            "site" => Ok(Self::LARGE),
            other => Err(io::Error::other(format!("{other} is no site: host, site"))),
        }
    }

    /// Workloads in 20 environments, and rules between workloads or, three in ten, to an address range.
    pub(crate) fn policy(self) -> String {
        let numbers = &mut Numbers(1);
        let mut text = String::new();
        for e in 0..ENVIRONMENTS {
            let _ = writeln!(text, "[environment.e{e}]\ncidrs = [\"10.{e}.0.0/16\"]");
        }
        for w in 0..self.workloads {
            let environment = w % ENVIRONMENTS;
            let _ = writeln!(
                text,
                "[workload.w{w}]\nenvironment = \"e{environment}\"\nselect = {{ systemd = \"w{w}.service\" }}"
            );
        }
        for _ in 0..self.rules {
            let from = numbers.below(self.workloads);
            let to = if numbers.below(10) < 3 {
                format!("10.{}.{}.{}/28", numbers.below(256), numbers.below(256), numbers.below(16) * 16)
            } else {
                format!("w{}", numbers.below(self.workloads))
            };
            let port = numbers.below(60_000) + 1;
            let _ = writeln!(text, "[[allow]]\nfrom = \"w{from}\"\nto = \"{to}\"\nports = [\"tcp/{port}\"]");
        }
        text
    }
}
