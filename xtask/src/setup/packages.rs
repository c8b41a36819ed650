//! The distribution's packages that Bulkhead is built and tested with.

/// A package of Debian and Ubuntu.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name there.
    pub(crate) name: &'static str,
    /// What shows that it, or another distribution's like of it, is installed.
    pub(crate) proof: Proof,
    /// What for.
    pub(crate) why: &'static str,
}

/// A trace of an installed package.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A program in `PATH` or in a system directory.
    Program(&'static str),
    /// A file.
    File(&'static str),
}

/// All of them. bpf-linker's and Debian's compiler's own are not here: they depend on the way taken.
pub(crate) const PACKAGES: [Package; 21] = [
    Package { name: "gcc", proof: Proof::Program("cc"), why: "links what rustc compiles" },
    Package { name: "g++", proof: Proof::Program("c++"), why: "compiles libFuzzer for the fuzz targets" },
    Package {
        name: "libc6-dev",
        proof: Proof::File("/usr/include/stdlib.h"),
        why: "the C library to link with",
    },
    Package {
        name: "ca-certificates",
        proof: Proof::File("/etc/ssl/certs/ca-certificates.crt"),
        why: "fetching crates over HTTPS",
    },
    Package { name: "iproute2", proof: Proof::Program("ip"), why: "network namespaces of tests and demo" },
    Package {
        name: "util-linux",
        proof: Proof::Program("nsenter"),
        why: "processes in namespaces of their own",
    },
    Package {
        name: "bpftool",
        proof: Proof::Program("bpftool"),
        why: "the tests ask another tool than ours what is attached",
    },
    Package { name: "git", proof: Proof::Program("git"), why: "a test puts a pull request to docs/ci.md" },
    Package { name: "openssh-client", proof: Proof::Program("ssh"), why: "a test logs in to be locked out" },
    Package {
        name: "python3-venv",
        proof: Proof::Program("python3"),
        why: "what holds the agent to its OpenAPI document",
    },
    Package { name: "curl", proof: Proof::Program("curl"), why: "the demo's client" },
    Package {
        name: "debootstrap",
        proof: Proof::Program("debootstrap"),
        why: "a system with a real systemd for the end-to-end tests",
    },
    Package { name: "dpkg", proof: Proof::Program("dpkg-deb"), why: "packs Bulkhead" },
    Package {
        name: "qemu-system-x86",
        proof: Proof::Program("qemu-system-x86_64"),
        why: "machines that boot other kernels",
    },
    Package { name: "busybox-static", proof: Proof::Program("busybox"), why: "the shell of those machines" },
    Package { name: "kmod", proof: Proof::Program("depmod"), why: "the modules of those kernels" },
    Package {
        name: "nftables",
        proof: Proof::Program("nft"),
        why: "what `cargo xtask bench datapath` compares with",
    },
    Package {
        name: "perl-base",
        proof: Proof::Program("perl"),
        why: "a test's caller that sets socket options of its own",
    },
    Package {
        name: "iperf3",
        proof: Proof::Program("iperf3"),
        why: "measures what a connection carries, also during an upgrade",
    },
    Package { name: "xz-utils", proof: Proof::Program("xz"), why: "unpacks those kernels" },
    Package { name: "zstd", proof: Proof::Program("zstd"), why: "unpacks those kernels" },
];
